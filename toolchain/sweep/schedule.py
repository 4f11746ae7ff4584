"""One queue and one budget over the sweeps of several projects.

Rule 1: whoever has begun the fewest trials is next, so that no project waits for another's end.
Rule 2: points are drawn, and results told, by one thread alone: samplers are not made for more.
Rule 3: an interrupt ends every running trial before it goes on, and what was cut short is told to
nobody: it is run again by the next call.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import field

from toolchain.errors import SweepError, ToolchainError
from toolchain.sweep.board import Board
from toolchain.sweep.budget import Budget
from toolchain.sweep.trial import COMPLETE, FAILED, Contestant, Ended, Trial
from toolchain.values import dataclass

_LOOK = 1.0  # seconds between two looks at what running trials have logged
_PATIENCE = 45.0  # seconds that interrupted trials have for their end


@dataclass(slots=True)
class _Entry:
    """A contestant and what it has done in this call."""

    contestant: Contestant
    begun: int = 0
    failures: int = 0
    is_over: bool = False
    error: ToolchainError | None = None


@dataclass(slots=True)
class _Running:
    entry: _Entry
    trial: Trial
    cancel: threading.Event = field(default_factory=threading.Event)


class Schedule:
    """Runs the sweeps of some projects to their end, `parallel` trials at once."""

    def __init__(self, contestants: Sequence[Contestant], *, parallel: int, budget: Budget | None,
                 board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = [_Entry(contestant) for contestant in contestants]
        self._parallel = parallel
        self._budget = budget
        self._board = board
        self._clock = clock
        self._started = clock()
        self._running: list[_Running] = []
        self._ended: queue.SimpleQueue[tuple[_Running, Ended | BaseException | None]] = (
            queue.SimpleQueue())
        self._given: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()

    def run(self) -> dict[str, ToolchainError]:
        """Why sweeps were ended early, by project. An interrupt goes on when all is ended."""
        workers = [threading.Thread(target=self._work, daemon=True)
                   for _ in range(self._parallel)]
        for worker in workers:
            worker.start()
        try:
            self._loop()
        except BaseException:
            self._end_all()
            raise
        finally:
            for _ in workers:
                self._given.put(None)
        return {entry.contestant.name: entry.error for entry in self._entries if entry.error}

    def _loop(self) -> None:
        looked = self._clock()
        while True:
            while len(self._running) < self._parallel and self._begin():
                pass
            if not self._running:
                return
            self._look_ahead()
            self._board.show()
            with contextlib.suppress(queue.Empty):
                self._take(*self._ended.get(timeout=_LOOK))
            if self._clock() - looked >= _LOOK:
                self._look()
                looked = self._clock()

    def _begin(self) -> bool:
        """Begin one more trial; False if there is none, or no budget for it."""
        while (entry := self._next_entry()) is not None:
            try:
                trial = entry.contestant.draw()
            except ToolchainError as error:
                trial, entry.error = None, error
            if trial is None:
                entry.is_over = True
                continue
            running = _Running(entry, trial)
            entry.begun += 1
            self._running.append(running)
            self._board.begin(entry.contestant.name, trial)
            self._given.put(running)
            return True
        return False

    def _look_ahead(self) -> None:
        """Draw while trials run what would else be drawn between them."""
        entry = self._next_entry()
        if entry is not None:
            # What is wrong is said when the trial is asked for.
            with contextlib.suppress(ToolchainError):
                entry.contestant.look_ahead()

    def _next_entry(self) -> _Entry | None:
        """Whose turn it is, of those that have something left to begin."""
        open_ones = [entry for entry in self._entries
                     if not entry.is_over and self._is_affordable(entry)]
        return min(open_ones, key=lambda entry: entry.begun, default=None)

    def _is_affordable(self, entry: _Entry) -> bool:
        """Whether another trial is within the budget of all, or else the project's own."""
        budget, payers = self._budget, self._entries
        if budget is None:
            budget, payers = entry.contestant.budget or Budget(), [entry]
        if budget.seconds is not None:
            return self._clock() - self._started < budget.seconds
        return budget.trials is None or sum(
            payer.contestant.before + payer.begun for payer in payers) < budget.trials

    def _work(self) -> None:
        while (running := self._given.get()) is not None:
            try:
                done: Ended | BaseException | None = running.entry.contestant.attempt(
                    running.trial, running.cancel)
            except BaseException as error:
                done = error
            self._ended.put((running, done))

    def _take(self, running: _Running, done: Ended | BaseException | None) -> None:
        self._running.remove(running)
        entry = running.entry
        name, number = entry.contestant.name, running.trial.number
        if isinstance(done, ToolchainError):
            # Not this trial's fault: the next one would end the same.
            entry.error, entry.is_over = entry.error or done, True
            self._board.drop(name, number)
        elif isinstance(done, BaseException):
            raise done
        elif done is None:
            self._board.drop(name, number)
        else:
            try:
                entry.contestant.settle(running.trial, done)
            except ToolchainError as error:  # its record says RUNNING: the next call settles it
                entry.error, entry.is_over = entry.error or error, True
            self._board.end(name, running.trial, done)
            if done.state == FAILED:
                self._count_failure(entry, done)

    def _count_failure(self, entry: _Entry, done: Ended) -> None:
        entry.failures += 1
        most = entry.contestant.max_failures
        if most is not None and entry.failures > most and not entry.is_over:
            entry.is_over = True
            entry.error = SweepError(
                f"{entry.failures} trials failed, and max_failures is {most}",
                where=f"{entry.contestant.name}, the last: {done.reason}",
                fix="mend what they say, then run the same command again; what is done is kept")

    def _look(self) -> None:
        for entry in self._entries:
            mine = {item.trial.number: item for item in self._running if item.entry is entry}
            # One look that fails ends nothing: there is another.
            with contextlib.suppress(ToolchainError):
                for number in entry.contestant.hopeless(tuple(mine)) if mine else ():
                    mine[number].cancel.set()

    def _end_all(self) -> None:
        for running in self._running:
            running.cancel.set()
        deadline = self._clock() + _PATIENCE
        while self._running and self._clock() < deadline:
            try:
                running, done = self._ended.get(timeout=_LOOK)
            except queue.Empty:
                continue
            self._running.remove(running)
            # What was finished at that very moment counts.
            if isinstance(done, Ended) and done.state == COMPLETE:
                with contextlib.suppress(ToolchainError):
                    running.entry.contestant.settle(running.trial, done)

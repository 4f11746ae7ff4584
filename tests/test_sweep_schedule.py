"""One queue over several sweeps: fair, within its budget, and nothing is left running."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from toolchain.errors import TrackingError
from toolchain.sweep import Metric
from toolchain.sweep.board import Board, Score
from toolchain.sweep.budget import Budget
from toolchain.sweep.schedule import Schedule
from toolchain.sweep.trial import COMPLETE, FAILED, PRUNED, Ended, Trial


class Memory:
    """A contestant without a store; its trials do what `work` says."""

    def __init__(self, name: str, count: int, log: list[str], max_failures: int | None = None,
                 before: int = 0, budget: Budget | None = None) -> None:
        self.name, self.max_failures, self.before = name, max_failures, before
        self.budget = budget
        self.log = log
        self.settled: list[Ended] = []
        self.cancelled: list[int] = []
        self.lost: set[int] = set()
        self._left = iter(range(count))

    def draw(self) -> Trial | None:
        number = next(self._left, None)
        return None if number is None else Trial(number=number, params={"x": str(number)})

    def look_ahead(self) -> None:
        pass

    def attempt(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        self.log.append(self.name)
        return self.work(trial, cancel)

    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        time.sleep(0.005)
        return Ended(state=COMPLETE, value=float(trial.number), run_id="r")

    def settle(self, trial: Trial, ended: Ended) -> None:
        self.settled.append(ended)

    def hopeless(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number in self.lost]


class Waiting(Memory):
    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        assert cancel.wait(20)
        self.cancelled.append(trial.number)
        return Ended(state=PRUNED) if trial.number in self.lost else None


class Failing(Memory):
    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        return Ended(state=FAILED, reason="exited with status 3", run_id="r")


class Unreachable(Memory):
    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        raise TrackingError("the tracking server is gone")


class Unrecorded(Memory):
    """Its study cannot be reached when a trial has ended."""

    def settle(self, trial: Trial, ended: Ended) -> None:
        raise TrackingError("the record of trials is gone")


class Unseen(Memory):
    """What its trials have logged cannot be read while they run."""

    def hopeless(self, numbers: Sequence[int]) -> list[int]:
        self.log.append("looked")
        raise TrackingError("the tracking server is gone for a moment")

    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        assert not cancel.wait(1.5)
        return Ended(state=COMPLETE, value=1.0, run_id="r")


class Broken(Memory):
    def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        raise ValueError("a bug of ours")


def schedule(contestants: Sequence[Memory], parallel: int = 1, budget: Budget | None = None
             ) -> tuple[Schedule, Board]:
    board = Board(lambda text: None, parallel)
    board.scores = {item.name: Score(metric=Metric(name="loss"), most=None)
                    for item in contestants}
    return Schedule(contestants, parallel=parallel, budget=budget, board=board), board


def test_projects_take_turns() -> None:
    log: list[str] = []
    several = [Memory(name, count, log) for name, count in (("a", 10), ("b", 10), ("c", 2))]
    plan, board = schedule(several)
    assert plan.run() == {}
    assert log[:9] == ["a", "b", "c", "a", "b", "c", "a", "b", "a"]
    assert Counter(log) == {"a": 10, "b": 10, "c": 2}
    assert (board.scores["a"].done, board.scores["a"].best) == (10, 0.0)
    assert board.rows()[-1][2] == "complete"


def test_no_more_than_parallel_run_at_once() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    class Counting(Memory):
        def work(self, trial: Trial, cancel: threading.Event) -> Ended | None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
            return Ended(state=COMPLETE, value=0.0)

    plan, _ = schedule([Counting("a", 30, []), Counting("b", 30, [])], parallel=4)
    plan.run()
    assert most == 4


def test_a_budget_counts_what_earlier_calls_did() -> None:
    log: list[str] = []
    plan, _ = schedule([Memory("a", 50, log, before=3), Memory("b", 50, log)],
                       budget=Budget(trials=10))
    plan.run()
    assert len(log) == 7


def test_without_a_budget_for_all_each_project_keeps_its_own() -> None:
    """One that is over does not end the others, and one without one does not lift another's."""
    log: list[str] = []
    plan, _ = schedule([Memory("few", 10_000, log, before=1, budget=Budget(trials=4)),
                        Memory("short", 10_000, log, budget=Budget(seconds=0.2)),
                        Memory("all", 60, log)])
    plan.run()
    assert Counter(log)["few"] == 3
    assert Counter(log)["all"] == 60
    assert 1 < Counter(log)["short"] < 200


def test_the_calls_budget_stands_over_those_of_the_files() -> None:
    log: list[str] = []
    plan, _ = schedule([Memory("a", 50, log, budget=Budget(trials=1)), Memory("b", 50, log)],
                       budget=Budget(trials=10))
    plan.run()
    assert Counter(log) == {"a": 5, "b": 5}


def test_a_budget_of_time_begins_nothing_after_its_end() -> None:
    log: list[str] = []
    plan, _ = schedule([Memory("a", 10_000, log)], budget=Budget(seconds=0.2))
    plan.run()
    assert 1 < len(log) < 200


def test_failures_stop_a_sweep_only_beyond_its_limit() -> None:
    log: list[str] = []
    plan, _ = schedule([Failing("a", 9, log, max_failures=2), Memory("b", 9, log),
                        Failing("c", 9, log)])
    errors = plan.run()
    assert Counter(log) == {"a": 3, "b": 9, "c": 9}
    assert str(errors["a"]).startswith("3 trials failed, and max_failures is 2")
    assert "exited with status 3" in errors["a"].where
    assert set(errors) == {"a"}


def test_what_concerns_a_whole_sweep_ends_that_one_alone() -> None:
    log: list[str] = []
    lost = Unreachable("a", 9, log)
    plan, _ = schedule([lost, Memory("b", 9, log)])
    assert "the tracking server is gone" in str(plan.run()["a"])
    assert Counter(log) == {"a": 1, "b": 9}
    assert lost.settled == []  # it is run again


def test_a_trial_without_hope_is_cancelled() -> None:
    waiting = Waiting("a", 1, [])
    waiting.lost.add(0)
    plan, board = schedule([waiting])
    plan.run()
    assert [ended.state for ended in waiting.settled] == [PRUNED]
    assert board.scores["a"].counts[PRUNED] == 1


def test_a_bug_ends_what_runs_and_is_seen() -> None:
    waiting = Waiting("a", 1, [])
    plan, _ = schedule([waiting, Broken("b", 1, [])], parallel=2)
    with pytest.raises(ValueError, match="a bug of ours"):
        plan.run()
    assert waiting.cancelled == [0]
    assert waiting.settled == []


def test_a_record_that_is_gone_ends_the_sweep_of_its_project() -> None:
    log: list[str] = []
    plan, _ = schedule([Unrecorded("a", 9, log), Memory("b", 9, log)])
    errors = plan.run()
    assert Counter(log) == {"a": 1, "b": 9}
    assert str(errors["a"]) == "the record of trials is gone"
    assert set(errors) == {"a"}


def test_a_look_that_fails_ends_no_trial() -> None:
    log: list[str] = []
    one = Unseen("a", 1, log)
    plan, _ = schedule([one])
    assert plan.run() == {}
    assert "looked" in log
    assert [ended.state for ended in one.settled] == [COMPLETE]

"""What a person sees of a sweep: a line when a trial ends, and a table of those that run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import field
from statistics import median

from toolchain.sweep import Metric
from toolchain.sweep.trial import COMPLETE, FAILED, PRUNED, Ended, Trial
from toolchain.values import dataclass

_WORDS = {COMPLETE: "complete", PRUNED: "pruned", FAILED: "failed"}
_SHOWN = 8  # ended trials in the live table
HEADER = ("project", "trial", "state", "parameters", "metric", "elapsed")


@dataclass(slots=True)
class Score:
    """One project: how many trials it has, of how many, and the best."""

    metric: Metric
    most: int | None
    done: int = 0
    best: float | None = None
    best_number: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_WORDS, 0))
    reused: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def add(self, number: int, ended: Ended) -> None:
        self.counts[ended.state] += 1
        self.reused += ended.is_reused
        self.done += ended.state != FAILED
        if ended.state == COMPLETE and ended.value is not None:
            self.see(number, ended.value)

    def see(self, number: int, value: float) -> None:
        if self.best is None or self.metric.is_better(value, self.best):
            self.best, self.best_number = value, number


class Board:
    """Counts and rows; `emit` writes a line, `on_show` redraws the live table."""

    def __init__(self, emit: Callable[[str], None], parallel: int = 1,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self.on_show: Callable[[], None] = lambda: None
        self._parallel = parallel
        self._clock = clock
        self.scores: dict[str, Score] = {}
        self._running: dict[tuple[str, int], tuple[Trial, float]] = {}
        self._ended: deque[tuple[str, ...]] = deque(maxlen=_SHOWN)

    def show(self) -> None:
        self.on_show()

    def begin(self, name: str, trial: Trial) -> None:
        self._running[name, trial.number] = (trial, self._clock())

    def drop(self, name: str, number: int) -> None:
        self._running.pop((name, number), None)

    def end(self, name: str, trial: Trial, ended: Ended) -> None:
        _, began = self._running.pop((name, trial.number))
        seconds, score = self._clock() - began, self.scores[name]
        score.add(trial.number, ended)
        if not ended.is_reused:
            score.seconds.append(seconds)
        state = "reused" if ended.is_reused else _WORDS[ended.state]
        value = _number(ended.value)
        self._ended.append((name, str(trial.number), state, words(trial), value, _time(seconds)))
        most = f" of {score.most}" if score.most is not None else ""
        parts = [f"sweep {name}", f"trial {trial.number}{most and f' ({score.done}{most})'}", state,
                 words(trial), f"{score.metric.name}={value}" if value else ended.reason]
        if score.best is not None and ended.state == COMPLETE:
            parts.append(f"best {_number(score.best)} (trial {score.best_number})")
        self._emit("  ".join((*filter(None, parts), f"{seconds:.1f} s")))

    def rows(self) -> list[tuple[str, ...]]:
        """The live table: what ended last, then what runs."""
        now = self._clock()
        return [*self._ended, *(
            (name, str(number), "running", words(trial), "", _time(now - began))
            for (name, number), (trial, began) in sorted(self._running.items()))]

    def caption(self) -> str:
        """How far each project is: `elasticnet 3 of 20, best rmse=56.1 (trial 2), 40 s left`."""
        return "\n".join(self._far(name) for name in self.scores)

    def _far(self, name: str) -> str:
        score = self.scores[name]
        parts = [f"{name} {score.done}" + (f" of {score.most}" if score.most is not None else "")]
        if score.best is not None:
            parts.append(f"best {score.metric.name}={_number(score.best)} "
                         f"(trial {score.best_number})")
        if score.seconds and score.most is not None and score.most > score.done:
            # Projects that still have something to do share what runs at once.
            others = sum(other.most is None or other.done < other.most
                         for other in self.scores.values())
            left = median(score.seconds) * (score.most - score.done) * others / self._parallel
            parts.append(f"about {_time(left)} left")
        return ", ".join(parts)

    def summary(self) -> list[tuple[str, ...]]:
        """A table with a header: one row for each project."""
        rows: list[tuple[str, ...]] = [
            ("project", "trials", "complete", "pruned", "failed", "reused", "best", "by trial")]
        for name, score in self.scores.items():
            best = f"{score.metric.name}={_number(score.best)}" if score.best is not None else "-"
            rows.append((name, str(score.done), *(str(score.counts[state]) for state in _WORDS),
                         str(score.reused), best,
                         "-" if score.best_number is None else str(score.best_number)))
        return rows


def words(trial: Trial) -> str:
    return " ".join(f"{name}={text}" for name, text in trial.params.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"

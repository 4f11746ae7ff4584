"""A study's record -> the trial that comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from toolchain.sweep import Sweep
from toolchain.sweep.board import Score, words
from toolchain.sweep.trial import COMPLETE, FAILED, PRUNED, RUNNING, Past, Study, Trial


class Draws:
    """What one call draws from a study: what was cut short, then given points, then the sampler's.

    score: of all trials on record; before: how many of them earlier calls have settled.
    """

    def __init__(self, study: Study, sweep: Sweep) -> None:
        self._study = study
        self._sweep = sweep
        self.score = Score(metric=sweep.metric, most=sweep.most)
        past = study.past()
        # Where other machines draw too, one that says RUNNING may be theirs: see _see_others.
        self._cut_short = deque(() if study.is_shared else (
            item.number for item in past if item.state == RUNNING))
        self._failed = {item.number for item in past if item.state == FAILED}
        self._mine: set[int] = set()  # begun by this call
        self.count(past)
        self.before = self._begun = self.score.done
        self._known = {_point(item.params) for item in past if item.state != FAILED}
        if sweep.method == "grid":
            points = sweep.space.grid()
        else:
            # A point that failed is tried again by the next call, in place of another.
            points = iter({_point(item.params): dict(item.params) for item in past
                           if item.state == FAILED}.values())
        self._points = (point for point in points if _point(point) not in self._known)
        self._is_sampling = False  # no other point is left

    @property
    def is_over(self) -> bool:
        """Whether one trial was good enough for no more to be begun."""
        return self._sweep.metric.is_reached(self.score.best)

    def next(self) -> Trial | None:
        """The next trial, on record; None if all that were asked for are begun."""
        with self._study.alone():
            trial = self._next()
        if trial is not None:
            self._begun += 1
            self._mine.add(trial.number)
        return trial

    def reserve(self) -> None:
        """Have the next trial on record, if its point will be the sampler's to draw."""
        if (self._is_sampling and not self.is_over and not self._study.is_shared
                and (self._sweep.most is None or self._begun < self._sweep.most)):
            self._study.reserve()

    def count(self, past: Sequence[Past]) -> None:
        """Take the score from the record."""
        done = [item for item in past if item.state in (COMPLETE, PRUNED)]
        self.score.done = len(done)
        for state in (COMPLETE, PRUNED):
            self.score.counts[state] = sum(item.state == state for item in done)
        self._see_best(past)

    def _see_best(self, past: Sequence[Past]) -> None:
        for item in past:
            if item.state == COMPLETE and item.value is not None:
                self.score.see(item.number, item.value)

    def _next(self) -> Trial | None:
        left = self._see_others() if self._study.is_shared else ()
        if self.is_over:
            return None
        if self._sweep.most is None or self._begun < self._sweep.most:
            if self._cut_short:
                return self._study.resume(self._cut_short.popleft())
            point = next(self._points, None)
            if point is not None:
                return self._study.add(point)
            if self._sweep.method != "grid":
                self._is_sampling = True
                return self._study.draw()
        return self._study.resume(left[0]) if left else None

    def _see_others(self) -> Sequence[int]:
        """What other machines have begun counts as begun; what of it they may have left behind,
        which is taken up after all else: whoever is alive is waited for, by the training's key."""
        past = self._study.past()
        self._see_best(past)
        self._begun = sum(item.number not in self._failed for item in past)
        self._known = {_point(item.params) for item in past if item.state != FAILED}
        running = [item.number for item in past if item.state == RUNNING]
        left = [number for number in running if number not in self._mine]
        most = self._sweep.most
        return left if most is None else left[:max(0, most - (self._begun - len(left)))]


def _point(params: Mapping[str, str]) -> str:
    return words(Trial(number=0, params=dict(sorted(params.items()))))

"""sweep.yaml -> many runs of one project, and the best of them.

A trial is a training key with a number: what has a finished run is not trained again. Who draws
parameters and who keeps records are Protocols (toolchain.sweep.trial); the order in which trials
of several projects run is decided by toolchain.sweep.schedule.
"""

from __future__ import annotations

from typing import Any

from toolchain.digest import Digest
from toolchain.layer.project import SWEEP_NAME
from toolchain.sweep.budget import Budget
from toolchain.sweep.space import Space
from toolchain.values import dataclass

FILE = SWEEP_NAME
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is compared. goal: `minimize` or `maximize`; target: a value that is good enough."""

    name: str
    goal: str = "minimize"
    target: float | None = None

    def is_better(self, value: float, than: float) -> bool:
        return value < than if self.goal == "minimize" else value > than

    def is_reached(self, value: float | None) -> bool:
        """Whether that is good enough for no more trials to be begun."""
        return value is not None and self.target is not None and (
            value == self.target or self.is_better(value, self.target))


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """When a trial is ended before its time, by the metrics that it logs.

    type: `hyperband` (iterations `low` to `high`, zero is found out; `eta`), or `median` (after
    `startup` trials, from iteration `low` on).
    """

    type: str
    low: int = 0
    high: int = 0
    eta: int = 3
    startup: int = 5

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, "low": self.low, "high": self.high, "eta": self.eta,
                "startup": self.startup}

    @property
    def words(self) -> str:
        """On record with a trial that it has ended: `type=median startup=2 …`."""
        return " ".join(f"{name}={value}" for name, value in self.to_json().items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What sweep.yaml and the command line ask for. trials, max_failures: none is no limit."""

    path: str
    method: str
    metric: Metric
    space: Space
    early: Early | None = None
    trials: int | None = None
    parallel: int = 1
    engine: str = ""
    budget: Budget | None = None
    max_failures: int | None = None
    entry_point: str = ""
    seed: int | None = None
    notes: tuple[str, ...] = ()  # what a person should know of the file

    @property
    def most(self) -> int | None:
        """How many trials there are to be in all; None where only a budget says."""
        if self.method != "grid":
            return self.trials
        size = self.space.size
        return size if self.trials is None else min(size, self.trials)

    @property
    def study(self) -> str:
        """What decides which points are drawn: two sweeps that differ in it share no study."""
        return Digest.of_json({
            "schema": _SCHEMA, "method": self.method, "space": self.space.to_json(),
            "early": self.early.to_json() if self.early else None, "seed": self.seed}).hex[:8]


def identity(plan: dict[str, Any], metric: Metric) -> str:
    """What trials that can be compared have in common. `plan` is a training's plan without the
    parameters that the sweep varies: the image is in it."""
    return Digest.of_json({"schema": _SCHEMA, "run": plan, "metric": metric.name,
                           "goal": metric.goal}).hex[:16]

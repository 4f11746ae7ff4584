"""A point of the space with a number, how it ended, and who draws points and keeps records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from pathlib import Path
from typing import Protocol

from toolchain.digest import Digest
from toolchain.run import Run, Started, TakesOver
from toolchain.sweep import Metric, Sweep
from toolchain.sweep.budget import Budget
from toolchain.values import dataclass

COMPLETE, PRUNED, FAILED, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"  # as Optuna has them

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "toolchain.sweep"  # of a parent: what its trials have in common
STATE_TAG = "optuna.state"
PARAM_TAG = "optuna.param."  # and a name: the value that the sweep has given
EARLY_TAG = "toolchain.sweep.early"  # of a trial that was pruned: the rule that has ended it


def member_tag(identity: str) -> str:
    """The tag of every run that is a trial of that sweep, whatever other sweep it is of."""
    return f"{SWEEP_TAG}.{identity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be run. `tags` are what the sampler wants on record with it."""

    number: int
    params: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a trial ended. is_reused: its run was there already. `history`: the metric as it was
    logged, step and value."""

    state: str
    value: float | None = None
    run_id: str = ""
    reason: str = ""
    is_reused: bool = False
    history: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A trial on record in a study."""

    number: int
    params: Mapping[str, str]
    state: str
    value: float | None = None


class Study(Protocol):
    """What draws points and learns from how they ended; on record, shared by processes."""

    @property
    def is_shared(self) -> bool:
        """Whether other machines may draw from it at the same time."""

    def alone(self) -> AbstractContextManager[None]:
        """While the block runs no other process is in such a block of the same study."""

    def past(self) -> Sequence[Past]:
        """Every trial on record. One that says RUNNING was cut short, if nobody else runs."""

    def resume(self, number: int) -> Trial:
        """A trial that was cut short, to be run again as it is."""

    def reserve(self) -> None:
        """Put the trial of the next `draw` on record, without its point, which is drawn from all
        that is known by then. If it is never drawn it was cut short."""

    def draw(self) -> Trial:
        """The sampler's next point."""

    def add(self, params: Mapping[str, str]) -> Trial:
        """A point of the caller's."""

    def is_hopeless(self, number: int, history: Sequence[tuple[int, float]]) -> bool:
        """Whether the pruner would end the trial, from what it has logged until now."""

    def settle(self, number: int, ended: Ended) -> None:
        """Put on record how the trial ended. Twice is as once."""

    def plots(self, folder: Path, metric: str) -> Sequence[Path]:
        """Pictures of the study as files in `folder`; as many as its trials are enough for."""


class Studies(Protocol):
    """Where studies are. Raises SweepError where it cannot be reached or used."""

    def open(self, name: str, sweep: Sweep) -> Study:
        """The study of that name, begun if it is not there."""

    def renew(self, name: str, sweep: Sweep) -> Study:
        """The study of that name without any trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The run that a sweep's trials are nested in. `tags`: what they all have, besides."""

    run_id: str
    experiment_id: str
    experiment: str = ""
    project: str = ""
    folder: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finished run and what it has logged; text is a metric that is no finite number."""

    run_id: str
    metrics: Mapping[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run that is a trial of a sweep: its training key, and whether it was pruned, by which
    rule."""

    run_id: str
    key: str
    is_pruned: bool
    early: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A sweep's best finished trial. `params`: what the sweep has given to it; its script may have
    logged other values by the same names."""

    run: Run
    params: Mapping[str, str]


class Records(TakesOver, Protocol):
    """A sweep in an MLflow tracking store. Every method raises TrackingError."""

    def begin(self, experiment: str, name: str, identity: str, tags: Mapping[str, str],
              folder: str) -> Parent:
        """The sweep's parent run, running; made if it is not there. Trials whose process is gone
        are marked FAILED."""

    def members(self, identity: str) -> Sequence[Member]:
        """The sweep's trials that are finished or were pruned."""

    def find(self, key: Digest) -> Found | None:
        """The newest finished run of a training key, whoever made it."""

    def start(self, parent: Parent, key: Digest, tags: Mapping[str, str],
              waiting: Callable[[str], None], cancel: threading.Event) -> Started | Found:
        """Begin a trial's run; or wait for another process that makes one of the same key, of
        which `waiting` is told. Raises Cancelled if `cancel` is set while it waits."""

    def finish(self, started: Started, status: str, params: Mapping[str, str],
               tags: Mapping[str, str], *, reusable: bool = True) -> Found:
        """End a trial's run, with those params that it has not itself logged; what it has. One
        that is not reusable stands for no key afterwards."""

    def histories(self, run_ids: Sequence[str], metric: str
                  ) -> Mapping[str, Sequence[tuple[int, float]]]:
        """What runs have logged of a metric until now, in order. Steps that do not grow are
        replaced by a count."""

    def mark(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""

    def keep(self, run_id: str, files: Sequence[Path], folder: str = "") -> None:
        """Add files to a run's artifacts."""

    def end(self, parent: Parent, status: str, tags: Mapping[str, str],
            metrics: Mapping[str, float]) -> None:
        """End the parent run, as FINISHED, FAILED or KILLED."""

    def best(self, identity: str, metric: Metric) -> Winner | None:
        """The best of the sweep's finished trials, by what is on record."""


class Contestant(Protocol):
    """One project's sweep, as the schedule sees it. `attempt` is called by threads of their own,
    everything else by the schedule's."""

    @property
    def name(self) -> str: ...

    @property
    def max_failures(self) -> int | None: ...

    @property
    def budget(self) -> Budget | None:
        """What the project's own file allows; it holds where the call names none for all."""

    @property
    def before(self) -> int:
        """How many trials earlier calls have settled."""

    def draw(self) -> Trial | None:
        """The next trial; None if all that were asked for are begun."""

    def look_ahead(self) -> None:
        """Have of the next trial ready what does not depend on how those that run will end."""

    def attempt(self, trial: Trial, cancel: threading.Event) -> Ended | None:
        """Run it, or find its run. Ends early when `cancel` is set; None if it came to nothing.
        Raises ToolchainError for what concerns the whole sweep."""

    def settle(self, trial: Trial, ended: Ended) -> None: ...

    def hopeless(self, numbers: Sequence[int]) -> Sequence[int]:
        """Those of the running trials that are to be ended."""

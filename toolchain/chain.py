"""One project in one call: what the stages of a project share while they are planned and made.

A stage's plan may need the values of earlier stages. They are taken from the record; if one is
not there, the stage cannot be planned yet (`NotYet`). Nothing here is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolchain.digest import Digest
from toolchain.journal import Journal
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.tree import Tree
from toolchain.workspace import Project, Workspace

if TYPE_CHECKING:
    from toolchain.config import Config
    from toolchain.layer import Compiler, DebSource, WheelSource
    from toolchain.lock import Resolver
    from toolchain.lock.base import Archive, BasePins
    from toolchain.model import Models
    from toolchain.push import Registry
    from toolchain.run import Engine, Tracker

    class Tracking(Tracker, Models, Protocol):
        """An MLflow server is both."""


class NotYet(Exception):
    """A stage cannot be planned before an earlier one is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage made: its value as JSON and a few words for people."""

    value: Any
    words: str


class Tools(Protocol):
    """The adapters, made when they are first asked for."""

    def resolver(self) -> Resolver: ...
    def archive(self) -> Archive: ...
    def debs(self) -> DebSource: ...
    def wheels(self) -> WheelSource: ...
    def platform(self) -> str: ...
    def compiler(self, identity: str, pins: BasePins, python: str) -> Compiler: ...
    def registry(self, config: Config) -> Registry: ...
    def registry_name(self, config: Config) -> str: ...
    def engine(self, config: Config) -> Engine: ...
    def tracking(self, config: Config) -> Tracking: ...
    def tracking_identity(self, config: Config) -> str: ...
    def experiment(self, config: Config) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What all projects of one call share."""

    workspace: Workspace
    journal: Journal
    store: Store
    trace: Trace
    tools: Tools
    progress: Callable[[str], Any]  # a context manager that shows progress under a title
    say: Callable[[str], None]
    pinned: set[Digest] = field(default_factory=set)  # suites that upgrade=1 moved in this call


class Chain:
    """One project in one call."""

    def __init__(self, session: Session, project: Project, config: Config) -> None:
        self.session = session
        self.project = project
        self.config = config
        self._known: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.project.name

    @property
    def root(self) -> Path:
        return self.session.workspace.root

    @property
    def folder(self) -> Path:
        return self.root / self.project.folder

    @cached_property
    def tree(self) -> Tree:
        """The project's files, looked at once in a call."""
        return Tree(self.folder, self.session.journal)

    def value(self, stage: str, plan: Callable[[Chain], Any]) -> Any:
        """The stage's value on record for its present plan. Raises NotYet."""
        if stage not in self._known:
            value = self.session.trace.get(stage, Digest.of_json(plan(self)))
            if value is None:
                raise NotYet(stage)
            self._known[stage] = value
        return self._known[stage]

    def forget(self) -> None:
        """Something was made: values may have changed."""
        self._known.clear()

    def waiting(self) -> None:
        """Say that another process holds what is wanted here."""
        self.session.say(f"{self.name}: another process makes the same; waiting for it")

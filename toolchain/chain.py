"""One project in one call: what the stages of a project share while they are planned and made.

A stage's plan may need the values of earlier stages. They are taken from the record; if one is
not there, the stage cannot be planned yet (`NotYet`). Nothing here is slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from toolchain.digest import Digest
from toolchain.journal import Journal
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.tree import Tree
from toolchain.values import dataclass
from toolchain.workspace import Project, Workspace

if TYPE_CHECKING:
    from toolchain.attest import Source
    from toolchain.config import Config
    from toolchain.layer import Compiler, DebSource, WheelSource
    from toolchain.layer.conda import CondaSource
    from toolchain.lease import Lease
    from toolchain.load import ImageEngine
    from toolchain.lock import Resolver, Sources
    from toolchain.lock.base import Archive, BasePins
    from toolchain.lock.conda import CondaSolver
    from toolchain.lock.image import ImagePins, Images
    from toolchain.model import Models
    from toolchain.prune import Prunable
    from toolchain.push import BlobSource, Registry
    from toolchain.run import Engine, Remote, Tracker
    from toolchain.sweep.trial import Records, Studies

    class Conda(CondaSolver, CondaSource, Protocol):
        """What chooses conda packages fetches them too."""

    class Tracking(Tracker, Models, Protocol):
        """An MLflow server is both."""


_Found = TypeVar("_Found")


def once(find: Callable[[Chain], _Found]) -> Callable[[Chain], _Found]:
    """Of what follows from values on record and the project's files: found once for a chain, until
    something is made. Whoever gets it does not change it."""
    @wraps(find)
    def found(chain: Chain) -> _Found:
        known = chain.found
        if find not in known:
            known[find] = find(chain)
        return cast(_Found, known[find])

    return found


def part_name(stage: str, platform: str) -> str:
    """What a stage is on record as for one of a project's platforms."""
    return f"{stage} {platform}"


class NotYet(Exception):
    """A stage cannot be planned before an earlier one is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage made: its value as JSON and a few words for people."""

    value: Any
    words: str


class Stage(Protocol):
    """What a module of toolchain.stages is, for a project as a whole."""

    NAME: str

    def plan(self, chain: Chain, /) -> Any: ...
    def stands(self, chain: Chain, value: Any, /) -> bool: ...
    def make(self, chain: Chain, /) -> Made: ...


class Tools(Protocol):
    """The adapters, made when they are first asked for."""

    def resolver(self) -> Resolver: ...
    def sources(self) -> Sources: ...
    def archive(self) -> Archive: ...
    def images(self, config: Config) -> Images: ...
    def base_source(self, pins: ImagePins, config: Config) -> BlobSource: ...
    def debs(self) -> DebSource: ...
    def wheels(self) -> WheelSource: ...
    def conda(self, config: Config) -> Conda: ...
    def cuda(self, config: Config) -> str: ...
    def compiler(self, identity: str, what: BasePins | str, python: str) -> Compiler: ...
    def has_python(self, version: str) -> bool: ...
    def registry(self, config: Config) -> Registry: ...
    def registry_name(self, config: Config) -> str: ...
    def layouts(self) -> Iterator[Prunable]: ...
    def engine(self, config: Config) -> Engine: ...
    def image_engine(self) -> ImageEngine: ...
    def tracking(self, config: Config) -> Tracking: ...
    def remote(self, config: Config) -> Remote: ...
    def processors(self) -> float: ...
    def studies(self, config: Config) -> Studies: ...
    def records(self, config: Config) -> Records: ...
    def tracking_identity(self, config: Config) -> str: ...
    def experiment(self, config: Config) -> str: ...

    def source(self, folder: Path, files: Iterable[str]) -> Source:
        """Where the project in `folder` comes from; `files` in it are those that count."""


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
    host: str  # this machine's platform, as OCI names it
    lease: Lease
    pinned: set[Digest] = field(default_factory=set)  # suites that upgrade=1 moved in this call


class Chain:
    """One project in one call."""

    def __init__(self, session: Session, project: Project, config: Config,
                 whole: Chain | None = None) -> None:
        self.session = session
        self.project = project
        self.config = config
        self._known: dict[str, Any] = {}
        self.found: dict[Callable[[Chain], Any], Any] = {}  # see `once`
        self._whole = whole or self
        self._parts: dict[str, Chain] = {}

    @property
    def name(self) -> str:
        return self.project.name

    @property
    def root(self) -> Path:
        return self.session.workspace.root

    @property
    def folder(self) -> Path:
        return self.root / self.project.folder

    @property
    def boundary(self) -> Path:
        """What the project reads must be below this: the workspace, or its own repository."""
        return self.root / self.project.root

    @cached_property
    def tree(self) -> Tree:
        """The project's files, looked at once in a call."""
        if self._whole is not self:
            return self._whole.tree
        return Tree(self.folder, self.session.journal)

    @property
    def platforms(self) -> tuple[str, ...]:
        """What the image is built for, the first of them first."""
        return tuple(self.config.image_platform.split(","))

    @property
    def is_first(self) -> bool:
        """Whether this is the project as a whole, or its first platform."""
        return self.config.image_platform == self._whole.platforms[0]

    def on(self, platform: str) -> Chain:
        """The same project for one of its platforms."""
        if self.platforms == (platform,):
            return self
        if platform not in self._parts:
            config = dataclasses.replace(self.config, image_platform=platform)
            self._parts[platform] = Chain(self.session, self.project, config, self)
        return self._parts[platform]

    @property
    def here(self) -> Chain:
        """The project for the platform that this machine can run, else for its first."""
        host = self.session.host
        return self.on(host if host in self.platforms else self.platforms[0])

    def value(self, stage: str, plan: Callable[[Chain], Any]) -> Any:
        """The stage's value on record for its present plan. Raises NotYet."""
        if stage not in self._known:
            value = self.session.trace.get(stage, Digest.of_json(plan(self)))
            if value is None:
                raise NotYet(stage)
            self._known[stage] = value
        return self._known[stage]

    def value_before(self, stage: str) -> Any | None:
        """The stage's value that this project, or this platform of it, had last."""
        name = stage
        if self._whole is not self:
            name = part_name(stage, self.config.image_platform)
        key = self.session.trace.current(self.name, name)
        return None if key is None else self.session.trace.get(stage, key)

    def bring(self, stage: Stage) -> tuple[Any, Digest, str]:
        """The stage's value, its key and a few words: taken from the record if it is still good,
        else made. Whoever wants the same key waits here."""
        trace = self.session.trace
        key = Digest.of_json(stage.plan(self))

        def waiting(who: str) -> None:
            self.session.say(f"{stage.NAME} {self.name}: {who} does the same; waiting")

        with trace.holding(stage.NAME, key, waiting):
            # Whoever held the key before may have changed what this stage reads:
            # requirements.lock.
            self.forget()
            key = Digest.of_json(stage.plan(self))
            value = trace.get(stage.NAME, key)
            if value is not None and stage.stands(self, value):
                words = "reused"
            else:
                made = stage.make(self)
                value, words = made.value, made.words
                self.forget()
                plan = stage.plan(self)  # again, for the same reason
                key = Digest.of_json(plan)
                # Another process may have begun at an earlier state of those files and come here
                # first.
                if trace.get(stage.NAME, key) != value:
                    trace.record(stage.NAME, key, plan, value, project=self.name)
        self.forget()
        if self._whole is not self:
            trace.set_current(self.name, part_name(stage.NAME, self.config.image_platform), key)
        return value, key, words

    def forget(self) -> None:
        """Something was made: values may have changed."""
        self._known.clear()
        self.found.clear()
        for part in self._parts.values():
            part.forget()

    def waiting(self, who: str) -> None:
        """Say that another process holds what is wanted here."""
        self.session.say(f"{self.name}: {who} makes the same; waiting for it")

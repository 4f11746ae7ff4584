"""Stage table -> doit tasks. A monorepo's dodo.py is `from toolchain.tasks import *`.

Only this package imports doit and the adapters. Tasks are made for the projects that were asked
for, by `project=a,b` or `stage:name`; without either, for all.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from doit import doit_cmd
from doit.exceptions import InvalidDodoFile, TaskFailed

from toolchain import pipeline, report
from toolchain.chain import Chain, Shop
from toolchain.digest import Digest
from toolchain.errors import ConfigError, ToolchainError, nearest
from toolchain.fresh import Shortcut, settings_key
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.tasks.reporter import StageReporter
from toolchain.tasks.wiring import Adapters
from toolchain.trace import Trace
from toolchain.workspace import Project, Workspace, select

__all__ = [
    "DOIT_CONFIG", "task_base", "task_explain", "task_layer", "task_parse", "task_push",
    "task_register", "task_resolve", "task_train",
]

# Commands of doit that look at tasks without asking whether they are up to date.
_LOOKING = frozenset({"list", "info", "clean", "forget", "help", "ignore", "tabcompletion",
                      "dumpdb", "reset-dep"})
_ORDER = tuple(pipeline.STAGES)


class Call:
    """One call of doit in one workspace."""

    def __init__(self, root: Path) -> None:
        given = dict(vars(doit_cmd).get("_CMDLINE_VARS") or {})
        self._names: str | None = given.pop("project", None)
        _check_names(given)
        self.workspace = Workspace.open(root, given)
        cache = self.workspace.cache
        journal = Journal(cache)
        trace = Trace(cache, journal)
        store = Store(cache / "blobs" / "sha256", cache / "quarantine", journal)
        counter = Progress()
        self.tools = Adapters(root, cache, self.workspace.config, journal, store, trace, counter)
        self.shop = Shop(workspace=self.workspace, journal=journal, store=store, trace=trace,
                         tools=self.tools, progress=partial(report.progress, counter),
                         say=report.emit)
        self.shortcut = Shortcut(root, journal)
        self._chains: dict[str, Chain] = {}
        self._verified: dict[str, set[str]] = {}
        self._ran: set[str] = set()
        # A wrong parameter is to be named before anything is built for it.
        self._trains = any(word.partition(":")[0] in ("train", "register")
                           for word in sys.argv[1:])
        self._pid = os.getpid()
        atexit.register(self._remember)

    @cached_property
    def projects(self) -> dict[str, Project]:
        """The projects that tasks are made for."""
        known = self.workspace.projects(self.shop.journal)
        names = self._names
        if names is None:
            named = [word.partition(":")[2] for word in sys.argv[1:]
                     if word.partition(":")[0] in (*_ORDER, "explain") and ":" in word]
            words = [word for word in sys.argv[1:] if not word.startswith("-")]
            if not named or len(named) != len([w for w in words if "=" not in w]):
                return known
            return {name: known[name] for name in named if name in known} or known
        return select(known, names)

    def chain(self, name: str) -> Chain:
        if name not in self._chains:
            project = self.projects[name]
            self._chains[name] = Chain(self.shop, project, self.workspace.config_for(project))
        return self._chains[name]

    def fresh_stages(self, name: str) -> frozenset[str]:
        """What needs no look at all (see toolchain.fresh)."""
        if self.workspace.config.upgrade or self.workspace.config.force:
            return frozenset()
        chain = self.chain(name)
        return self.shortcut.stages(name, chain.folder, self._settings(chain))

    def check(self, stage: str, name: str) -> bool:
        """doit's question: is the task up to date? A mistake is reported by the task itself."""
        try:
            fresh = pipeline.is_fresh(self.chain(name), pipeline.STAGES[stage])
            if fresh and stage == "parse" and self._trains:
                self.chain(name).call()
        except ToolchainError:
            return False
        if fresh:
            self._verified.setdefault(name, set()).add(stage)
        return fresh

    def run(self, stage: str, name: str) -> None:
        self._ran.add(name)
        if stage == "train":
            report.emit(f"train {name}  entry point {self.chain(name).config.entry_point}")
        outcome = pipeline.run(self.chain(name), pipeline.STAGES[stage])
        if stage == "parse" and self._trains:
            self.chain(name).call()
        report.emit(report.line(stage, name, outcome.words, outcome.seconds))

    def _settings(self, chain: Chain) -> str:
        config = dataclasses.asdict(chain.config)
        config["tracking_uri"] = self.tools.tracking_identity(chain.config)
        config["experiment"] = self.tools.experiment(chain.config)
        return settings_key(config)

    def _remember(self) -> None:
        """At the end: put on record what was found fresh, for a faster look next time."""
        if os.getpid() != self._pid:
            return
        for name, stages in self._verified.items():
            if name in self._ran:
                continue
            chain = self._chains[name]
            try:
                self.shortcut.record(name, chain.folder, self._settings(chain),
                                     *self._evidence(chain, stages))
            except ToolchainError:
                return

    def _evidence(self, chain: Chain, stages: set[str]) -> tuple[set[str], set[Path]]:
        """Of those stages, the ones that files alone can vouch for, and those files."""
        store, cache = self.shop.store, self.workspace.cache
        paths = {chain.base_lock_path}
        database = self.tools.tracking_file(chain.config)
        if database is None:
            stages = stages - {"train", "register"}
        else:
            paths.add(database)
        for stage in stages:
            path = pipeline.receipt_path(cache, chain.name, stage)
            paths.add(path)
        if "parse" in stages:
            paths |= {chain.folder / path for path in chain.plan_parse()["files"]}
        if "push" in stages:
            built = chain.layers()
            paths |= {store.path(layer.digest) for layer in built}
            if not chain.config.registry:
                blobs = cache / "registry" / chain.config.repository / "blobs" / "sha256"
                manifest: Digest = chain.pushed.digest
                paths |= {blobs / layer.digest.hex for layer in built} | {blobs / manifest.hex}
        return stages, paths


def _check_names(given: dict[str, str]) -> None:
    from toolchain.config import reference

    known = [name for name, *_ in reference()]
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, [*known, 'project'])}",
                              where="command line",
                              fix=f"known settings: project, {', '.join(sorted(known))}")


def _open() -> Call:
    try:
        return Call(Path.cwd())
    except ToolchainError as error:
        raise InvalidDodoFile(str(error)) from None


def _act(stage: str, name: str) -> TaskFailed | None:
    try:
        _call.run(stage, name)
    except ToolchainError as error:
        return TaskFailed(str(error))
    except KeyboardInterrupt:
        report.emit(f"{stage} {name}  interrupted")
        raise SystemExit(130) from None
    return None


def _explain(name: str) -> TaskFailed | None:
    try:
        for stage, words in pipeline.explain(_call.chain(name)):
            report.emit(f"{stage} {name}  {words}")
    except ToolchainError as error:
        return TaskFailed(str(error))
    return None


def _clean(stage: str, name: str) -> None:
    pipeline.receipt_path(_call.workspace.cache, name, stage).unlink(missing_ok=True)


def _tasks(stage: str) -> Iterator[dict[str, Any]]:
    """The subtasks of one stage."""
    before = _ORDER[_ORDER.index(stage) - 1] if stage != _ORDER[0] else ""
    looking = len(sys.argv) > 1 and sys.argv[1] in _LOOKING
    cache = _call.workspace.cache
    for name in _projects():
        fresh = not looking and stage in _fresh(name)
        yield {
            "name": name,
            "actions": [(_act, [stage, name])],
            "task_dep": [f"{before}:{name}"] if before else [],
            "uptodate": [True if fresh else (_call.check, [stage, name])],
            "targets": [str(pipeline.receipt_path(cache, name, stage))],
            "clean": [(_clean, [stage, name])],
            "verbosity": 2,
            "meta": {"toolchain": (stage, name)},
        }


_seen: dict[str, frozenset[str]] = {}


def _fresh(name: str) -> frozenset[str]:
    if name not in _seen:
        try:
            _seen[name] = _call.fresh_stages(name)
        except ToolchainError:
            _seen[name] = frozenset()
    return _seen[name]


def _projects() -> dict[str, Project]:
    try:
        return _call.projects
    except ToolchainError as error:
        raise InvalidDodoFile(str(error)) from None


def forget(stage: str, name: str) -> None:
    """What `doit forget` does beyond doit's own state."""
    pipeline.forget(_call.chain(name), pipeline.STAGES[stage])


def results(name: str, asked: str) -> list[str]:
    """The last lines that a person reads about a project, up to the stage that was asked for."""
    import json

    receipts = {}
    for stage in ("push", "train", "register"):
        if _ORDER.index(stage) > _ORDER.index(asked):
            break
        path = pipeline.receipt_path(_call.workspace.cache, name, stage)
        if path.exists():
            receipts[stage] = json.loads(path.read_bytes())
    database = _call.tools.tracking_file(_call.chain(name).config)
    ui = ""
    if database is not None:
        shown = os.path.relpath(database)
        ui = "mlflow ui" if shown == "mlflow.db" else f"mlflow ui --backend-store-uri sqlite:///{shown}"
    return report.result(name, receipts, ui)


def task_parse() -> Iterator[dict[str, Any]]:
    """read and check MLproject and its environment file"""
    yield from _group("parse")


def task_resolve() -> Iterator[dict[str, Any]]:
    """pin every dependency by version and hash (upgrade=1 moves the pins)"""
    yield from _group("resolve")


def task_base() -> Iterator[dict[str, Any]]:
    """build the layers of system, interpreter and packages"""
    yield from _group("base")


def task_layer() -> Iterator[dict[str, Any]]:
    """build the layer of the project's own files"""
    yield from _group("layer")


def task_push() -> Iterator[dict[str, Any]]:
    """assemble the image and push it to the registry or image layout"""
    yield from _group("push")


def task_train() -> Iterator[dict[str, Any]]:
    """run an entry point and log it to MLflow (entry_point=… params="a=1 b=2" force=1)"""
    yield from _group("train")


def task_register() -> Iterator[dict[str, Any]]:
    """make a model version of the trained model"""
    yield from _group("register")


def task_explain() -> Iterator[dict[str, Any]]:
    """say for each stage whether it would run, and which input changed"""
    yield {"name": None, "doc": "say for each stage whether it would run, and what changed"}
    for name in _projects():
        yield {"name": name, "actions": [(_explain, [name])], "uptodate": [False],
               "verbosity": 2, "meta": {"toolchain": ("explain", name)}}


def _group(stage: str) -> Iterator[dict[str, Any]]:
    # The stage's own task, there even if there are no projects.
    yield {"name": None, "doc": pipeline.STAGES[stage].doc}
    yield from _tasks(stage)


_call = _open()

DOIT_CONFIG: dict[str, Any] = {
    "default_tasks": ["push"],
    "backend": "toolchain",
    "dep_file": str(_call.workspace.cache / "doit.json"),
    "reporter": StageReporter,
}


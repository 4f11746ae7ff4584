"""Stage table -> doit tasks. A monorepo's dodo.py is `from toolchain.tasks import *`.

Only this package imports doit and the adapters. Tasks are made for the projects that were asked
for, by `project=a,b` or `stage:name`; without either, for all.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doit import create_after
from doit.exceptions import InvalidDodoFile, TaskFailed

from toolchain import pipeline, report, wiring
from toolchain.errors import ToolchainError
from toolchain.tasks.call import Call
from toolchain.tasks.commands import Commands
from toolchain.tasks.reporter import StageReporter
from toolchain.workspace import Project

__all__ = [
    "DOIT_CONFIG", "task_base", "task_best", "task_explain", "task_export", "task_layer",
    "task_load", "task_parse", "task_prune", "task_push", "task_register", "task_resolve",
    "task_sbom", "task_sweep", "task_train",
]

_ORDER = tuple(pipeline.STAGES)
_ANSWERS = frozenset({"best", "explain", "sbom"})


def _open() -> Call:
    try:
        call = Call(Path.cwd())
        call.check_words()
        return call
    except ToolchainError as error:
        raise InvalidDodoFile(str(error)) from None


def _act(what: str, name: str, task: Any) -> TaskFailed | None:
    """What every task does: a stage or a command, for one project or for the workspace."""
    # doit itself silences only what it captures, and keeps that in memory. A command's answer is
    # no report of what is done.
    level = 2 if what in _ANSWERS else task.verbosity
    try:
        with report.silenced(out=level < 2, err=level < 1):
            if what in pipeline.STAGES:
                _call.run(what, name)
            else:
                _command.run(what, name)
    except ToolchainError as error:
        return TaskFailed(str(error))
    except KeyboardInterrupt:
        from toolchain import workers

        report.emit(f"{what} {name}  interrupted")
        workers.end_with(130)
        raise SystemExit(130) from None
    return None


def _clean(stage: str, name: str) -> None:
    pipeline.receipt_path(_call.workspace.cache, name, stage).unlink(missing_ok=True)


def _tasks(stage: str) -> Iterator[dict[str, Any]]:
    """The subtasks of one stage."""
    before = _ORDER[_ORDER.index(stage) - 1] if stage != _ORDER[0] else ""
    words = _call.words
    for name in _projects():
        if not _call.goes_to(stage, name):
            continue
        fresh = not words.is_looking and stage in _fresh(name)
        yield {
            "name": name,
            **({"doc": _call.describe(name)} if stage == "train" and words.describes else {}),
            "actions": [(_act, [stage, name])],
            "task_dep": [f"{before}:{name}"] if before else [],
            "uptodate": [True if fresh else (_call.check, [stage, name])],
            "targets": [f"{_out(name)}/{stage}.json"],
            "clean": [(_clean, [stage, name])],
            "verbosity": 2,
            "io": _SHOWN,
            "meta": {"toolchain": (stage, name)},
        }


# doit would keep all that a task says: a sweep's thousand logs, in memory, for nobody.
_SHOWN = {"capture": False}
_seen: dict[str, frozenset[str]] = {}
_folders: dict[str, str] = {}


def _out(name: str) -> str:
    """The folder of a project's receipts; asked for by every task of every project."""
    if name not in _folders:
        _folders[name] = str(pipeline.receipt_path(_call.workspace.cache, name, "").parent)
    return _folders[name]


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
    """What `doit forget` does beyond doit's own state; a command has none to forget."""
    if stage in pipeline.STAGES:
        pipeline.forget(_call.chain(name), pipeline.stage_of(stage))


def remember() -> None:
    """What a call does at its end, whatever became of it."""
    _call.remember()


def results(name: str, asked: str) -> list[str]:
    """The last lines that a person reads about a project, up to the stage that was asked for."""
    import json

    if _call.workspace.config.dry_run:
        asked = "push"
    receipts = {}
    for stage in ("push", "train", "register"):
        if _ORDER.index(stage) > _ORDER.index(asked):
            break
        path = pipeline.receipt_path(_call.workspace.cache, name, stage)
        if path.exists():
            receipts[stage] = json.loads(path.read_bytes())
    config = _call.workspace.config_for(_call.projects[name])
    database = wiring.tracking_file(config, _call.workspace.root)
    ui = ""
    if database is not None:
        shown = os.path.relpath(database)
        ui = "mlflow ui" if shown == "mlflow.db" else f"mlflow ui --backend-store-uri sqlite:///{shown}"
    return report.result(name, receipts, ui, wiring.tracking_identity(config))


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
    yield from _commands("explain", "say for each stage whether it would run, and what changed",
                         needs="")


# Made when they are asked for: a call that is about stages is not to pay for their tasks.
@create_after()  # type: ignore[untyped-decorator]
def task_sbom() -> Iterator[dict[str, Any]]:
    """print the bill of materials of a project's image (CycloneDX), a line of JSON each"""
    yield from _commands("sbom", "print the bill of materials of a project's image (CycloneDX)",
                         needs="")


@create_after()  # type: ignore[untyped-decorator]
def task_load() -> Iterator[dict[str, Any]]:
    """load the image into the Docker engine of this machine, which keeps what it has"""
    yield from _commands("load", "load the image into the Docker engine of this machine")


@create_after()  # type: ignore[untyped-decorator]
def task_export() -> Iterator[dict[str, Any]]:
    """write the image into a file (to=FILE), an OCI archive"""
    yield from _commands("export", "write the image into a file (to=FILE), an OCI archive")


@create_after()  # type: ignore[untyped-decorator]
def task_sweep() -> Iterator[dict[str, Any]]:
    """try the points that sweep.yaml asks for (trials=… parallel=… budget=… register=best)"""
    # All images first: the sweeps of several projects are one queue.
    yield from _commands("sweep", "try the points that sweep.yaml asks for, best metric first",
                         projects=_call.contests, is_one_queue=True)


@create_after()  # type: ignore[untyped-decorator]
def task_best() -> Iterator[dict[str, Any]]:
    """print a sweep's best trial as arguments of `doit train` (register=best registers it)"""
    yield from _commands("best", "print a sweep's best trial as arguments of `doit train`",
                         projects=_call.contests)


@create_after()  # type: ignore[untyped-decorator]
def task_prune() -> dict[str, Any]:
    """remove from the cache what no project needs and nobody used for a while (keep=30d)"""
    name = _call.workspace.root.name
    return {"actions": [(_act, ["prune", name])], "uptodate": [False], "verbosity": 2,
            "meta": {"toolchain": ("prune", name)}}


def _commands(what: str, doc: str, projects: list[str] | None = None, needs: str = "push", *,
              is_one_queue: bool = False) -> Iterator[dict[str, Any]]:
    """The subtasks of a command, after the stage that it needs; it has no result that could be up
    to date. `projects`: those that it is about, else all. is_one_queue: all of them have the
    stage behind them before the first begins."""
    about = list(_projects()) if projects is None else projects
    yield {"name": None, "doc": doc,
           **({"task_dep": [f"{needs}:{name}" for name in about]} if is_one_queue else {})}
    for name in about:
        yield {"name": name, "actions": [(_act, [what, name])],
               "task_dep": [f"{needs}:{name}"] if needs else [],
               "uptodate": [False], "verbosity": 2, "io": _SHOWN,
               "meta": {"toolchain": (what, name)}}


def _group(stage: str) -> Iterator[dict[str, Any]]:
    # The stage's own task, there even if there are no projects.
    yield {"name": None, "doc": pipeline.STAGES[stage]}
    yield from _tasks(stage)


# doit makes dozens of objects for each task, and all of them live to the end of the call: looking
# for garbage among them, again and again, would take a quarter of a large monorepo's null call.
gc.set_threshold(200_000, 20, 20)
_call = _open()
_command = Commands(_call)

DOIT_CONFIG: dict[str, Any] = {
    "default_tasks": ["push"],
    "continue": _call.is_about_several,  # a project that fails stops no other
    "backend": "toolchain",
    "dep_file": str(_call.workspace.cache / "doit.json"),
    "reporter": StageReporter,
}


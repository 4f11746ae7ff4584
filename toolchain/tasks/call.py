"""One call of doit in one workspace: what was asked for, and what was found fresh."""

from __future__ import annotations

import dataclasses
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from doit import doit_cmd, get_initial_workdir

from toolchain import pipeline, report, wiring
from toolchain.config import Config
from toolchain.errors import ConfigError, ToolchainError, nearest
from toolchain.fresh import Shortcut, settings_key
from toolchain.journal import Journal
from toolchain.tasks.arguments import Words
from toolchain.workspace import Project, Workspace, select

if TYPE_CHECKING:
    from toolchain.chain import Chain, Session

_ORDER = tuple(pipeline.STAGES)
# What a project follows, as in `load:name`.
_NAMES = frozenset({*_ORDER, "explain", "sbom", "load", "export", "sweep", "best"})


class Call:
    """One call of doit in one workspace."""

    def __init__(self, root: Path) -> None:
        self.words = Words(sys.argv[1:])
        given = self.words.settings(vars(doit_cmd).get("_CMDLINE_VARS") or {})
        self._names: str | None = given.pop("project", None)
        self.workspace = Workspace.open(root, given)
        self.journal = Journal(self.workspace.cache, only_looks=self.words.only_looks)
        self._shortcut = Shortcut(root, self.journal)
        self._configs: dict[str, Config] = {}
        self._chains: dict[str, Chain] = {}
        self._started = time.time_ns()
        self._vouched: dict[str, frozenset[str]] = {}  # by the shortcut
        self._verified: dict[str, set[str]] = {}
        self._ran: set[str] = set()
        self._failed: dict[str, ToolchainError] = {}

    @cached_property
    def session(self) -> Session:
        """What stages need; a call in which all is fresh never asks for it."""
        return wiring.session(self.workspace, self.journal, report.emit)

    @cached_property
    def projects(self) -> dict[str, Project]:
        """The projects that tasks are made for."""
        if self._names and (":" in self._names or self._names.startswith("git+")):
            guest = wiring.guest(self.workspace, self.journal, self._names, report.emit)
            if guest is not None:
                return {guest.name: guest}
        if self.workspace.config.version:
            raise ConfigError("version= says which commit of a repository is meant",
                              where="command line", fix="give project=URL with it")
        scan = self.workspace.scan(self.journal)
        known, names = scan.projects, self._names
        if names is None:
            named = self.named()
            if not named or len(named) != len(self.words.tasks) or any(
                    task.is_pattern for task in self.words.tasks):
                for note in scan.notes:
                    report.aside(f"note: {note}")
                return known
            return {name: known[name] for name in named if name in known} or known
        return select(known, names, scan.notes)

    def named(self, *what: str) -> list[str]:
        """The projects of `what:project` among the words; of all tasks if `what` is left out."""
        return [task.project for task in self.words.tasks
                if task.what in (what or _NAMES) and task.project]

    @cached_property
    def names_projects(self) -> bool:
        """Whether the call says for which projects it is."""
        return self._names is not None or bool(self.named())

    @property
    def contests(self) -> list[str]:
        """The projects that `doit sweep` and `doit best` are about: those that are named, else
        those that have a sweep.yaml."""
        from toolchain.layer.project import SWEEP_NAME

        if self.names_projects:
            return list(self.projects)
        return [name for name, project in self.projects.items()
                if (self.workspace.root / project.folder / SWEEP_NAME).exists()]

    @property
    def is_about_several(self) -> bool:
        """Whether tasks are made for more than one project."""
        try:
            return len(self.projects) > 1
        except ToolchainError:
            return False  # it is reported where tasks are made

    def chain(self, name: str) -> Chain:
        from toolchain.chain import Chain

        if name not in self._chains:
            project = self.projects[name]
            self._chains[name] = Chain(self.session, project, self._config(name))
        return self._chains[name]

    def fresh_stages(self, name: str) -> frozenset[str]:
        """What needs no look at all (see toolchain.fresh)."""
        asked = self.workspace.config
        if asked.upgrade or asked.force or asked.check or asked.dry_run:
            return frozenset()
        project = self.projects[name]
        if project.mistake is not None:
            return frozenset()
        config = self._config(name)
        # Most projects have the workspace's own settings.
        settings = (self._common_settings if config is self.workspace.config
                    else _settings(config))
        found = self._shortcut.stages(name, self.workspace.root / project.folder, settings)
        self._vouched[name] = found
        return found

    @cached_property
    def _common_settings(self) -> str:
        return _settings(self.workspace.config)

    def goes_to(self, stage: str, name: str) -> bool:
        """Whether the stage is for that project in this call, which may name it."""
        try:
            last = self._config(name).last_stage
        except ToolchainError:
            return True  # the task says what is wrong
        return self.names_projects or _ORDER.index(stage) <= _ORDER.index(last)

    def _config(self, name: str) -> Config:
        if name not in self._configs:
            config = self.workspace.config_for(self.projects[name])
            if config.last_stage not in _ORDER:
                raise ConfigError(
                    f"unknown stage {config.last_stage!r}{nearest(config.last_stage, _ORDER)}",
                    where=f"{name}: last_stage", fix=f"one of: {', '.join(_ORDER)}")
            if config.kubernetes_config:
                config = wiring.placed(config, self.workspace.root)
            self._configs[name] = config
        return self._configs[name]

    def describe(self, name: str) -> str:
        """A project's entry points in one line, as `doit list --all` and `doit info` show them."""
        from toolchain.stages import parse

        try:
            return parse.describe(self.chain(name))
        except ToolchainError as error:
            return f"({error.what}, {error.where})"

    def check(self, stage: str, name: str) -> bool:
        """doit's question: is the task up to date? A mistake is reported by the task itself."""
        if self._is_shown(stage):
            return False
        try:
            fresh = pipeline.is_fresh(self.chain(name), pipeline.stage_of(stage))
            if fresh and stage == "parse":
                self._check_settings(name)
        except ToolchainError:
            return False
        if fresh:
            self._verified.setdefault(name, set()).add(stage)
        return fresh

    def run(self, stage: str, name: str) -> None:
        self._ran.add(name)
        if self._is_shown(stage):
            if stage == "train":
                from toolchain.stages import train

                report.emit(train.preview(self.chain(name)))
            return
        if stage == "train":
            report.emit(f"train {name}  entry point {self.chain(name).config.entry_point}")
        try:
            if stage != "parse":
                self._check_tracking(name)
            outcome = pipeline.run(self.chain(name), pipeline.stage_of(stage))
            if stage == "parse":
                self._check_settings(name)
                self._check_tracking(name)
        except ToolchainError as error:
            self._failed[name] = error
            raise
        report.emit(report.line(stage, name, outcome.words, outcome.seconds))

    def _is_shown(self, stage: str) -> bool:
        """Whether the stage is not made, but shown."""
        return self.workspace.config.dry_run and stage in ("train", "register")

    def bring_up_to_push(self, name: str) -> None:
        """What doit would do before a command for this project, had its turn come already."""
        if name in self._failed:
            raise self._failed[name]
        for stage in _ORDER[:_ORDER.index("push") + 1]:
            if not self.check(stage, name):
                self.run(stage, name)

    def check_words(self) -> None:
        """What is wrong with the call as a whole is to be named before anything is built."""
        words = self.words
        if self._names is None:
            for task in words.tasks:
                if task.what in _NAMES and task.project and not task.is_pattern:
                    select(self.projects, task.project)
        if words.is_looking:
            return
        if self._names is None and not self.projects and (
                not words.tasks or words.runs(*_NAMES)):
            raise ConfigError(
                "there is no MLflow Project", where=f"{self.workspace.config.projects}/",
                fix="put a folder with an MLproject file there, or set `projects` to their folder")
        if words.runs("sweep", "best") and not self.contests:
            raise ConfigError("no project has a sweep.yaml", where="command line",
                              fix="write one beside MLproject, as docs/guides/sweeps.md shows")
        if "params" in self.workspace.call and words.runs("train") and (
                not self.names_projects and len(self.projects) > 1):
            raise ConfigError("params= is for a project, and every project is meant",
                              where="command line", fix="give project=NAME with it")
        if words.runs("export"):
            from toolchain import export

            export.check(self.workspace.config.to, tuple(self.projects), caller())
        if words.runs("prune") and words.runs(*_NAMES):
            raise ConfigError("prune removes things while nothing else is done",
                              where="command line", fix="call `doit prune` by itself")

    def _check_settings(self, name: str) -> None:
        """A wrong registry, parameter or engine is to be named before anything is built for it."""
        if self._pushes:
            self.session.tools.registry_name(self.chain(name).config)
        if self._trains(name):
            from toolchain.stages import train

            chain = self.chain(name)
            train.call(chain)
            self.session.tools.engine(chain.config)
        if self.words.runs("sweep", "best"):
            from toolchain.commands import sweep

            sweep.check(self.chain(name), to_run=self.words.runs("sweep"))

    def _check_tracking(self, name: str) -> None:
        """So is a tracking server that is not there. Asked only if there is something to build."""
        if self._trains(name) and not self.workspace.config.dry_run:
            self.session.tools.tracking(self.chain(name).config).check()

    @property
    def _pushes(self) -> bool:
        words = self.words
        return not words.is_looking and (not words.tasks or words.runs(
            "push", "train", "register", "load", "export", "sweep", "best"))

    def _trains(self, name: str) -> bool:
        return self.words.runs("train", "register") and self.goes_to("train", name)

    def remember(self) -> None:
        """At the end: put on record what was found fresh, for a faster look next time.

        Not when Python ends: the modules that are needed here could no longer be imported.
        """
        looked_at = [name for name in self._verified if name not in self._ran]
        if not looked_at:
            return
        from toolchain.chain import NotYet
        from toolchain.tasks.evidence import evidence

        for name in looked_at:
            verified = self._verified[name]
            chain = self._chains[name]
            # What the shortcut vouched for stays on record beside what was looked at now.
            stages = verified | self._vouched.get(name, frozenset())
            try:
                known, outputs = evidence(chain, stages)
                self._shortcut.record(name, chain.tree.found.values(), _settings(chain.config),
                                      known, outputs, self._started)
            except (ToolchainError, NotYet):  # another process changed what was looked at
                continue


def caller() -> Path:
    """Where doit was called; the workspace may be another folder (`doit -k`, `doit -f`)."""
    return Path(get_initial_workdir() or Path.cwd())


def _settings(config: Config) -> str:
    values = dataclasses.asdict(config)
    values["tracking_uri"] = wiring.tracking_identity(config)
    values["experiment"] = wiring.experiment(config)
    values["conda_cuda"] = wiring.cuda(config)
    if config.image_compression == "zstd":  # which is of a version, unlike gzip
        from toolchain.layer.compression import compression

        values["compression"] = compression(config.image_compression).identity
    return settings_key(values)

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
from toolchain.config import Config, reference
from toolchain.digest import Digest
from toolchain.errors import ConfigError, ToolchainError, nearest
from toolchain.fresh import Shortcut, settings_key
from toolchain.journal import Journal
from toolchain.workspace import Project, Workspace, select

if TYPE_CHECKING:
    from toolchain.chain import Chain, Session

_ORDER = tuple(pipeline.STAGES)
_NAMES = (*_ORDER, "explain", "sbom", "load", "export",
          "sweep", "best")  # what a project follows, as in `load:name`


class Call:
    """One call of doit in one workspace."""

    def __init__(self, root: Path) -> None:
        given = dict(vars(doit_cmd).get("_CMDLINE_VARS") or {})
        self._names: str | None = given.pop("project", None)
        _check_names(given)
        self.workspace = Workspace.open(root, given)
        self.journal = Journal(self.workspace.cache)
        self._shortcut = Shortcut(root, self.journal)
        self._configs: dict[str, Config] = {}
        self._chains: dict[str, Chain] = {}
        self._started = time.time_ns()
        self._vouched: dict[str, frozenset[str]] = {}  # by the shortcut
        self._verified: dict[str, set[str]] = {}
        self._ran: set[str] = set()
        self._failed: dict[str, ToolchainError] = {}
        self._swept: dict[str, ToolchainError] | None = None

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
            named = [word.partition(":")[2] for word in sys.argv[1:]
                     if word.partition(":")[0] in _NAMES and ":" in word]
            words = [word for word in sys.argv[1:] if not word.startswith("-")]
            if not named or len(named) != len([w for w in words if "=" not in w]):
                for note in scan.notes:
                    report.aside(f"note: {note}")
                return known
            return {name: known[name] for name in named if name in known} or known
        return select(known, names, scan.notes)

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
        return self._is_named or _ORDER.index(stage) <= _ORDER.index(last)

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

    @cached_property
    def _is_named(self) -> bool:
        return self._names is not None or any(
            ":" in word and word.partition(":")[0] in _NAMES for word in sys.argv[1:])

    def describe(self, name: str) -> str:
        """A project's entry points in one line, as `doit list --all` and `doit info` show them."""
        from toolchain.stages import parse

        try:
            return parse.describe(self.chain(name))
        except ToolchainError as error:
            return f"({error.what})"

    def check(self, stage: str, name: str) -> bool:
        """doit's question: is the task up to date? A mistake is reported by the task itself."""
        if self._is_shown(stage):
            return False
        try:
            fresh = pipeline.is_fresh(self.chain(name), pipeline.stage_of(stage))
            if fresh and stage == "parse":
                self._check_parameters(name)
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
            outcome = pipeline.run(self.chain(name), pipeline.stage_of(stage))
            if stage == "parse":
                self._check_parameters(name)
        except ToolchainError as error:
            self._failed[name] = error
            raise
        report.emit(report.line(stage, name, outcome.words, outcome.seconds))

    def _is_shown(self, stage: str) -> bool:
        """Whether the stage is not made, but shown."""
        return self.workspace.config.dry_run and stage in ("train", "register")

    def _print_sbom(self, name: str) -> None:
        """Print the project's bill of materials, made from its locks: for the platform that this
        machine runs, of several. What people are told meanwhile goes beside it."""
        from toolchain.chain import Chain
        from toolchain.stages import attested

        chain = self.chain(name)
        chain = Chain(dataclasses.replace(chain.session, say=report.aside), chain.project,
                      chain.config)
        for stage in map(pipeline.stage_of, ("parse", "resolve")):
            if not pipeline.is_fresh(chain, stage):
                outcome = pipeline.run(chain, stage)
                report.aside(report.line(stage.NAME, name, outcome.words, outcome.seconds))
        chain = chain.here
        document = attested.bill_of_materials(chain, attested.source(chain))
        # A document is longer than what a pipe takes at once.
        with chain.session.trace.holding("print", Digest.of(b"sbom")):
            report.emit(document.data.decode())

    def check_commands(self) -> None:
        """A file that cannot be written is to be named before anything is built for it."""
        if sys.argv[1:2] != ["help"] and any(
                word.partition(":")[0] == "export" for word in sys.argv[1:]):
            from toolchain import export

            export.check(self.workspace.config.to, tuple(self.projects), self._caller)
        asked = [word for word in sys.argv[1:] if "=" not in word and not word.startswith("-")]
        if "prune" in asked and asked[0] not in ("help", "info", "list") and len(asked) > 1:
            raise ConfigError("prune removes things while nothing else is done",
                              where="command line", fix="call `doit prune` by itself")

    def command(self, what: str, name: str) -> None:
        """Do what is no stage."""
        own = {"explain": self._explain, "sbom": self._print_sbom, "sweep": self._sweep,
               "best": self._best, "prune": self._prune}
        if what in own:
            own[what](name)
        else:
            self._deliver(what, name)

    def _explain(self, name: str) -> None:
        for stage, words in pipeline.explain(self.chain(name)):
            report.emit(f"{stage} {name}  {words}")

    def _deliver(self, what: str, name: str) -> None:
        """Load or export the image that push left."""
        from toolchain.commands import export, load

        started = time.monotonic()
        if what == "load":
            words, hint = load.run(self.chain(name))
        else:
            words, hint = export.run(self.chain(name), self._caller), ""
        report.emit(report.line(what, name, words, time.monotonic() - started))
        if hint:
            report.emit(f"{name}: {hint}")

    def _prune(self, name: str) -> None:
        """Make the cache smaller. Whatever the call names, all projects keep what they need."""
        from toolchain.commands import prune

        started = time.monotonic()
        words = prune.run(self.session, self.workspace.scan(self.journal).projects)
        report.emit(report.line(prune.NAME, name, words, time.monotonic() - started))

    def _sweep(self, name: str) -> None:
        """Run the sweeps of this call, of which this is one: the first that is asked for runs
        all, so that they share one queue and one budget."""
        if self._swept is None:
            try:
                self._swept = self._run_sweeps()
            except ToolchainError as error:  # else the next of this call would begin all again
                self._swept = dict.fromkeys(self._named_of("sweep"), error)
        if name in self._swept:
            raise self._swept[name]
        if self.chain(name).config.register:
            self._best(name)

    def _run_sweeps(self) -> dict[str, ToolchainError]:
        from toolchain.commands import sweep
        from toolchain.sweep.board import HEADER

        errors: dict[str, ToolchainError] = {}
        chains = []
        for name in self._named_of("sweep"):
            try:
                self._bring_up_to_push(name)
                chains.append(self.chain(name))
            except ToolchainError as error:
                errors[name] = error
        if not chains:
            return errors
        with wiring.ended_by_sigterm():
            return errors | sweep.run(
                chains, lambda board: report.live(HEADER, board.rows, board.caption),
                report.emit, report.table)

    def _named_of(self, what: str) -> list[str]:
        """The projects that are asked for a command: those of `sweep:a sweep:b`, else all."""
        named = [word.partition(":")[2] for word in sys.argv[1:] if word.startswith(f"{what}:")]
        return [name for name in self.projects if not named or name in named]

    def _bring_up_to_push(self, name: str) -> None:
        """What doit would do before this project's sweep, had its turn come already."""
        if name in self._failed:
            raise self._failed[name]
        for stage in _ORDER[:_ORDER.index("push") + 1]:
            if not self.check(stage, name):
                self.run(stage, name)

    def _best(self, name: str) -> None:
        """Print a sweep's winner; register it if that was asked for."""
        from toolchain.commands import best

        found = best.find(self.chain(name))
        report.emit(f"best {name}  {found.words}")
        report.emit(found.line)
        if self.chain(name).config.register:
            for stage in ("train", "register"):
                outcome = pipeline.run(found.chain, pipeline.stage_of(stage))
                report.emit(report.line(stage, name, outcome.words, outcome.seconds))

    @property
    def _caller(self) -> Path:
        """Where doit was called; the workspace may be another folder (`doit -k`, `doit -f`)."""
        return Path(get_initial_workdir() or Path.cwd())

    def _check_parameters(self, name: str) -> None:
        """A wrong parameter or engine is to be named before anything is built for it."""
        asked = any(word.partition(":")[0] in ("train", "register") for word in sys.argv[1:])
        if asked and self.goes_to("train", name):
            from toolchain.stages import train

            chain = self.chain(name)
            train.call(chain)
            self.session.tools.engine(chain.config)
        if any(word.partition(":")[0] in ("sweep", "best") for word in sys.argv[1:]):
            from toolchain.commands import sweep

            to_run = any(word.partition(":")[0] == "sweep" for word in sys.argv[1:])
            sweep.check(self.chain(name), to_run=to_run)

    def remember(self) -> None:
        """At the end: put on record what was found fresh, for a faster look next time.

        Not when Python ends: the modules that are needed here could no longer be imported.
        """
        if not self._verified:
            return
        from toolchain.chain import NotYet
        from toolchain.tasks.evidence import evidence

        for name, verified in self._verified.items():
            if name in self._ran:
                continue
            chain = self._chains[name]
            # What the shortcut vouched for stays on record beside what was looked at now.
            stages = verified | self._vouched.get(name, frozenset())
            try:
                known, outputs = evidence(chain, stages)
                self._shortcut.record(name, chain.tree.found.values(), _settings(chain.config),
                                      known, outputs, self._started)
            except (ToolchainError, NotYet):  # another process changed what was looked at
                continue


def _settings(config: Config) -> str:
    values = dataclasses.asdict(config)
    values["tracking_uri"] = wiring.tracking_identity(config)
    values["experiment"] = wiring.experiment(config)
    values["conda_cuda"] = wiring.cuda(config)
    return settings_key(values)


def _check_names(given: dict[str, str]) -> None:
    known = [name for name, *_ in reference()]
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, [*known, 'project'])}",
                              where="command line",
                              fix="a parameter of the entry point is given as "
                              f'params="{name}=…"; known settings: project, '
                              + ", ".join(sorted(known)))

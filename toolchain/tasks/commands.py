"""What is done for a project that is no stage: `doit explain`, `sweep`, `export` and the like."""

from __future__ import annotations

import dataclasses
import time
from fnmatch import fnmatch

from toolchain import pipeline, report, wiring
from toolchain.digest import Digest
from toolchain.errors import ToolchainError
from toolchain.tasks.call import Call, caller


class Commands:
    """The commands of one call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sweep_errors: dict[str, ToolchainError] | None = None

    def run(self, what: str, name: str) -> None:
        """Do what is no stage."""
        own = {"explain": self._explain, "sbom": self._sbom, "sweep": self._sweep,
               "best": self._best, "prune": self._prune}
        if what in own:
            own[what](name)
        else:
            self._deliver(what, name)

    def _explain(self, name: str) -> None:
        for stage, words in pipeline.explain(self._call.chain(name)):
            report.emit(f"{stage} {name}  {words}")

    def _sbom(self, name: str) -> None:
        """Print the project's bill of materials, made from its locks: for the platform that this
        machine runs, of several. What people are told meanwhile goes beside it."""
        from toolchain.chain import Chain
        from toolchain.stages import attested

        chain = self._call.chain(name)
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

    def _deliver(self, what: str, name: str) -> None:
        """Load or export the image that push left."""
        from toolchain.commands import export, load

        started = time.monotonic()
        if what == "load":
            words, hint = load.run(self._call.chain(name))
        else:
            words, hint = export.run(self._call.chain(name), caller()), ""
        report.emit(report.line(what, name, words, time.monotonic() - started))
        if hint:
            report.emit(f"{name}: {hint}")

    def _prune(self, name: str) -> None:
        """Make the cache smaller. Whatever the call names, all projects keep what they need."""
        from toolchain.commands import prune

        started, call = time.monotonic(), self._call
        words = prune.run(call.session, call.workspace.scan(call.journal).projects)
        report.emit(report.line(prune.NAME, name, words, time.monotonic() - started))

    def _sweep(self, name: str) -> None:
        """Run the sweeps of this call, of which this is one: the first that is asked for runs
        all, so that they share one queue and one budget."""
        if self._sweep_errors is None:
            try:
                self._sweep_errors = self._run_sweeps()
            except ToolchainError as error:  # else the next of this call would begin all again
                self._sweep_errors = dict.fromkeys(self._named_of("sweep"), error)
        if name in self._sweep_errors:
            raise self._sweep_errors[name]
        if self._call.chain(name).config.register:
            self._best(name)

    def _run_sweeps(self) -> dict[str, ToolchainError]:
        from toolchain.commands import sweep
        from toolchain.sweep.board import HEADER

        errors: dict[str, ToolchainError] = {}
        chains = []
        for name in self._named_of("sweep"):
            try:
                self._call.bring_up_to_push(name)
                chains.append(self._call.chain(name))
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
        named = self._call.named(what)
        return [name for name in self._call.contests
                if not named or any(name == each or fnmatch(name, each) for each in named)]

    def _best(self, name: str) -> None:
        """Print a sweep's winner; register it if that was asked for."""
        from toolchain.commands import best

        found = best.find(self._call.chain(name))
        report.emit(f"best {name}  {found.words}")
        report.emit(found.line)
        if self._call.chain(name).config.register:
            for stage in ("train", "register"):
                outcome = pipeline.run(found.chain, pipeline.stage_of(stage))
                report.emit(report.line(stage, name, outcome.words, outcome.seconds))

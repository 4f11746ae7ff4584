"""doit's reporter for people: one line for each stage, then where the result is."""

from __future__ import annotations

import sys
from typing import Any

from doit.reporter import ConsoleReporter

from toolchain import report
from toolchain.pipeline import STAGES

_MOST_RESULTS = 5
_EVERYTHING = 2  # of doit's `-v`
_INTERRUPTED = 130  # exit status


class StageReporter(ConsoleReporter):  # type: ignore[misc]
    """A stage's line is printed by its action; this adds what doit alone knows."""

    desc = "one line for each stage, and the result"

    def __init__(self, outstream: Any, options: dict[str, Any]) -> None:
        super().__init__(outstream, options)
        self._asked: dict[str, str] = {}  # project -> stage, as selected
        self._failed: dict[str, str] = {}  # project -> the stage or command that said why
        self._last: dict[str, Any] = {}  # project -> the task of that stage

    def initialize(self, tasks: dict[str, Any], selected_tasks: list[str]) -> None:
        for name in selected_tasks:
            task = tasks.get(name)
            if task is None:
                continue
            # A stage's own task stands for its members; a member stands for itself.
            members = [tasks[n] for n in task.task_dep] if task.has_subtask else [task]
            for member in members:
                stage, project = _stage_of(member)
                order = list(STAGES)
                if stage in STAGES and order.index(stage) >= order.index(
                        self._asked.get(project, order[0])):
                    self._asked[project] = stage
                    self._last[project] = member

    def execute_task(self, task: Any) -> None:
        if not _stage_of(task)[0]:
            super().execute_task(task)

    def skip_uptodate(self, task: Any) -> None:
        stage, project = _stage_of(task)
        if not stage:
            super().skip_uptodate(task)
        elif task.verbosity == _EVERYTHING:
            self.write(f"{report.up_to_date(stage, project)}\n")

    def add_failure(self, task: Any, fail: Any) -> None:
        stage, project = _stage_of(task)
        if task.has_subtask:
            return  # its members said why
        is_unmet = fail.get_name() == "UnmetDependency"
        if not is_unmet:
            self._failed.setdefault(project, stage)
        if not stage or fail.traceback:
            super().add_failure(task, fail)
        elif fail.report and is_unmet:
            self.write(f"{stage} {project}  not run: an earlier stage failed\n")
        elif fail.report:
            failed = f"{stage} {project}  failed\n{fail.message}"
            if stage == "sbom":  # whose output is a document or nothing
                report.aside(failed)
            else:
                self.write(f"{failed}\n")

    def complete_run(self) -> None:
        super().complete_run()
        error = sys.exc_info()[1]
        if isinstance(error, KeyboardInterrupt):  # between two tasks, or `doit -n`'s own process
            self.write("interrupted\n")
            raise SystemExit(_INTERRUPTED) from None
        if isinstance(error, SystemExit) and error.code == str(_INTERRUPTED):
            raise SystemExit(_INTERRUPTED) from None  # one of `doit -n`, as doit hands it on
        if error is not None:
            return  # there is no result to show
        from toolchain.tasks import remember, results

        remember()
        done = [name for name, stage in self._asked.items()
                if name not in self._failed and stage in ("push", "train", "register")
                and self._last[name].verbosity == _EVERYTHING]
        for name in done[:_MOST_RESULTS]:
            for line in results(name, self._asked[name]):
                self.write(f"{line}\n")
        if len(done) > _MOST_RESULTS:
            self.write(f"and {len(done) - _MOST_RESULTS} more projects\n")
        failed = [(project, stage) for project, stage in self._failed.items() if stage]
        if done or len(failed) > 1:  # else the reason is the last thing that was said
            for project, stage in failed:
                self.write(f"{project}: failed at {stage}, as said above\n")


def _stage_of(task: Any) -> tuple[str, str]:
    meta = getattr(task, "meta", None) or {}
    stage, project = meta.get("toolchain", ("", ""))
    return stage, project

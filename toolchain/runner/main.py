"""arguments and environment -> an entry point that ran, its run in MLflow and its result."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import EngineError, SpecError, ToolchainError, TrackingError
from toolchain.runner import inputs, result, tracking
from toolchain.runner.inputs import Inputs
from toolchain.runner.processes import Processes
from toolchain.runner.secret import hidden, shown
from toolchain.runner.tracking import Tracking
from toolchain.spec import Spec
from toolchain.spec.address import is_remote, local
from toolchain.spec.address import shown as shown_address
from toolchain.spec.command import Call, call

_FOLDER = Path(__file__).parents[2]  # opt/toolchain in the image
_PROJECT = _FOLDER.parents[1] / "project"
_SPEC = _FOLDER / "project.json"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit status: the entry point's own, 128 + n for a signal, 1 for a mistake."""
    try:
        if any(word in ("-h", "--help") for word in arguments):
            return _help()
        return _Runner(environ, inputs.read(arguments, environ)).run()
    except ToolchainError as error:
        _say(environ, str(error))
        return 1
    except KeyboardInterrupt:
        return 130


class _Runner:
    """One call of the runner."""

    def __init__(self, environ: Mapping[str, str], asked: Inputs) -> None:
        self._environ = environ
        self._asked = asked
        self._result = result.place(environ)
        self._spec = _read_spec()
        self._call = self._settle()

    def run(self) -> int:
        tracking.check(self._environ)
        try:
            os.chdir(_PROJECT)
        except OSError as error:
            raise EngineError(f"the project's folder cannot be entered: {error.strerror}",
                              where=str(_PROJECT), fix="mount nothing else there") from None
        processes = Processes()
        store = Tracking(processes, self._environ)
        try:
            return self._run(processes, store)
        finally:
            store.close()

    def _run(self, processes: Processes, store: Tracking) -> int:
        try:
            placed = self._bring(store)
            started = self._start(store)
            if processes.ended_by and "run_id" in started:
                store.ask("end", status="KILLED", parameters={})
        except TrackingError as error:
            if not processes.ended_by:
                raise
            _say(self._environ, str(error))
        if processes.ended_by:
            return 128 + processes.ended_by
        code = self._execute(processes, store, started, placed)
        status = 128 - code if code < 0 else code
        if processes.ended_by:
            status = status or 128 + processes.ended_by  # it was cut short, whatever it says
        elif status:
            reason = f"was ended by signal {-code}" if code < 0 else f"exited with status {code}"
            _say(self._environ, str(EngineError(
                f"entry point {self._asked.entry_point!r} {reason}", where=self._spec.name,
                fix="read its output above")))
        if "run_id" in started:
            self._finish(store, processes, status, started["run_id"])
        return status

    def _settle(self) -> Call:
        """The entry point and its parameters, checked as `doit train` checks them."""
        try:
            settled = call(self._spec, self._asked.entry_point, self._asked.parameters,
                           lambda text: _say(self._environ, f"warning: {text}"))
        except SpecError as error:
            raise SpecError(error.what, where=error.where,
                            fix=inputs.in_words_of_the_image(error.fix)) from None
        for name, (kind, text) in settled.parameters.items():
            if kind == "path" and not is_remote(text) and not (_PROJECT / local(text)).exists():
                raise SpecError(
                    f"parameter {name!r} names a path that does not exist: {text}",
                    where=f"{self._spec.name}, entry_points.{self._asked.entry_point}",
                    fix=f"paths are relative to {_PROJECT}; mount the file or folder")
        return settled

    def _bring(self, store: Tracking) -> Call:
        """The call with files and folders of this machine for whatever is elsewhere."""
        paths = {}
        for number, (name, (kind, text)) in enumerate(self._call.parameters.items(), start=1):
            if kind != "path":
                continue
            if is_remote(text):
                paths[name] = store.ask("fetch", uri=text, number=number)["path"]
                self._note(f"parameter {name}: fetched from {shown_address(text)}")
            else:
                paths[name] = local(text)
        return self._call.with_paths(paths)

    def _texts(self) -> dict[str, str]:
        """Parameters as the run records them: an address that is signed is a secret."""
        return {name: shown_address(text) if kind == "path" and is_remote(text) else text
                for name, (kind, text) in self._call.parameters.items()}

    def _start(self, store: Tracking) -> dict[str, Any]:
        joined = self._environ.get("MLFLOW_RUN_ID", "")
        started = store.ask(
            "start", experiment=self._asked.experiment, project=self._spec.name, run_id=joined,
            tags={"mlflow.project.entryPoint": self._asked.entry_point,
                  "mlflow.project.env": self._spec.environment,
                  "mlflow.project.backend": "local"})
        if "absent" not in started:
            self._note(f"run {started['run_id']} in experiment {started['experiment_id']} of "
                       f"{shown(self._environ['MLFLOW_TRACKING_URI'])}")
        elif self._result or (self._environ.get("MLFLOW_TRACKING_URI") and not joined):
            raise TrackingError(
                "the image has no mlflow, so no run can be logged", where=self._spec.name,
                fix="add mlflow or mlflow-skinny to the project's requirements, or unset "
                    "MLFLOW_TRACKING_URI and TASK_RESULT")
        else:
            self._note("the image has no mlflow: no run is made, and none is ended")
        return started

    def _execute(self, processes: Processes, store: Tracking, started: dict[str, Any],
                 placed: Call) -> int:
        """Run the entry point; its exit status, negative for a signal."""
        environ = dict(self._environ)
        if "run_id" in started:
            environ.pop("MLFLOW_EXPERIMENT_NAME", None)  # MLflow takes the name before the id
            environ["MLFLOW_RUN_ID"] = started["run_id"]
            environ["MLFLOW_EXPERIMENT_ID"] = started["experiment_id"]
            # At once: there may be no time for it when the job has ended.
            processes.on_end = lambda: store.tell("end", status="KILLED", parameters={})
        line = placed.command()
        if self._asked.verbose:
            self._say_more(line)
        try:
            job = processes.start(["bash", "-c", line], {**environ, **placed.variables()},
                                  job=True)
        except EngineError:
            if "run_id" in started:
                store.ask("end", status="FAILED", parameters={})
            raise
        code = processes.wait(job)
        processes.on_end = lambda: None  # what was done is done
        return code

    def _finish(self, store: Tracking, processes: Processes, exit_status: int,
                run_id: str) -> None:
        status = "KILLED" if processes.ended_by else "FAILED" if exit_status else "FINISHED"
        try:
            store.ask("end", status=status, parameters=self._texts())
            self._note(f"run {run_id} is {status}")
            if status == "FINISHED":
                self._name_artifact(store, run_id)
        except ToolchainError as error:
            if exit_status == 0:
                raise
            _say(self._environ, str(error))

    def _name_artifact(self, store: Tracking, run_id: str) -> None:
        path, exactly = self._asked.artifact_path, self._asked.must_have_artifact
        answer = store.ask("artifact", path=path, exactly=exactly)
        if "url" in answer:
            if self._result:
                result.write(self._result, answer["url"])
                self._note(f"{answer['url']} is in {self._result}")
            else:
                _print(answer["url"])
            return
        there = ", ".join(answer["there"]) or "nothing"
        if exactly or self._result:
            raise TrackingError(
                f"the run logged no artifact {path!r}", where=f"run {run_id}, which is FINISHED",
                fix=f"set mlflow_artifact_path to what it logs; it has: {there}")
        self._note(f"the run logged no artifact {path!r}; it has: {there}")

    def _say_more(self, line: str) -> None:
        """What is run and with what, without the value of anything."""
        self._note(f"entry point {self._asked.entry_point}: {line}")
        names = [f"{variable}: {name}" for name, variable in  # Python 3.9 has no strict=
                 zip(self._call.parameters, self._call.variables())]  # noqa: B905
        if names:
            self._note(", ".join(names))
        known = sorted(name for name in self._environ
                       if name.startswith(("MLFLOW_", "AWS_", "AZURE_")))
        self._note(f"set: {', '.join(known) or 'no variable of MLflow, AWS or Azure'}")

    def _note(self, text: str) -> None:
        _say(self._environ, f"{self._spec.name}: {text}")


def _read_spec() -> Spec:
    try:
        return Spec.from_json(json.loads(_SPEC.read_bytes()))
    except FileNotFoundError:
        raise EngineError("this image has no project", where=str(_SPEC),
                          fix="run an image that `doit push` made, or name a program of this one"
                          ) from None


def _help() -> int:
    spec = _read_spec()
    lines = [inputs.USAGE, "", f"Entry points of {spec.name}:"]
    for name, entry in spec.entry_points.items():
        texts = [f"{key} ({parameter.type}"
                 + (f", {parameter.default})" if parameter.default is not None else ")")
                 for key, parameter in entry.parameters.items()]
        lines.append(f"  {name}  {', '.join(texts)}".rstrip())
    _print("\n".join(lines))
    return 0


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise EngineError(f"the result cannot be written: {error.strerror}",
                          where="standard output",
                          fix="leave it open, or name a file in TASK_RESULT") from None


def _say(environ: Mapping[str, str], text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads; the job must still run
        sys.stderr.write(f"{hidden(text, environ)}\n")
        sys.stderr.flush()

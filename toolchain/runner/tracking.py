"""What process 1 asks MLflow, through a process of its own (`tracker`).

mlflow takes seconds to import, starts threads and retries for minutes; process 1 must answer a
signal at once. The other process is started once and stays, so that a run can be marked KILLED
in the few seconds that a container is given to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.errors import TrackingError
from toolchain.runner.processes import Processes
from toolchain.runner.secret import shown

_ROOT = str(Path(__file__).parents[2])
_PROGRAM = ("import sys; sys.path.insert(0, sys.argv[1]); "
            "from toolchain.runner.tracker import serve; sys.path.pop(0); serve()")
_ANSWERS = 3  # the other process's descriptor for answers
_PATIENCE = 5.0  # seconds for MLflow once we were asked to end; Docker gives ten in all


class Tracking:
    """A connection to the process that talks to MLflow."""

    def __init__(self, processes: Processes, environ: Mapping[str, str]) -> None:
        self._processes = processes
        read, its_write = os.pipe()
        its_read, write = os.pipe()
        self._answers, self._questions = read, write
        self._buffer = b""
        self._asked = self._answered = 0
        self._child = processes.start(
            # Isolated, but with the packages that the image has.
            [sys.executable, "-I", "-c", _PROGRAM, _ROOT], environ,
            {0: its_read, 1: 2, _ANSWERS: its_write})
        os.close(its_read)
        os.close(its_write)

    def tell(self, action: str, **what: Any) -> None:
        """Ask for something without waiting; the answer is thrown away."""
        self._asked += 1
        try:
            os.write(self._questions, json.dumps({"do": action, **what}).encode() + b"\n")
        except OSError:  # it died, which the next answer says
            return

    def ask(self, action: str, **what: Any) -> dict[str, Any]:
        """Ask and wait; after a signal that ends us, only a few seconds. Raises TrackingError."""
        self.tell(action, **what)
        answer: dict[str, Any] = {}
        while self._answered < self._asked:
            answer = json.loads(self._line())
            self._answered += 1
        if "error" in answer:
            error = answer["error"]
            raise TrackingError(error["what"], where=error["where"], fix=error["fix"])
        return answer

    def close(self) -> None:
        """Let the other process end; if it is still busy it is ended."""
        os.close(self._questions)
        if self._answered < self._asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            piece = self._processes.read(self._answers, _PATIENCE)
            if piece is None:
                raise TrackingError("MLflow did not answer in time", where="this run's end",
                                    fix="the run may still say RUNNING; end it by hand")
            if piece == b"":
                raise TrackingError(
                    "the process that talks to MLflow ended", where="this image",
                    fix="see its output above; was there enough memory?")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def check(environ: Mapping[str, str]) -> None:
    """Name mistakes in MLflow's own variables before anything is started. Raises TrackingError."""
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if re.match(r"[\w.-]+:\d+(/|\Z)", uri):
        raise _mistake(f"not a URL: {shown(uri)}", "MLFLOW_TRACKING_URI",
                       f"write http://{shown(uri)} or https://{shown(uri)}")
    endpoint = environ.get("MLFLOW_S3_ENDPOINT_URL", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise _mistake(f"not a URL: {shown(endpoint)}", "MLFLOW_S3_ENDPOINT_URL",
                       "begin with http:// or https://")
    for one, other in (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
                       ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"),
                       ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
                       ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")):
        if environ.get(one) and not environ.get(other):
            raise _mistake(f"{one} is set, and {other} is not", other,
                           "set both, or neither")


def _mistake(what: str, where: str, fix: str) -> TrackingError:
    return TrackingError(what, where=where, fix=fix)

"""A process that wants a run of a key: `python -m tests.support.claimant '{…}'`.

It says what comes of it, a line each: `ready`, `waits …`, `began ID`, `has ID`, `ended STATUS`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Claimant:
    """Such a process. It begins when `start` exists, if that is given, and trains for `seconds`,
    or until `stop` exists; `status`: how that ends."""

    def __init__(self, uri: str, folder: Path, key: str, *, start: Path | None = None,
                 seconds: float = 0.0, stop: Path | None = None, status: str = "FINISHED",
                 patience: float = 60) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = {"uri": uri, "folder": str(folder), "key": key, "start": str(start or ""),
                 "seconds": seconds, "stop": str(stop or ""), "status": status,
                 "patience": patience}
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.claimant", json.dumps(given)], cwd=folder,
            stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"})

    def until(self, word: str) -> str:
        """What stands behind that word, once it was said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.split()[0] == word:
                return line.partition(" ")[2].strip()
        raise AssertionError(f"{word} was never said, but {self.said}")

    def end(self) -> list[str]:
        output, _ = self.process.communicate(timeout=120)
        self.said += output.splitlines()
        return self.said

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main(given: dict[str, Any]) -> None:
    from toolchain.adapters.mlflow import Mlflow
    from toolchain.digest import Digest
    from toolchain.journal import Journal
    from toolchain.run import KEY_TAG, Run
    from toolchain.trace import Trace

    folder, key = Path(given["folder"]), Digest.parse(given["key"])
    trace = Trace(folder / "cache", Journal(folder / "cache"))
    mlflow = Mlflow(given["uri"], folder, trace, {}, beat=0.3, patience=given["patience"])
    mlflow.find(Digest.of(b"opens the store"), "")
    print("ready", flush=True)
    _await(given["start"])

    def waits(text: str) -> None:
        print("waits", text, flush=True)

    while True:
        begun = mlflow.follow(key, waits) or mlflow.claim(
            "claims", "one", {KEY_TAG: str(key)}, str(folder), waits)
        if isinstance(begun, Run):
            print("has", begun.run_id, flush=True)
            return
        print("began", begun.run_id, flush=True)
        time.sleep(given["seconds"])
        _await(given["stop"])
        mlflow.finish(begun, given["status"], {})
        print("ended", given["status"], flush=True)
        return


def _await(path: str) -> None:
    """Return when that file exists, or at once if none is named."""
    while path and not Path(path).exists():
        time.sleep(0.001)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

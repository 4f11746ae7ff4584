"""The runner as an image has it: its files, a project's entry points, the project's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from toolchain.digest import canonical_json
from toolchain.layer import runner
from toolchain.spec import EntryPoint, Parameter, Spec


def spec(*, name: str = "one", **commands: str) -> Spec:
    """A project whose entry points all take a float, an int, a text and a hyphenated name."""
    parameters = {"rate": Parameter(type="float", default="0.5"),
                  "epochs": Parameter(type="int", default="1"),
                  "note": Parameter(default=""), "batch-size": Parameter(type="int", default="8")}
    return Spec(name=name, environment="python_env", python="3.11", requirements=("mlflow",),
                constraints=(), hashes={}, files={"MLproject": "name: one\n"},
                entry_points={entry: EntryPoint(command=command, parameters=parameters)
                              for entry, command in commands.items()})


class Rootfs:
    """A folder laid out as an image; `run` starts its entry point with this machine's Python."""

    def __init__(self, folder: Path, what: Spec, python: str = sys.executable) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        self._python = python
        self._place = folder / "opt/toolchain"
        for name, data in runner.files().items():
            path = self._place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (self._place / "project.json").write_bytes(canonical_json(what.for_runner().to_json()))

    def command(self, *arguments: str) -> list[str]:
        return [self._python, "-IS", str(self._place), *arguments]

    def start(self, *arguments: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=environment(environ), text=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: str, expect: int = 0,
            **environ: str) -> subprocess.CompletedProcess[str]:
        """Run to the end; its output. No traceback, whatever happens."""
        done = subprocess.run(
            self.command(*arguments), env=environment(environ), text=True, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a container's environment has, and what is given."""
    python = str(Path(sys.executable).parent)
    return {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "LANG": "C.UTF-8",
            "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": "/tmp", **given}

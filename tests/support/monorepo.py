"""A whole workspace with its own tiny mirror and package folder, run as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.debs import Mirror
from tests.support.wheels import wheel

STAGES = ("parse", "resolve", "base", "layer", "push", "train", "register")

# Logs a model without mlflow: files where the run's artifacts are.
TRAIN = '''\
import os, pathlib, sys
root = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///").rsplit("/", 1)[0]
model = pathlib.Path(root, "mlruns", os.environ["MLFLOW_RUN_ID"], "artifacts", "model")
model.mkdir(parents=True)
(model / "MLmodel").write_text("flavors: {}\\n")
print("trained with", *sys.argv[1:])
'''


class Monorepo:
    """Projects below `folder/projects`; `doit` runs a real process there."""

    def __init__(self, folder: Path, mirror: Mirror, wheels: Path) -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"  # of the default tracking store
        self.wheels = wheels
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "projects").mkdir()
        (folder / "dodo.py").write_text("from toolchain.tasks import *\n")
        self.settings(f'image.mirror = "{mirror.url}"', f'image.keyring = "{mirror.keyring}"')
        self.environment = {
            **{name: value for name, value in os.environ.items()
               if not name.startswith(("UV_", "PIP_", "MLFLOW_", "COVERAGE"))},
            "UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "UV_CACHE_DIR": str(wheels / ".uv"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }

    def settings(self, *lines: str) -> None:
        """Write the workspace's [tool.toolchain], which must name the mirror again if changed."""
        # The mirror's interpreter is not one that could compile, and its system has no programs.
        own = ["image.bytecode = false"]
        if not any(line.startswith("engine") for line in lines):
            own.append('engine = "local"')
        (self.folder / "pyproject.toml").write_text(
            "\n".join(["[tool.toolchain]", *own, *lines]) + "\n")

    def add(self, name: str, *, requirements: str = "alpha\n", mlproject: str | None = None,
            files: dict[str, str] | None = None) -> Path:
        """Write a project with one entry point, `main`, and a float parameter."""
        folder = self.folder / "projects" / name
        folder.mkdir(parents=True)
        (folder / "MLproject").write_text(mlproject or (
            f"name: {name}\nentry_points:\n  main:\n    parameters:\n"
            "      rate: {type: float, default: 0.5}\n    command: python train.py {rate}\n"))
        (folder / "requirements.txt").write_text(requirements)
        (folder / "train.py").write_text(TRAIN)
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "doit", *arguments], cwd=self.folder, env=self.environment,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )

    def doit(self, *arguments: str, expect: int = 0) -> str:
        """Run doit to its end; its whole output."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end\n{process.communicate()[0]}") from None
        assert process.returncode == expect, f"exit {process.returncode}\n{output}"
        assert "Traceback" not in output, output
        return output

    def kill_after(self, seconds: float, *arguments: str) -> bool:
        """Start doit and kill -9 its whole group; whether it was still running."""
        process = self.start(*arguments)
        time.sleep(seconds)
        running = process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return running

    def receipt(self, project: str, stage: str) -> Any:
        return json.loads((self.folder / "cache/out" / project / f"{stage}.json").read_bytes())


def ran(output: str, project: str) -> dict[str, str]:
    """stage -> `made`, `reused` or `fresh`, from doit's output."""
    found = {}
    for stage in STAGES:
        match = re.search(rf"^{stage} {project}  (.*)$", output, re.MULTILINE)
        lines = re.findall(rf"^{stage} {project}  (.*)$", output, re.MULTILINE)
        if not match:
            continue
        last = lines[-1]
        if last == "up to date":
            found[stage] = "fresh"
        elif re.fullmatch(r"reused  [\d.]+ s", last):
            found[stage] = "reused"
        else:
            found[stage] = "made"
    return found


def default_wheels(folder: Path) -> None:
    """alpha 1.0 and 1.1, beta (needs gamma), gamma, delta; all tiny."""
    wheel(folder, "alpha", "1.0", scripts={"alpha-say": "alpha:main"})
    wheel(folder, "alpha", "1.1", scripts={"alpha-say": "alpha:main"})
    wheel(folder, "beta", "1.0", requires=("gamma>=1",))
    wheel(folder, "gamma", "1.0")
    wheel(folder, "delta", "1.0")

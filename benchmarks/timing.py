"""command -> seconds: whole processes by the wall clock, and the machine they ran on.

Rule 1: what is compared is run in turns, so that a slow minute of a shared machine slows both.
Rule 2: the first run of a command warms the page cache and .pyc files, and is not counted.
Rule 3: a command that fails, or does not say what it should have done, ends the benchmark.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

GRAIN = 2.5  # seconds until times of files are believed (toolchain.tree, rule 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A process that can be run again and again; `environment` is added to this process's own."""

    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> tuple[float, str]:
        """Seconds and output. Raises SystemExit with the output if the command fails."""
        environment = {**clean_environment(), **self.environment}
        started = time.perf_counter()
        done = subprocess.run(
            self.arguments, cwd=self.folder, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(self.arguments)}: exit {done.returncode}\n{done.stdout}")
        return seconds, done.stdout


def doit(folder: Path, *arguments: str, python: Path = Path(sys.executable),
         environment: Mapping[str, str] | None = None) -> Command:
    """`doit` of some Python, in `folder`."""
    return Command(arguments=(str(python), "-m", "doit", *arguments), folder=folder,
                   environment=environment or {})


@dataclass(slots=True)
class Times:
    """The counted runs of one thing, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)


def in_turns(commands: Sequence[Command], runs: int) -> list[Times]:
    """Time commands that change nothing, one after the other, `runs` times."""
    for command in commands:
        command.run()
    times = [Times() for _ in commands]
    for _ in range(runs):
        for command, taken in zip(commands, times, strict=True):
            taken.seconds.append(command.run()[0])
    return times


def say(text: str) -> None:
    """Tell how far the benchmark is, apart from its result."""
    print(text, file=sys.stderr, flush=True)


def expect(output: str, *texts: str) -> None:
    """Raise SystemExit unless the output has every text: else something else was measured."""
    for text in texts:
        if text not in output:
            raise SystemExit(f"not measured what was meant: no {text!r} in\n{output}")


def machine() -> str:
    """What figures depend on, without naming the machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    packages = ", ".join(f"{name} {version(name)}" for name in ("doit", "uv", "mlflow"))
    return (f"{os.cpu_count()} cores, {pages / 2**30:.0f} GiB, {platform.system()} "
            f"{platform.machine()}, load {os.getloadavg()[0]:.1f} at the end; "
            f"Python {platform.python_version()}, {packages}")


def clean_environment() -> dict[str, str]:
    """What a figure must not depend on is left out; index and proxy settings stay."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "DOIT_", "GIT_"))
            and name != "PYTHONDONTWRITEBYTECODE"}  # it would measure the compiler
    return {**kept, "NO_COLOR": "1"}

"""The engine `auto`: the sandbox where this machine allows one, else local."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from toolchain.adapters.local import LocalEngine
from toolchain.adapters.sandbox import SandboxEngine
from toolchain.run import Engine, Job, Outcome

_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


class AutoEngine:
    """Chooses when it is first needed, and says why if it is not the sandbox."""

    def __init__(self, sandbox: SandboxEngine, local: LocalEngine, say: Callable[[str], None],
                 gpus: tuple[Path, ...] = _GPUS) -> None:
        self._sandbox = sandbox
        self._local = local
        self._say = say
        self._gpus = gpus

    @property
    def name(self) -> str:
        return self._chosen.name

    def prepare(self, job: Job) -> None:
        self._chosen.prepare(job)

    def execute(self, job: Job) -> Outcome:
        return self._chosen.execute(job)

    @cached_property
    def _chosen(self) -> Engine:
        # A program that finds no GPU may train without one, slowly and without a word.
        reason = ("this machine has a GPU, which a sandbox does not pass on"
                  if any(path.exists() for path in self._gpus) else self._sandbox.obstacle)
        if reason:
            self._say(f"engine local, not sandbox: {reason}")
            return self._local
        return self._sandbox

"""The engine `auto`: the sandbox where this machine allows one, else local."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolchain.adapters.handed_on import is_the_images
from toolchain.adapters.local import LocalEngine
from toolchain.adapters.sandbox import AnothersFiles, SandboxEngine
from toolchain.run import Engine, Job, Outcome

_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


class AutoEngine:
    """Chooses when it is first needed, and says why if it is not the sandbox.

    paths: folders that jobs will write to, where this machine has them.
    """

    def __init__(self, sandbox: SandboxEngine, local: LocalEngine, say: Callable[[str], None],
                 gpus: tuple[Path, ...] = _GPUS, paths: tuple[Path, ...] = ()) -> None:
        self._sandbox = sandbox
        self._local = local
        self._say = say
        self._gpus = gpus
        self._paths = paths
        self._engine: Engine | None = None

    @property
    def name(self) -> str:
        return self._chosen.name

    def find(self, key: str) -> tuple[str, ...]:
        return ()  # a job ends with the process that started it

    def prepare(self, job: Job) -> None:
        try:
            self._chosen.prepare(job)
        except AnothersFiles as error:
            self._choose(error.what)
            self._local.prepare(job)
        if self._engine is self._sandbox and not self._sandbox.has_bash(job.image):
            self._choose("the image has no bash")
            self._local.prepare(job)

    def execute(self, job: Job) -> Outcome:
        return self._chosen.execute(job)

    @property
    def _chosen(self) -> Engine:
        return self._engine or self._choose(self._obstacle())

    def _choose(self, reason: str) -> Engine:
        if reason:
            self._say(f"engine local, not sandbox: {reason}")
        self._engine = self._local if reason else self._sandbox
        return self._engine

    def _obstacle(self) -> str:
        # A program that finds no GPU may train without one, slowly and without a word.
        if any(path.exists() for path in self._gpus):
            return "this machine has a GPU, which a sandbox does not pass on"
        for path in self._paths:
            if is_the_images(str(path), writable=True):
                return f"{path} is where the image has files of its own"
        return self._sandbox.obstacle

"""Trainings of several processes that share this machine: `doit -n 4 train`, two terminals.

Rule 1: a training that asks for processors or memory has a file below `folder`, which its process
holds locked (flock). The kernel lets go of it however the process ends, so a file that can be
locked is of nobody and is removed.
Rule 2: whoever wants a share holds the lock of the queue until it has one. The kernel serves those
who wait for a lock in the order they came, so nobody is overtaken.
Rule 3: a training that asks for nothing is not counted and does not wait.
Rule 4: whoever waits can be cancelled, by a signal or from another thread, and has then taken
nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from toolchain import shares
from toolchain.adapters.patience import Patience
from toolchain.adapters.supervised import CANCELLED, exit_on_sigterm
from toolchain.errors import StoreError
from toolchain.run import Engine, Job, Outcome, Resources

_LOOK = 0.1  # seconds between two looks at what others have
_TELL = 0.5  # seconds; another that only takes its share holds the queue for a moment too
_QUEUE = "queue"


class MachineShares:
    """The shares of one cache. cpus, memory: what there is, zero memory is unknown."""

    def __init__(self, folder: Path, cpus: float, memory: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._cpus = cpus
        self._memory = memory
        self._say = say

    def check(self, resources: Resources, where: str) -> None:
        """Raises EngineError for what this machine does not have at all."""
        shares.check(resources, self._cpus, self._memory, where)

    @contextlib.contextmanager
    def take(self, resources: Resources, name: str,
             cancel: threading.Event | None = None) -> Iterator[bool]:
        """Wait until there is enough beside what others have, and have it in the block. False if
        `cancel` was set meanwhile: then there is nothing."""
        if not resources.cpus and not resources.memory:
            yield True
            return
        self.check(resources, name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            got = self._wait(resources, name, cancel or threading.Event())
        except OSError as error:
            raise StoreError(f"the cache cannot be locked: {error.strerror}",
                             where=str(self._folder),
                             fix="make the cache folder writable, or set `cache` elsewhere"
                             ) from None
        if got is None:
            yield False
            return
        handle, path = got
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _wait(self, resources: Resources, name: str, cancel: threading.Event
              ) -> tuple[int, Path] | None:
        waiting = Patience(self._say, after=_TELL).waiting(
            f"{name}: other trainings have the processors or memory that it asks for; waiting")
        with waiting, _opened(self._folder / _QUEUE) as queue:
            if not _lock(queue) and not _lock_in_turn(queue, cancel):
                return None
            while not self._is_free(resources):
                if cancel.wait(_LOOK):
                    return None
            path = self._folder / f"{os.getpid()}-{threading.get_ident()}.json"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, json.dumps([resources.cpus, resources.memory]).encode())
            return handle, path

    def _is_free(self, resources: Resources) -> bool:
        cpus, memory = resources.cpus, resources.memory
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError), _opened(path) as file:
                if _lock(file):
                    path.unlink(missing_ok=True)
                    continue
                one, other = json.loads(os.pread(file, 1 << 12, 0))
                cpus, memory = cpus + one, memory + other
        return cpus <= self._cpus + 1e-6 and (not self._memory or memory <= self._memory)


class QueuedEngine:
    """An engine whose jobs wait for their share of this machine."""

    def __init__(self, engine: Engine, shares: MachineShares) -> None:
        self._engine = engine
        self._shares = shares

    @property
    def name(self) -> str:
        return self._engine.name

    def find(self, key: str) -> tuple[str, ...]:
        return self._engine.find(key)

    def prepare(self, job: Job) -> None:
        self._shares.check(job.resources, f"{job.name}, engine {self.name}")
        self._engine.prepare(job)

    def execute(self, job: Job) -> Outcome:
        with contextlib.ExitStack() as held:
            with exit_on_sigterm():
                if not held.enter_context(self._shares.take(
                        job.resources, job.trial or job.name, job.cancel)):
                    return Outcome(code=143, reason=CANCELLED)
            return self._engine.execute(job)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if path.name == _QUEUE else 0)
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock_in_turn(file: int, cancel: threading.Event) -> bool:
    """Wait for the lock; False if it was cancelled before. The kernel's own queue keeps the order,
    and its wait cannot be ended from another thread, so one of our own waits there."""
    if threading.current_thread() is threading.main_thread():
        fcntl.flock(file, fcntl.LOCK_EX)  # a signal ends it
        return True
    settled, is_ours = threading.Lock(), threading.Event()
    handle = os.dup(file)  # of the same open file, so the lock is one

    def wait() -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with settled:
            if cancel.is_set():
                fcntl.flock(handle, fcntl.LOCK_UN)
            else:
                is_ours.set()
        os.close(handle)

    threading.Thread(target=wait, daemon=True).start()
    while not is_ours.wait(_LOOK):
        with settled:
            if cancel.is_set() and not is_ours.is_set():
                return False
    return True


def _lock(file: int) -> bool:
    """Whether the file is nobody's, and now ours."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Process 1: start children, pass signals on, reap whatever dies.

Rule 1: signals only write their number into a pipe; everything happens in one loop that waits for
that pipe, so no signal is lost and none comes at a bad moment.
Rule 2: the job is a process group. A signal reaches all of it, and what it leaves running when
its first process ends is killed.
Rule 3: every child that ends is reaped, also one that was somebody else's and became ours because
we are process 1.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from toolchain.errors import EngineError

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# What the kernel sends for our own faults or stops us with, and what no program can catch.
_OUR_OWN = ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
            "SIGABRT", "SIGTRAP", "SIGSYS", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGXFSZ", "SIGXCPU")
# Python ignores these, and what is ignored stays ignored in a child.
_TO_RESTORE = (signal.SIGPIPE, signal.SIGXFSZ)


class Processes:
    """The children of this process. One of these in a process, made in its main thread."""

    def __init__(self) -> None:
        self.ended_by = 0  # the first signal that asked for the end
        self.on_end: Callable[[], None] = lambda: None  # called when it comes
        self._job = 0
        self._codes: dict[int, int | None] = {}  # of our own children; None while they live
        self._alarm, alarm = os.pipe()
        os.set_blocking(self._alarm, False)
        os.set_blocking(alarm, False)
        own = {getattr(signal, name) for name in _OUR_OWN} - {signal.SIGCHLD}
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        for number in signal.valid_signals() - own:
            with contextlib.suppress(OSError, ValueError):  # the C library keeps some for itself
                signal.signal(number, _note)

    def start(self, command: Sequence[str], environ: Mapping[str, str],
              files: Mapping[int, int] | None = None, *, job: bool = False) -> int:
        """Start a child in a process group of its own. `files`: its descriptor -> one of ours.

        Its standard input is empty unless `files` has it. Raises EngineError.
        """
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, ours, its) for its, ours in (files or {}).items()]
        try:
            child = os.posix_spawnp(command[0], list(command), dict(environ), setpgroup=0,
                                    file_actions=actions, setsigdef=_TO_RESTORE)
        except OSError as error:
            raise EngineError(f"{command[0]} cannot be started: {error.strerror}",
                              where="this image",
                              fix="put it into the image, or on PATH") from None
        self._codes[child] = None
        if job:
            self._job = child
        return child

    def wait(self, child: int) -> int:
        """The child's exit status, negative for a signal that ended it."""
        while True:
            code = self._codes[child]
            if code is not None:
                break
            self._turn()
        if child == self._job:
            self._signal_job(signal.SIGKILL)
            self._job = 0
        return code

    def read(self, file: int, patience: float) -> bytes | None:
        """What comes next from a pipe, empty at its end.

        Once a signal asked for the end, `patience` is how many seconds are waited; then None.
        """
        deadline = left = None
        while True:
            if self.ended_by:
                deadline = deadline or time.monotonic() + patience
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
            if file in self._turn(file, seconds=left):
                return os.read(file, 1 << 16)

    def _turn(self, *files: int, seconds: float | None = None) -> list[int]:
        ready, _, _ = select.select([self._alarm, *files], [], [], seconds)
        if self._alarm in ready:
            for number in os.read(self._alarm, 1 << 10):
                self._take(number)
        return ready

    def _take(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
            return
        self._signal_job(number)
        if number in ENDING and not self.ended_by:
            self.ended_by = number
            self.on_end()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                child, status = os.waitpid(-1, os.WNOHANG)
                if not child:
                    return
                if child in self._codes:
                    self._codes[child] = os.waitstatus_to_exitcode(status)

    def _signal_job(self, number: int) -> None:
        if self._job:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._job, number)


def _note(number: int, frame: object) -> None:
    """A handler there must be, or the number is not written into the pipe."""

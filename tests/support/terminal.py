"""A command on a terminal of its own, as somebody who looks at it and presses keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What was written to it, and how to write to it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self._bytes = b""

    @property
    def raw(self) -> str:
        """Everything, with what moves the cursor and colours."""
        return self._bytes.decode(errors="replace")

    @property
    def text(self) -> str:
        """Everything as letters: each drawing of a table, one below the other."""
        return _SEQUENCE.sub("", self.raw.replace("\r\n", "\n").replace("\r", "\n"))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.text[-4000:]
            if not self._read(1) and self.process.poll() is not None:
                assert condition(), self.text[-4000:]
                return

    def read_to_the_end(self, seconds: float = 240) -> int:
        """The exit status."""
        end = time.monotonic() + seconds
        while self._read(1) or self.process.poll() is None:
            assert time.monotonic() < end, self.text[-4000:]
        return self.process.wait()

    def _read(self, seconds: float) -> bool:
        """Whether there was anything."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            data = os.read(self._master, 1 << 16)
            self._bytes += data
            return bool(data)
        return False


@contextlib.contextmanager
def on_terminal(command: Sequence[str], *, folder: Path, environ: Mapping[str, str],
                columns: int = 120) -> Iterator[Terminal]:
    """The command in the foreground of a new terminal; it is ended with the block."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # In a session of its own, whose terminal is the standard input that it finds.
    opened = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); " \
             "os.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        ["python3", "-c", opened, *command], cwd=folder, env=dict(environ), stdin=slave,
        stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
        os.close(master)

"""bytes -> a file, whole or not at all.

A process that is killed while it writes leaves a temporary file beside; whoever writes that file
next takes it away.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Replace a file; with `sync`, one that outlives a power cut too, which what can be written
    again from the record need not. Raises OSError; then nothing of it is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sweep(path)


def _sweep(path: Path) -> None:
    """Remove what processes that are gone left of this file."""
    start = f".{path.name}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(start) and name.endswith(".tmp"):
                process = name.removeprefix(start).partition("-")[0]
                if process.isdigit() and not os.path.exists(f"/proc/{process}"):
                    os.unlink(path.with_name(name))

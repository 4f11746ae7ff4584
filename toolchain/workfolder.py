"""A folder for one job in the cache, gone afterwards, whatever the job left in it; what a killed
process left is removed by the next.

A folder is locked (flock) while its process lives, since another container that shares the cache
does not see that process. Where a file system locks no folders, the process number has to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new folder; those whose process is gone are removed. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder, handle = _locked(parent)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(handle)


def _locked(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)
        # Another container's process took it for a dead one's, before it was locked.


def sweep(parent: Path) -> None:
    """Remove folders whose process is gone."""
    for folder in parent.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            with _at_rest(folder) as is_at_rest:
                if is_at_rest:
                    remove(folder)


@contextlib.contextmanager
def _at_rest(folder: Path) -> Iterator[bool]:
    """Whether nobody has the folder locked, or locks it while the block runs."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a job may have left it so that its owner cannot look into it
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Remove a folder, also what its owner may not look into: a job can have left it so."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(folder, ignore_errors=True)

"""A folder for one job in the cache, gone afterwards, whatever the job left in it; what a killed
process left is removed by the next."""

from __future__ import annotations

import contextlib
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
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        remove(folder)


def sweep(parent: Path) -> None:
    """Remove folders whose process is gone."""
    for folder in parent.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            remove(folder)


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

"""cache/ -> a smaller one: without what no project needs any more and nobody used for a while.

Rule 1: only while nobody else works in the cache (`toolchain.lease`).
Rule 2: all that is removed can be fetched or made again. What the last results of the workspace's
projects name stays, and what the results named there name in turn.
Rule 3: what was used lately stays: a branch that somebody comes back to.
Rule 4: a folder is first moved aside, so that a killed call leaves no half of it in its place.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from toolchain.journal import Journal
from toolchain.values import dataclass

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed: how many files and folders, and the bytes on the disk."""

    number: int = 0
    size: int = 0

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.number + other.number, self.size + other.size)


class Prunable(Protocol):
    """An image layout that is kept in the cache."""

    def prune(self, needs: Collection[str], since: float) -> Freed:
        """Remove the images, and then the blobs, whose digests are not in `needs` and that were
        not used since then, in seconds since 1970. Raises RegistryError."""


def needed(journal: Journal, projects: Collection[str]) -> frozenset[str]:
    """Digests, in hexadecimal, that the projects' last results name, in their plans and values,
    and those that the results named there name in turn."""
    named: dict[str, set[str]] = {}
    for key, plan, value in journal.rows("select key, plan, value from trace"):
        named.setdefault(key, set()).update(_DIGEST.findall(plan), _DIGEST.findall(value))
    left = {key for project, key in journal.rows("select project, key from current")
            if project in projects}
    found: set[str] = set()
    while left:
        key = left.pop()
        found.add(key)
        left |= named.get(key, set()) - found
    return frozenset(found)


def prune(cache: Path, journal: Journal, needs: Collection[str], since: float) -> Freed:
    """Remove what is not in `needs` and was not used since then, in seconds since 1970.

    Raises OSError.
    """
    aside = cache / "work" / f"{os.getpid()}-pruned"  # swept by the next job, should we be killed
    freed = Freed()
    for path, used in _candidates(cache):
        if path.stem in needs or used >= since:
            continue
        path.with_suffix(".json").unlink(missing_ok=True)  # says that the folder is whole
        place = aside / path.name
        try:
            aside.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            place = path
        freed += removed(place)
        journal.write("delete from blob where path=?", (str(path),))
    if aside.exists():
        aside.rmdir()
    return freed


def _candidates(cache: Path) -> Iterator[tuple[Path, float]]:
    """What may be removed, and when it was last used."""
    # What is used by a link to it comes before what it links to.
    for path in _entries(cache / "roots"):
        yield path, last_used(path)
    for path in _entries(cache / "layers"):
        if path.suffix != ".json":
            yield path, last_used(path.with_suffix(".json"))
    for path in _entries(cache / "envs"):
        yield path, last_used(path / "toolchain.json")
    for name in ("inputs", "quarantine", "locks"):
        for path in _entries(cache / name):
            yield path, last_used(path)
    for path in _entries(cache / "blobs" / "sha256"):
        # Nobody writes now: what was begun was left by a process that is gone.
        yield path, 0 if path.name.startswith("tmp-") else last_used(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name != "tmp")
    except FileNotFoundError:
        return []


def mark_used(path: Path) -> bool:
    """Note that a file or folder is used now, for `last_used`, and say whether it is there.

    One that belongs to another user, or is on a read-only disk, stays without the note.
    """
    try:
        os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))
    except FileNotFoundError:
        return False
    except OSError:
        return path.exists()
    return True


def last_used(path: Path) -> float:
    """When a file was last read, written or linked, in seconds since 1970; 0 for none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return max(status.st_atime, status.st_mtime, status.st_ctime)


def removed(path: Path) -> Freed:
    """Remove a file or folder; what has another hard link stays on the disk with that."""
    if path.is_dir() and not path.is_symlink():
        size = sum(_size(inner) for inner in (path, *path.rglob("*")))
        shutil.rmtree(path)
    else:
        size = _size(path)
        path.unlink()
    return Freed(1, size)


def _size(path: Path) -> int:
    status = os.lstat(path)
    return status.st_blocks * 512 if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1 else 0

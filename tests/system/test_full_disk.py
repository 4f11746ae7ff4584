"""A cache on a disk that is full or read-only: it can be looked at, and pruned."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.monorepo import Monorepo
from tests.support.services import lacking


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)],
                          capture_output=True, text=True)
    if made.returncode:
        lacking(f"no disk can be mounted: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(path: Path) -> None:
    """Leave what a build leaves that filled the disk."""
    with open(path, "wb", buffering=0) as left, contextlib.suppress(OSError):
        while True:
            left.write(bytes(1 << 12))


def test_a_full_disk_is_looked_at_and_pruned(monorepo: Monorepo, disk: Path) -> None:
    monorepo.add("one")
    cache = f"cache={disk}/cache"
    monorepo.doit("push", cache)
    _fill(disk / "cache/blobs/sha256/tmp-left")
    assert "train" in monorepo.doit("list", cache)
    assert "push one  " in monorepo.doit("explain", cache)
    assert "removed 1 files" in monorepo.doit("prune", cache)
    assert "one: image" in monorepo.doit("push", cache)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "train" in monorepo.doit("list", cache)
    assert "push one  " in monorepo.doit("explain", cache)
    output = monorepo.doit("prune", cache, expect=1)
    assert "Read-only file system" in output
    assert "  fix: make it writable" in output

"""key -> result: what was made of what, on record as soon as it is made.

A key is the digest of a plan. The trace of a key holds the plan (so that `doit explain` can say
what changed) and the result. `holding` makes sure that a key is made once across threads and
processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.errors import Cancelled, StoreError
from toolchain.journal import Journal


class Trace:
    """The traces of one cache. All values are JSON values."""

    def __init__(self, cache: Path, journal: Journal) -> None:
        self._locks = cache / "locks"
        self._journal = journal

    def get(self, stage: str, key: Digest) -> Any | None:
        rows = self._journal.rows(
            "select value from trace where stage=? and key=?", (stage, key.hex)
        )
        return json.loads(rows[0][0]) if rows else None

    def plan(self, stage: str, key: Digest) -> Any | None:
        """The plan that `key` is the digest of, if it was ever carried out here."""
        rows = self._journal.rows(
            "select plan from trace where stage=? and key=?", (stage, key.hex)
        )
        return json.loads(rows[0][0]) if rows else None

    def values(self, stage: str) -> list[Any]:
        """Every result on record for a stage."""
        return [
            json.loads(row[0])
            for row in self._journal.rows("select value from trace where stage=?", (stage,))
        ]

    def record(
        self, stage: str, key: Digest, plan: Any, value: Any, *, project: str = ""
    ) -> None:
        """Put a result on record. `project` is for whom it was made; others may reuse it."""
        self._journal.write_all([
            (
                "insert or replace into trace values (?,?,?,?)",
                (stage, key.hex, canonical_json(plan).decode(), canonical_json(value).decode()),
            ),
            ("insert into made (stage, key, project) values (?,?,?)", (stage, key.hex, project)),
        ])

    def note(self, stage: str, key: Digest, value: Any) -> None:
        """Remember something that is cheap to find again and was not made: a hint, a memo."""
        self._journal.write("insert or replace into trace values (?,?,'{}',?)",
                            (stage, key.hex, canonical_json(value).decode()))

    def forget(self, stage: str, key: Digest) -> None:
        self._journal.write("delete from trace where stage=? and key=?", (stage, key.hex))

    def current(self, project: str, stage: str) -> Digest | None:
        """The key that the project's receipt of that stage was last written for."""
        rows = self._journal.rows(
            "select key from current where project=? and stage=?", (project, stage)
        )
        return Digest(rows[0][0]) if rows else None

    def set_current(self, project: str, stage: str, key: Digest | None) -> None:
        if key is None:
            self._journal.write(
                "delete from current where project=? and stage=?", (project, stage)
            )
        else:
            self._journal.write(
                "insert or replace into current values (?,?,?)", (project, stage, key.hex)
            )

    @contextlib.contextmanager
    def holding(
        self, stage: str, key: Digest, waiting: Callable[[str], None] = lambda who: None,
        cancel: threading.Event | None = None,
    ) -> Iterator[None]:
        """Hold the key while making it; whoever wants the same key waits here.

        The lock is the kernel's (flock): it ends with its holder, however that ends. Unlike
        POSIX record locks it also keeps two threads of one process apart. `waiting` is told
        once who has it, if the key is held elsewhere for more than a second. Raises Cancelled if
        `cancel` is set meanwhile, and StoreError for an unwritable cache.
        """
        path = self._locks / f"{stage}-{key.hex}"
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(
                f"the cache cannot be locked: {error.strerror}", where=str(path),
                fix="make the cache folder writable, or set `cache` elsewhere",
            ) from None
        try:
            if not _lock_within_a_second(handle):
                waiting(_holder(handle))
                if cancel is None:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                else:
                    _lock_unless(cancel, handle)
            yield
        finally:
            os.close(handle)


def _lock_within_a_second(handle: int) -> bool:
    for attempt in range(21):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < 20:
                time.sleep(0.05)
        else:
            return True
    return False


def _holder(handle: int) -> str:
    """Who has the lock, for people. The kernel knows; a file could name one that died."""
    inode = str(os.fstat(handle).st_ino)
    with contextlib.suppress(OSError), open("/proc/locks") as locks:
        for line in locks:
            # `1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF`; those that wait have `->`.
            parts = line.split()
            if (len(parts) == 8 and parts[1] == "FLOCK" and parts[5].rpartition(":")[2] == inode
                    and parts[4].isdigit() and parts[4] != "0"):
                return f"another process ({parts[4]})"
    return "another process"


def _lock_unless(cancel: threading.Event, handle: int) -> None:
    while not cancel.wait(0.2):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    raise Cancelled

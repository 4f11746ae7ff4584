"""The one small database under cache/: what must survive `kill -9` and be shared by processes.

Rule 1: every statement commits by itself, in write-ahead mode, so that a finished action is on
record the moment it is finished. (doit writes its own state only when it exits.)
Rule 2: a connection belongs to one thread of one process; sqlite breaks across fork, and
`doit -n` forks.
Rule 3: losing this file costs time, never correctness: everything in it can be found again.
Rule 4: who only looks, or frees space, does so on a full or read-only disk too: what is on record
is read, and what would be put there is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolchain.errors import StoreError

_SCHEMA_VERSION = 1
_SCHEMA = """
create table if not exists trace (
    stage text, key text, plan text, value text, primary key (stage, key)) without rowid;
create table if not exists current (
    project text, stage text, key text, primary key (project, stage)) without rowid;
create table if not exists made (seq integer primary key, stage text, key text, project text);
create table if not exists blob (
    path text primary key, size int, mtime_ns int, ctime_ns int, inode int) without rowid;
create table if not exists files (folder text primary key, entries text) without rowid;
create table if not exists fresh (
    project text, settings text, signature text, stages text, outputs text,
    primary key (project, settings)) without rowid;
"""


class Journal:
    """Connections to `<cache>/state.db`; `rows` and `write` raise StoreError with a remedy."""

    def __init__(self, cache: Path, *, only_looks: bool = False) -> None:
        self._path = cache / "state.db"
        self._only_looks = only_looks
        self._local = threading.local()

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._explain(error) from None

    def write(self, sql: str, values: tuple[Any, ...] = ()) -> None:
        """Run one statement; when this returns, a killed process does not lose it."""
        try:
            self._connection().execute(sql, values)
        except sqlite3.Error as error:
            if not self._only_looks:
                raise self._explain(error) from None

    def write_all(self, statements: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Run several statements as one: all or none."""
        try:
            connection = self._connection()
            connection.execute("begin immediate")
            try:
                for sql, values in statements:
                    connection.execute(sql, values)
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
        except sqlite3.Error as error:
            if not self._only_looks:
                raise self._explain(error) from None

    def _connection(self) -> sqlite3.Connection:
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.connection = self._open()
            self._local.pid = os.getpid()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One at a time: sqlite does not wait while another sets write-ahead mode up.
            with open(self._path.with_suffix(".lock"), "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
                (version,) = connection.execute("pragma user_version").fetchone()
                if version != _SCHEMA_VERSION:
                    connection.execute("pragma journal_mode=wal")
                    connection.executescript(f"{_SCHEMA} pragma user_version={_SCHEMA_VERSION};")
            connection.execute("pragma synchronous=normal")
        except (sqlite3.Error, OSError) as error:
            found = self._as_it_is() if self._only_looks else None
            if found is None:
                raise self._explain(error) from None
            return found
        return connection

    def _as_it_is(self) -> sqlite3.Connection | None:
        """The file alone, without the two beside it that sqlite has to write to even to read."""
        with contextlib.suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{quote(str(self._path))}?immutable=1", uri=True,
                                         isolation_level=None)
            if connection.execute("pragma user_version").fetchone() == (_SCHEMA_VERSION,):
                return connection
        return None

    def _explain(self, error: Exception) -> StoreError:
        if "malformed" in str(error) or "not a database" in str(error):
            fix = "delete it; what is in the cache will be found again"
        else:
            fix = "make the cache folder writable, or free some space, or set `cache` elsewhere"
        return StoreError(f"the cache's journal: {error}", where=str(self._path), fix=fix)

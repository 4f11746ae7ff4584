"""The end of a run, in a tracking store that is a sqlite file: all of it in one transaction.

MLflow's client takes three, each of which waits for the disk: for params, for tags, for the status.
Only plain values are written here, that the client would write as they are; anything else, and any
database that is not as it is known, is left to the client.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import field
from urllib.parse import quote

from toolchain.values import dataclass

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,249}")
_LONGEST = 500  # characters of a param's value that every MLflow takes whole
_BUSY = 20.0  # seconds, as MLflow's client waits


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What is put on record of a run when it ends: `params` that it does not have itself, `tags`
    in place of what is there, without that `dropped` one."""

    status: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: str = ""

    @property
    def is_plain(self) -> bool:
        return all(_NAME.fullmatch(name) and len(value) <= _LONGEST
                   for name, value in self.params.items())


def write(path: str, run_id: str, end: End) -> bool:
    """Whether it is written: then all of it is, and else nothing. Raises sqlite3.Error if the
    database cannot be written now."""
    if not end.is_plain:
        return False
    with _transaction(path) as connection:
        if not _is_known(connection):
            return False
        if not connection.execute(
                "update runs set status=?, end_time=? where run_uuid=? "
                "and lifecycle_stage='active'",
                (end.status, int(time.time() * 1000), run_id)).rowcount:
            return False
        connection.executemany(
            "insert or ignore into params (key, value, run_uuid) values (?,?,?)",
            [(name, value, run_id) for name, value in end.params.items()])
        connection.execute("delete from tags where run_uuid=? and key=?", (run_id, end.dropped))
        connection.executemany(
            "insert or replace into tags (key, value, run_uuid) values (?,?,?)",
            [(name, value, run_id) for name, value in end.tags.items()])
    return True


def _is_known(connection: sqlite3.Connection) -> bool:
    """Whether the tables have the columns and keys that are relied on, and need no others."""
    for table in ("params", "tags"):
        columns = {name: (needed and default is None, place) for _, name, _, needed, default, place
                   in connection.execute(f"pragma table_info({table})")}
        if not (columns.get("key", (0, 0))[1] and columns.get("run_uuid", (0, 0))[1]
                and "value" in columns):
            return False
        if any(needed for name, (needed, _) in columns.items()
               if name not in ("key", "value", "run_uuid")):
            return False
    found = {row[1] for row in connection.execute("pragma table_info(runs)")}
    return {"run_uuid", "status", "end_time", "lifecycle_stage"} <= found


@contextlib.contextmanager
def _transaction(path: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=_BUSY,
                                 isolation_level=None)
    with contextlib.closing(connection):
        # Taken at once: one that begins by reading could be refused its first write.
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")

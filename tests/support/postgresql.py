"""A real PostgreSQL on a free port of this machine, of an ordinary user, with a password."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import free_port, lacking

PASSWORD = "s3/cr?t@all"  # everything that a URL would have to quote
QUOTED = "s3%2Fcr%3Ft%40all"


class PostgreSQL:
    """A server that was started, as the superuser `me`."""

    def __init__(self, port: int, programs: Path, folder: Path) -> None:
        self.port = port
        self._programs = programs
        self._folder = folder
        self._count = 0

    def database(self, driver: str = "") -> str:
        """The address of a new, empty database."""
        self._count += 1
        self.query("postgres", f"create database sweeps{self._count}")
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://me:{QUOTED}@127.0.0.1:{self.port}/sweeps{self._count}"

    def query(self, database: str, sql: str) -> list[str]:
        """The rows of an answer, columns with | between them."""
        done = subprocess.run(
            [self._programs / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "me", "-XAtq",
             "-c", sql, database.rpartition("/")[2]],
            env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server while the block runs; skips (or fails in CI) where Debian's package is not."""
    programs = _programs()
    user = _user()
    # Beside pytest's folders, which are for one user alone.
    folder = Path(tempfile.mkdtemp(prefix="toolchain-postgresql-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "me", "-A", "scram-sha-256",
             "--pwfile", folder / "password", "--no-sync", "-E", "UTF8", "--locale=C"],
            user=user, cwd=folder, capture_output=True, text=True, timeout=120)
        assert made.returncode == 0, made.stderr
        port = free_port()
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1",
                 "-k", "", "-c", "fsync=off"],
                user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(programs, port, server, folder / "log")
            yield PostgreSQL(port, programs, folder)
        finally:
            server.send_signal(signal.SIGINT)  # ends connections, and writes what there is
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """Debian keeps a server's programs out of PATH, one folder for each version."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(
        Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None) or (
        lacking("no PostgreSQL on this machine: Debian's package is `postgresql`"))


def _user() -> str | None:
    """Whom it runs as: its programs refuse root. None is ourselves."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _wait(programs: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)],
                         timeout=60).returncode != 0:
        if server.poll() is not None or time.monotonic() > end:
            pytest.fail(f"PostgreSQL does not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)

"""An address -> the database of Optuna's studies: a file of sqlite, or a server of PostgreSQL.

Rule 1: a password is in the address alone. What is shown of it, and of what drivers say, is
without.
Rule 2: several machines may use one server at once. What takes more than one statement (to make
the tables, to count trials and begin one) is done under one of the server's advisory locks, which
ends with the connection that holds it, however its process ends.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.digest import Digest
from toolchain.errors import SweepError, without_credentials
from toolchain.trace import Trace

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import Engine

_DRIVERS = ("psycopg", "psycopg2")  # of PostgreSQL, as SQLAlchemy and Python call them
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_PATIENCE = 10  # seconds for a server to answer; libpq itself waits for minutes


class StudyDatabase:
    """The database of an address, opened when it is asked for; a file that is not there is made."""

    def __init__(self, uri: str, trace: Trace) -> None:
        self._uri = uri
        self._trace = trace
        self._opened: tuple[BaseStorage, Engine] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it too."""
        return not self._uri.startswith("sqlite:")

    @property
    def storage(self) -> BaseStorage:
        return self._open()[0]

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """While the block runs, nobody else is in a block of that name: on this machine, and with
        PostgreSQL on any."""
        with _alone(self._open()[1], name):
            yield

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong in the block, as SweepError."""
        try:
            import optuna
            from sqlalchemy.exc import SQLAlchemyError
        except ImportError:
            raise SweepError(
                "optuna, which draws a sweep's points, is not installed", where="sweep",
                fix="pip install 'mlproject-toolchain[sweep]'") from None
        try:
            yield
        except ImportError as error:
            raise self._lacking(error) from None
        except (optuna.exceptions.OptunaError, SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise SweepError(
                f"the record of trials: {self._said(error)}", where=self._shown(),
                fix="check sweep.storage or OPTUNA_STORAGE, and that it can be reached and written"
            ) from None

    def _open(self) -> tuple[BaseStorage, Engine]:
        if self._opened is None:
            import optuna

            # Its tables are made in several steps, which two processes must not do at once.
            with self._trace.holding("studies", Digest.of(self._uri.encode())):
                made = self._server() if self.is_shared else self._file()
            self._opened = optuna.storages.get_storage(made), made.engine
        return self._opened

    def _server(self) -> Any:
        from optuna.storages import RDBStorage
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        address = _with_driver(self._uri)
        # A connection may be closed by the server or a firewall while a trial runs.
        settings: dict[str, Any] = {"pool_pre_ping": True}
        if address.get_backend_name() == "postgresql" and "connect_timeout" not in address.query:
            settings["connect_args"] = {"connect_timeout": _PATIENCE}
        first = create_engine(address, poolclass=NullPool, **{
            name: value for name, value in settings.items() if name != "pool_pre_ping"})
        with _alone(first, "tables"):
            return RDBStorage(address.render_as_string(hide_password=False),
                              engine_kwargs=settings)

    def _file(self) -> Any:
        """A file of sqlite is put into write-ahead mode: a trial costs several commits, and what a
        crash of the machine may lose of them is run again."""
        from optuna.storages import RDBStorage
        from sqlalchemy import event

        path = Path(self._uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("pragma journal_mode=wal")
        storage = RDBStorage(self._uri, engine_kwargs={"connect_args": {"timeout": 60}})
        event.listen(storage.engine, "connect", _hurry)
        storage.engine.dispose()
        return storage

    def _lacking(self, error: ImportError) -> SweepError:
        package = _PACKAGES.get(error.name or "", error.name or "")
        what = f"a package that this sweep needs is not installed: {error.name or error}"
        fix = f"pip install '{package}' where this tool is installed"
        if not package or error.name in _DRIVERS:
            fix = "pip install 'mlproject-toolchain[postgresql]'"
        return SweepError(what, where=self._shown(), fix=fix)

    def _shown(self) -> str:
        """The address without user, password and query, where a password can be as well."""
        from sqlalchemy.engine import URL, make_url
        from sqlalchemy.exc import ArgumentError

        try:
            found = make_url(self._uri)
        except (ArgumentError, ValueError):
            return without_credentials(self._uri).partition("?")[0]
        return str(URL.create(found.drivername, host=found.host, port=found.port,
                              database=found.database))

    def _said(self, error: Exception) -> str:
        """What a driver says, in one line and without the password."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        text = " ".join(without_credentials(str(error).partition("\n(Background")[0]).split())
        with contextlib.suppress(ArgumentError, ValueError):
            found = make_url(self._uri)
            for secret in (found.password, *found.query.values()):
                if isinstance(secret, str) and len(secret) > 3:
                    text = text.replace(secret, "…")
        return text[:600]


def _with_driver(uri: str) -> Any:
    """The address, and of PostgreSQL with the driver that is installed: which one an address
    without a driver means is different from one SQLAlchemy to the next."""
    from sqlalchemy.engine import make_url

    found = make_url(uri.replace("postgres://", "postgresql://", 1)
                     if uri.startswith("postgres://") else uri)
    if found.drivername != "postgresql":
        return found
    for driver in _DRIVERS:
        if find_spec(driver) is not None:
            return found.set(drivername=f"postgresql+{driver}")
    raise ImportError("a driver for PostgreSQL, psycopg or psycopg2", name="psycopg")


@contextlib.contextmanager
def _alone(engine: Engine, name: str) -> Iterator[None]:
    from sqlalchemy import text

    if engine.dialect.name != "postgresql":
        yield
        return
    number = int(Digest.of(f"toolchain.sweep {name}".encode()).hex[:15], 16)
    # Of a transaction, not of a session: so it also holds behind a pool of connections.
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": number})
        yield


def _hurry(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("pragma synchronous=normal")

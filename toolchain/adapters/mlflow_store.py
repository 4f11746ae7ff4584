"""A tracking store: how MLflow's client of it is opened, and what is asked of it without MLflow.

mlflow takes more than a second to import, so it is imported when something is written or searched;
whether a known run is still there is asked of the database or server directly.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from toolchain.digest import Digest
from toolchain.errors import TrackingError, without_credentials
from toolchain.run import finite
from toolchain.trace import Trace

if TYPE_CHECKING:
    from mlflow import MlflowClient


class TrackingStore:
    """`uri` may be relative to `root` (`sqlite:///mlflow.db`)."""

    def __init__(self, uri: str, root: Path, trace: Trace, environ: Mapping[str, str]) -> None:
        self.uri = _absolute(uri, root)  # not relative to anything
        self._trace = trace
        self._environ = environ
        self._opened: MlflowClient | None = None

    @property
    def is_sqlite(self) -> bool:
        return self.uri.startswith("sqlite:///")

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def file(self) -> str:
        """The database's absolute path, if the store is such a file; else empty."""
        return file_of(self.uri, "sqlite:///")

    @property
    def client(self) -> MlflowClient:
        if self._opened is None:
            import logging

            from mlflow import MlflowClient

            # The first use of a database prints every step of its creation. mlflow sets its
            # loggers up when it is imported.
            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._create_database()
            self._opened = MlflowClient(tracking_uri=self.uri)
        return self._opened

    @contextlib.contextmanager
    def explained(self) -> Iterator[MlflowClient]:
        """Open the store; turn what MLflow and its database say into a TrackingError."""
        with self._explaining():
            yield self.client

    @contextlib.contextmanager
    def as_default(self) -> Iterator[None]:
        """MLflow looks `models:/m-…` up in the process's store, not in its client's."""
        import mlflow

        name = "MLFLOW_TRACKING_URI"
        before = os.environ.get(name)
        mlflow.set_tracking_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri("" if before is None else before)
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before

    def ask_sqlite(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        path = self.uri.removeprefix("sqlite:///").partition("?")[0]
        try:
            connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=20)
            with contextlib.closing(connection):
                return connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if not os.path.exists(path) or "no such table" in str(error):
                return []  # then there is no such run
            raise TrackingError(
                f"the tracking store cannot be read: {error}", where=without_credentials(self.uri),
                fix="see who else has the file, or whether it is a database of MLflow"
            ) from None

    def ask_server(self, path: str) -> dict[str, Any] | None:
        """A server's answer to a GET; None if there is no such thing. Raises TrackingError."""
        from toolchain.adapters import tracking_server

        return tracking_server.ask(self.uri, path, self._environ)

    def _create_database(self) -> None:
        """Make a new sqlite store whole or not at all, and once.

        MLflow makes it in some sixty steps; whoever is killed in between, or runs beside another,
        leaves a database that no MLflow can open.
        """
        if not self.is_sqlite:
            return
        path = Path(self.uri.removeprefix("sqlite:///").partition("?")[0])
        if path.exists():
            return
        from mlflow import MlflowClient

        with self._trace.holding("tracking", Digest.of(str(path).encode())):
            if path.exists():
                return
            with self._explaining(), tempfile.TemporaryDirectory(
                prefix=".mlflow-", dir=path.parent
            ) as folder:
                new = Path(folder, path.name)
                MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
                _put(new, path)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except ImportError as error:  # a database's driver
            raise TrackingError(
                f"a package that this tracking store needs is not installed: {error.name}",
                where=without_credentials(self.uri),
                fix=f"pip install {error.name} where this tool is installed",
            ) from None
        except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
            text = without_credentials(str(error)).split("\n")[0][:600]
            raise TrackingError(
                f"MLflow: {text}", where=without_credentials(self.uri),
                fix="check tracking_uri or MLFLOW_TRACKING_URI, and that the store is writable",
            ) from None


def logged(value: float) -> float | str:
    """A metric as it was logged, and text if it is no finite number: MLflow's databases have the
    largest number for infinity."""
    return finite(math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value)


def within(answer: Any, *names: str) -> dict[str, Any]:
    """An object within a server's answer; empty where the answer has none."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer if isinstance(answer, dict) else {}


def _put(new: Path, path: Path) -> None:
    """Give a file its name, unless there is one of that name: of whoever has another cache."""
    try:
        os.link(new, path)
    except FileExistsError:
        return
    except OSError:  # a disk without hard links
        if not path.exists():
            os.replace(new, path)


def file_of(uri: str, scheme: str) -> str:
    """The absolute path that a URI names, if it is one of this scheme."""
    path = uri.removeprefix(scheme).partition("?")[0] if uri.startswith(scheme) else uri
    # A file's URI is quoted, a database's is not.
    path = unquote(path) if uri.startswith("file:") else path
    return path if path.startswith("/") else ""


def _absolute(uri: str, root: Path) -> str:
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root / uri.removeprefix('sqlite:///')}"
    if "://" not in uri and not uri.startswith(("databricks", "uc")):
        return (root / uri.removeprefix("file:")).as_uri()
    return uri

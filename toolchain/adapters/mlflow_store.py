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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from toolchain.adapters import mlflow_rows
from toolchain.adapters.patience import Patience
from toolchain.digest import Digest
from toolchain.errors import TrackingError, without_credentials
from toolchain.run import finite
from toolchain.trace import Trace

if TYPE_CHECKING:
    from mlflow import MlflowClient


# MLflow's own are 7 and 120: more than four minutes without a word until a server that is gone is
# an error. Its variables still say otherwise, and a job has MLflow's own.
_RETRIES = 4  # with MLflow's pauses, half a minute
_TIMEOUT = 30  # seconds to connect, and without a byte


class TrackingStore:
    """`uri` may be relative to `root` (`sqlite:///mlflow.db`). `say` tells people that a server is
    waited for."""

    def __init__(self, uri: str, root: Path, trace: Trace, environ: Mapping[str, str],
                 say: Callable[[str], None] = lambda text: None) -> None:
        self.uri = _absolute(uri, root)  # not relative to anything
        self._trace = trace
        self._environ = environ
        self._opened: MlflowClient | None = None
        self._patience = Patience(say)
        self._checked = False
        self._obstacle: TrackingError | None = None

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
            from mlflow import environment_variables as variables

            variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = _RETRIES
            variables.MLFLOW_HTTP_REQUEST_TIMEOUT.default = _TIMEOUT
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
        with self._explaining(), self._telling():
            yield self.client

    def check(self) -> None:
        """Raise TrackingError if the store is a server that does not answer; asked once."""
        if not self._checked and self.is_server:
            from toolchain.adapters import tracking_server

            try:
                with self._telling():
                    tracking_server.check(self.uri, self._environ)
            except TrackingError as error:
                self._obstacle = error
        self._checked = True
        if self._obstacle is not None:
            raise self._obstacle

    def _telling(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_server:
            return contextlib.nullcontext()
        return self._patience.waiting(
            f"waiting for the tracking server {without_credentials(self.uri)}")

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

    @property
    def _path(self) -> str:
        """The file of a sqlite store."""
        return self.uri.removeprefix("sqlite:///").partition("?")[0]

    def ask_sqlite(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        path = self._path
        try:
            # Not read-only: what a killed writer left half-done is undone by who opens it next.
            # A file that cannot be written to is read all the same, and none is made.
            connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=20)
            with contextlib.closing(connection):
                return connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if not os.path.exists(path) or "no such table" in str(error):
                return []  # then there is no such run
            raise TrackingError(
                f"the tracking store cannot be read: {error}", where=without_credentials(self.uri),
                fix="see who else has the file, or whether it is a database of MLflow"
            ) from None

    def end_sqlite(self, run_id: str, end: mlflow_rows.End) -> bool:
        """Whether the end of a run is on record now; if not, it is MLflow's client's to write."""
        with self._explaining():
            return mlflow_rows.write(self._path, run_id, end)

    def ask_server(self, path: str) -> dict[str, Any] | None:
        """A server's answer to a GET; None if there is no such thing. Raises TrackingError."""
        from toolchain.adapters import tracking_server

        if tracking_server.is_signed(self._environ):
            return self._ask_as_mlflow_does(path)
        return tracking_server.ask(self.uri, path, self._environ)

    def _ask_as_mlflow_does(self, path: str) -> dict[str, Any] | None:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        endpoint = f"/api/2.0/mlflow/{path}"
        with self.explained():
            answer = http_request(  # type: ignore[no-untyped-call]
                get_default_host_creds(self.uri),  # type: ignore[no-untyped-call]
                endpoint, "GET")
            if answer.status_code in (400, 404):
                return None
            found: dict[str, Any] = verify_rest_response(answer, endpoint).json()
            return found

    def _create_database(self) -> None:
        """Make a new sqlite store whole or not at all, and once.

        MLflow makes it in some sixty steps; whoever is killed in between, or runs beside another,
        leaves a database that no MLflow can open.
        """
        if not self.is_sqlite:
            return
        path = Path(self._path)
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
        except (MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException,
                OSError) as error:
            text = without_credentials(str(error)).split("\n")[0][:600]
            raise TrackingError(
                f"MLflow: {text}", where=without_credentials(self.uri),
                fix="check tracking_uri or MLFLOW_TRACKING_URI, and that the store is writable",
            ) from None


def experiment_ids(client: MlflowClient) -> list[str]:
    """Of all experiments; MLflow gives at most a thousand at a time."""
    found: list[str] = []
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found += (item.experiment_id for item in page)
        token = page.token
        if not token:
            return found


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

"""MLflow as tracker and model registry.

mlflow takes more than a second to import, so it is imported when something is written or searched;
whether a known run is still there is asked of the database or server directly.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from toolchain.adapters import git
from toolchain.digest import Digest
from toolchain.errors import TrackingError, without_credentials
from toolchain.run import KEY_TAG, Run, Started, finite
from toolchain.trace import Trace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HOST_TAG = "toolchain.host"


class Mlflow:
    """Tracker and Models of one tracking store.

    `uri` may be relative to `root` (`sqlite:///mlflow.db`); the experiments made here keep their
    artifacts under `<root>/mlruns` unless a server decides.
    """

    def __init__(self, uri: str, root: Path, trace: Trace, environ: Mapping[str, str]) -> None:
        self._uri = _absolute(uri, root)
        self._root = root
        self._trace = trace
        self._environ = environ
        self._opened: MlflowClient | None = None

    @property
    def uri(self) -> str:
        """The store's address, not relative to anything."""
        return self._uri

    # Tracker

    def find(self, key: Digest, experiment: str) -> Run | None:
        with self._explained():
            client = self._client()
            experiments = [item.experiment_id for item in client.search_experiments()]
            if not experiments:
                return None
            found = client.search_runs(
                experiments, f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'FINISHED'",
                max_results=1, order_by=["attributes.end_time DESC"],
            )
        return self.read(found[0].info.run_id, key) if found else None

    def is_finished(self, run_id: str) -> bool:
        if self._uri.startswith("sqlite:///"):
            return bool(self._ask_sqlite(
                "select 1 from runs where run_uuid=? and status='FINISHED' "
                "and lifecycle_stage='active'", (run_id,)))
        if self._uri.startswith(("http://", "https://")):
            answer = self._ask_server(f"runs/get?run_id={quote(run_id)}")
            found = _within(answer, "run", "info")
            if answer is not None and not isinstance(answer.get("run", {}), dict):
                raise self._not_mlflow()
            return bool(found.get("status") == "FINISHED"
                        and found.get("lifecycle_stage") == "active")
        with self._explained():
            info = self._client().get_run(run_id).info
        return bool(info.status == "FINISHED" and info.lifecycle_stage == "active")

    def start(self, experiment: str, name: str, tags: Mapping[str, str], folder: str) -> Started:
        from mlflow.entities import RunStatus

        with self._explained():
            client = self._client()
            experiment_id = self._experiment(client, experiment)
            # Whoever is here holds the key's lock, so a run of this key and machine that still
            # says RUNNING belongs to a process that died.
            host = socket.gethostname()
            everywhere = [item.experiment_id for item in client.search_experiments()]
            for dead in client.search_runs(
                everywhere,
                f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}' and tags.`{_HOST_TAG}` = '{host}' "
                "and attributes.status = 'RUNNING'",
            ):
                client.set_terminated(dead.info.run_id, RunStatus.to_string(RunStatus.FAILED))
            created = client.create_run(experiment_id, tags={
                **tags, **git.tags(Path(folder)), _HOST_TAG: host,
                "mlflow.user": self._environ.get("USER") or self._environ.get("LOGNAME") or "root",
                "mlflow.source.type": "PROJECT", "mlflow.source.name": name,
            })
        run_id = created.info.run_id
        return Started(run_id=run_id, experiment_id=experiment_id, environment={
            "MLFLOW_TRACKING_URI": self._uri, "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
        }, database=_file(self._uri, "sqlite:///"),
            # The experiment's folder: models are beside the run's own folder in it.
            artifacts=_file(created.info.artifact_uri or "", "file://")
            .partition(f"/{run_id}/artifacts")[0])

    def finish(self, started: Started, status: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        with self._explained():
            client = self._client()
            logged = client.get_run(started.run_id).data.params
            missing = [Param(name, value) for name, value in params.items() if name not in logged]
            if missing:
                client.log_batch(started.run_id, params=missing)
            client.set_terminated(started.run_id, status)

    def read(self, run_id: str, key: Digest) -> Run:
        with self._explained():
            client = self._client()
            run = client.get_run(run_id)
            return Run(
                key=key, run_id=run_id, experiment_id=run.info.experiment_id,
                status=run.info.status, params=dict(sorted(run.data.params.items())),
                metrics={name: finite(value) for name, value in sorted(run.data.metrics.items())},
                model_uri=_model_uri(client, run),
            )

    def commit_of(self, run_id: str) -> dict[str, str]:
        """The git commit that a run was made from, as a tag; {} if it was from none."""
        with self._explained():
            tags = self._client().get_run(run_id).data.tags
        name = "mlflow.source.git.commit"
        return {name: tags[name]} if name in tags else {}

    # Models

    def version_of(self, name: str, run_id: str) -> str | None:
        with self._explained():
            found = self._client().search_model_versions(f"run_id = '{run_id}'")
        numbers = [int(item.version) for item in found if item.name == name]
        return str(max(numbers)) if numbers else None

    def create_version(self, name: str, run: Run, tags: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        with self._explained():
            client = self._client()
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            with self._as_default_store():
                version = client.create_model_version(
                    name, run.model_uri, run_id=run.run_id, tags=dict(tags),
                )
        return str(version.version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with self._explained():
            self._client().set_registered_model_alias(name, alias, version)

    def has_version(self, name: str, version: str, alias: str) -> bool:
        if self._uri.startswith("sqlite:///"):
            return bool(self._ask_sqlite(
                "select 1 from registered_model_aliases where name=? and alias=? and version=?",
                (name, alias, int(version))))
        if self._uri.startswith(("http://", "https://")):
            answer = self._ask_server(
                f"registered-models/alias?name={quote(name)}&alias={quote(alias)}")
            return bool(_within(answer, "model_version").get("version") == version)
        with self._explained():
            aliases = self._client().get_registered_model(name).aliases
        return bool(str(aliases.get(alias)) == version)

    # Common

    @contextlib.contextmanager
    def _as_default_store(self) -> Iterator[None]:
        """MLflow looks `models:/m-…` up in the process's store, not in its client's."""
        import mlflow

        name = "MLFLOW_TRACKING_URI"
        before = os.environ.get(name)
        mlflow.set_tracking_uri(self._uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri("" if before is None else before)
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before

    def _client(self) -> MlflowClient:
        if self._opened is None:
            import logging

            from mlflow import MlflowClient

            # The first use of a database prints every step of its creation. mlflow sets its
            # loggers up when it is imported.
            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._create_database()
            self._opened = MlflowClient(tracking_uri=self._uri)
        return self._opened

    def _create_database(self) -> None:
        """Make a new sqlite store whole or not at all, and once.

        MLflow makes it in some sixty steps; whoever is killed in between, or runs beside another,
        leaves a database that no MLflow can open.
        """
        if not self._uri.startswith("sqlite:///"):
            return
        path = Path(self._uri.removeprefix("sqlite:///").partition("?")[0])
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
                os.replace(new, path)

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} was deleted", where=without_credentials(self._uri),
                fix="restore it with `mlflow experiments restore`, or set `experiment`",
            )
        if found is not None:
            return str(found.experiment_id)
        local = self._uri.startswith("sqlite:")
        try:
            return str(client.create_experiment(
                name, artifact_location=(self._root / "mlruns").as_uri() if local else None))
        except MlflowException:
            again = client.get_experiment_by_name(name)  # another process was faster
            if again is None:
                raise
            return str(again.experiment_id)

    def _ask_sqlite(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        path = self._uri.removeprefix("sqlite:///").partition("?")[0]
        try:
            connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=20)
            with contextlib.closing(connection):
                return connection.execute(sql, values).fetchall()
        except sqlite3.Error:
            return []  # no such database or table: then there is no such run

    def _ask_server(self, path: str) -> dict[str, Any] | None:
        import urllib.error
        import urllib.request
        from base64 import b64encode

        root = without_credentials(self._uri).rstrip("/")
        request = urllib.request.Request(f"{root}/api/2.0/mlflow/{path}")
        token = self._environ.get("MLFLOW_TRACKING_TOKEN")
        user = self._environ.get("MLFLOW_TRACKING_USERNAME")
        password = self._environ.get("MLFLOW_TRACKING_PASSWORD", "")
        inline = urlsplit(self._uri).netloc.rpartition("@")[0]
        if not user and inline:
            user, _, password = (unquote(part) for part in inline.partition(":"))
        if user:
            basic = b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {basic}")
        elif token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                answer = json.load(response)
                if not isinstance(answer, dict):
                    raise ValueError("not an object")
                return answer
        except urllib.error.HTTPError as error:
            if error.code in (400, 404):
                return None
            raise TrackingError(
                f"the tracking server answered {error.code}", where=without_credentials(self._uri),
                fix="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                if error.code in (401, 403) else "see the server's log",
            ) from None
        except (ValueError, http.client.HTTPException):
            raise self._not_mlflow() from None
        except OSError as error:
            raise TrackingError(
                f"the tracking server cannot be reached: {getattr(error, 'reason', error)}",
                where=without_credentials(self._uri),
                fix="check that it runs, and tracking_uri or MLFLOW_TRACKING_URI",
            ) from None

    def _not_mlflow(self) -> TrackingError:
        return TrackingError("what answers is not an MLflow server",
                             where=without_credentials(self._uri),
                             fix="check tracking_uri or MLFLOW_TRACKING_URI")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Open the store; turn what MLflow and its database say into a TrackingError."""
        with self._explaining():
            self._client()
            yield

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
                where=without_credentials(self._uri),
                fix=f"pip install {error.name} where this tool is installed",
            ) from None
        except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
            text = without_credentials(str(error)).split("\n")[0][:600]
            raise TrackingError(
                f"MLflow: {text}", where=without_credentials(self._uri),
                fix="check tracking_uri or MLFLOW_TRACKING_URI, and that the store is writable",
            ) from None


def _within(answer: Any, *names: str) -> dict[str, Any]:
    """An object within a server's answer; empty where the answer has none."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer if isinstance(answer, dict) else {}


def _absolute(uri: str, root: Path) -> str:
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root / uri.removeprefix('sqlite:///')}"
    if "://" not in uri and not uri.startswith(("databricks", "uc")):
        return (root / uri.removeprefix("file:")).as_uri()
    return uri


def _file(uri: str, scheme: str) -> str:
    """The absolute path that a URI names, if it is one of this scheme."""
    path = uri.removeprefix(scheme).partition("?")[0] if uri.startswith(scheme) else uri
    # A file's URI is quoted, a database's is not.
    path = unquote(path) if uri.startswith("file:") else path
    return path if path.startswith("/") else ""


def _model_uri(client: MlflowClient, run: Any) -> str:
    """The run's newest LoggedModel, else the first classic artifact that is a model."""
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if outputs:
        made = {item.model_id: (client.get_logged_model(item.model_id).creation_timestamp,
                                item.step) for item in outputs}
        return f"models:/{max(made, key=lambda model_id: made[model_id])}"
    for item in client.list_artifacts(run.info.run_id):
        if item.is_dir and any(os.path.basename(inner.path) == "MLmodel"
                               for inner in client.list_artifacts(run.info.run_id, item.path)):
            return f"runs:/{run.info.run_id}/{item.path}"
    return ""

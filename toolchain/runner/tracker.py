"""The process that talks to MLflow: one JSON line in, one JSON line out.

It is the only part of the runner that imports mlflow, with whatever version the image has. A
signal is process 1's business: this process ends when its questions end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from toolchain.errors import TrackingError
from toolchain.runner.secret import hidden, shown, without_password

_ANSWERS = 3
# Stores that other programs read by themselves. What a tracking server hands out, or lies on a
# disk, only MLflow finds.
_OBJECT_STORES = ("s3", "gs", "wasb", "wasbs", "abfss", "oss", "b2", "hdfs", "viewfs", "r2",
                  "http", "https", "ftp", "sftp")
_LONGEST = 6000  # characters of a parameter's value that every MLflow store takes


def serve() -> None:
    """Answer until the questions end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    server = Server(os.environ.get("MLFLOW_TRACKING_URI", ""))
    for line in sys.stdin:
        question = json.loads(line)
        answer = server.answer(question.pop("do"), question)
        os.write(_ANSWERS, json.dumps(answer).encode() + b"\n")
    server.close()
    sys.stderr.flush()
    os._exit(0)  # threads of mlflow's are not waited for


class Server:
    """Answers about one run in one tracking store."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._run_id = ""
        self._opened: Any = None
        self._inputs: Path | None = None

    def close(self) -> None:
        """Remove what was fetched."""
        if self._inputs is not None:
            import shutil

            shutil.rmtree(self._inputs, ignore_errors=True)

    def answer(self, action: str, what: dict[str, Any]) -> dict[str, Any]:
        try:
            if action == "start":
                return self.start(**what)
            if action == "end":
                return self.end(**what)
            if action == "fetch":
                return self.fetch(**what)
            return self.artifact(**what)
        except TrackingError as error:
            return {"error": {"what": error.what, "where": error.where, "fix": error.fix}}
        except Exception as error:
            # MLflow passes on what its databases and clients raise, of whatever class. A bug of
            # ours among them would be a traceback's worth, but process 1 must get an answer.
            text = hidden(str(error), os.environ).split("\n")[0][:600] or type(error).__name__
            return {"error": {"what": f"MLflow: {text}", "where": shown(self._uri),
                              "fix": self._remedy(error)}}

    def fetch(self, uri: str, number: int) -> dict[str, Any]:
        """Bring a file or folder from elsewhere; where it is now.

        http and https are read here; every other scheme is MLflow's, as in `mlflow run`.
        """
        from tempfile import mkdtemp

        from toolchain.runner import download

        if self._inputs is None:
            self._inputs = Path(mkdtemp(prefix="toolchain-inputs-"))
        folder = self._inputs / str(number)
        folder.mkdir()
        if uri.startswith(("http://", "https://")):
            return {"path": str(download.fetch(uri, folder))}
        if find_spec("mlflow") is None:
            raise TrackingError(
                "the image has no mlflow, so an input cannot be fetched", where=download.named(uri),
                fix="add mlflow or mlflow-skinny to the project's requirements, or mount the file "
                    "and give its path")
        try:
            from mlflow.artifacts import download_artifacts

            path = download_artifacts(artifact_uri=uri, dst_path=str(folder))
        except Exception as error:  # of whatever library is behind the scheme
            reason = str(error).split("\n")[0][:300] or type(error).__name__
            raise download.failed(uri, hidden(reason, os.environ)) from None
        return {"path": str(path)}

    def start(self, experiment: str, project: str, run_id: str,
              tags: dict[str, str]) -> dict[str, Any]:
        """Begin a run, or join the one that is given."""
        if find_spec("mlflow") is None:
            return {"absent": True}
        if not self._uri:
            raise TrackingError("no tracking server is given", where="MLFLOW_TRACKING_URI",
                                fix="set it, as in `docker run -e MLFLOW_TRACKING_URI=http://…`")
        client = self._client()
        if run_id:
            info = client.get_run(run_id).info
            if info.lifecycle_stage == "deleted":
                raise TrackingError(f"run {run_id} was deleted", where="MLFLOW_RUN_ID",
                                    fix="restore it, or leave MLFLOW_RUN_ID out")
            client.update_run(run_id, status="RUNNING")
            self._run_id = run_id
            return {"run_id": run_id, "experiment_id": info.experiment_id}
        experiment_id = self._experiment(experiment, project)
        created = client.create_run(experiment_id, tags={
            **tags, "mlflow.user": _user(), "mlflow.source.type": "PROJECT",
            "mlflow.source.name": project,
        })
        self._run_id = created.info.run_id
        return {"run_id": self._run_id, "experiment_id": experiment_id}

    def end(self, status: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Give the run its status; log the parameters that it did not log itself."""
        client = self._client()
        if parameters:
            from mlflow.entities import Param

            logged = client.get_run(self._run_id).data.params
            missing = [Param(name, value[:_LONGEST]) for name, value in parameters.items()
                       if name not in logged]
            if missing:
                client.log_batch(self._run_id, params=missing)
        client.set_terminated(self._run_id, status)
        return {}

    def artifact(self, path: str, exactly: bool) -> dict[str, Any]:
        """The URL of what is there under that name; else what there is.

        Unless it is to be exactly that name, the newest model will do.
        """
        client = self._client()
        run = client.get_run(self._run_id)
        models = sorted(self._models(run), key=lambda item: item.creation_timestamp)
        named = [model for model in models if model.name == path]
        if named:
            return {"url": model_url(named[-1])}
        folder = path.rpartition("/")[0]
        if any(item.path == path for item in client.list_artifacts(self._run_id, folder or None)):
            root = without_password(run.info.artifact_uri)
            return {"url": f"{root.rstrip('/')}/{path}"}
        if models and not exactly:
            return {"url": model_url(models[-1])}
        there = [item.path for item in client.list_artifacts(self._run_id)]
        return {"there": sorted({model.name for model in models} | set(there))}

    def _models(self, run: Any) -> Iterator[Any]:
        """The LoggedModels of a run whose files are there; MLflow 2 has none."""
        outputs = getattr(run, "outputs", None)
        for item in outputs.model_outputs if outputs is not None else ():
            model = self._client().get_logged_model(item.model_id)
            if self._client().list_logged_model_artifacts(item.model_id):
                yield model

    def _experiment(self, name: str, project: str) -> str:
        client = self._client()
        if not name and os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=self._files()))
            except Exception:
                found = client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} was deleted", where=shown(self._uri),
                fix="restore it with `mlflow experiments restore`, or give mlflow_experiment")
        return str(found.experiment_id)

    def _files(self) -> str | None:
        """Where a new experiment keeps its artifacts: beside a local database."""
        if not self._uri.startswith("sqlite:///"):
            return None
        database = Path(self._uri[len("sqlite:///"):].partition("?")[0])
        return (Path.cwd() / database.parent / "mlruns").as_uri()

    def _client(self) -> Any:
        if self._opened is None:
            from mlflow import MlflowClient

            for noisy in ("mlflow", "alembic"):  # every step of a new database
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._opened = MlflowClient(tracking_uri=self._uri)
        return self._opened

    def _remedy(self, error: Exception) -> str:
        if isinstance(error, ImportError):
            return f"add {error.name} to the project's requirements"
        if os.environ.get("MLFLOW_RUN_ID") and not self._run_id:
            return "check MLFLOW_RUN_ID and MLFLOW_TRACKING_URI"
        return ("check MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, and that the server can be reached from here")


def model_url(model: Any) -> str:
    """Where a LoggedModel's files are, if a program without MLflow can read them there."""
    location = str(model.artifact_location)
    if urlsplit(location).scheme in _OBJECT_STORES:
        return without_password(location)
    return f"models:/{model.model_id}"


def _user() -> str:
    """Who runs this, as MLflow has it."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())

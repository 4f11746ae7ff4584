"""MLflow as tracker: runs, and whose they are while they run."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from toolchain.adapters import git, model_files
from toolchain.adapters.claims import (
    CLAIM_TAG,
    DONE,
    HEARTBEAT_TAG,
    HELD,
    HOST_TAG,
    OWNER_TAG,
    WANTED,
    Claims,
)
from toolchain.adapters.heartbeat import Heartbeat
from toolchain.adapters.mlflow_models import MlflowModels
from toolchain.adapters.mlflow_store import TrackingStore, file_of, logged, within
from toolchain.adapters.owner import Owner
from toolchain.digest import Digest
from toolchain.errors import TrackingError, without_credentials
from toolchain.run import COMMIT_TAG, IMAGE_TAG, KEY_TAG, LOCK_TAG, Run, Started
from toolchain.trace import Trace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BEAT = 15.0  # seconds from one sign of life to the next
_PATIENCE = 60.0  # seconds without one, of a process that cannot be seen


class Mlflow(MlflowModels):
    """Tracker and Models of one tracking store.

    `uri` may be relative to `root` (`sqlite:///mlflow.db`); the experiments made here keep their
    artifacts under `<root>/mlruns` unless a server decides. `beat`, `patience`: seconds.
    `say` tells people that a server is waited for.
    """

    def __init__(self, uri: str, root: Path, trace: Trace, environ: Mapping[str, str], *,
                 beat: float = _BEAT, patience: float = _PATIENCE,
                 say: Callable[[str], None] = lambda text: None) -> None:
        super().__init__(TrackingStore(uri, root, trace, environ, say))
        self._root = root
        self._environ = environ
        self._heartbeat = Heartbeat(self._beat, beat)
        self._given_up: set[str] = set()
        self._claims = Claims(self._store, self._given_up.__contains__, patience)

    @property
    def uri(self) -> str:
        """The store's address, not relative to anything."""
        return self._store.uri

    @property
    def store(self) -> TrackingStore:
        """Where runs are, for what else is on record of them."""
        return self._store

    # Tracker

    def check(self) -> None:
        self._store.check()

    def find(self, key: Digest, experiment: str) -> Run | None:
        run_id, _ = self._claims.look(key)
        return self.read(run_id, key) if run_id else None

    def follow(self, key: Digest, waiting: Callable[[str], None],
               cancel: threading.Event | None = None) -> Run | None:
        told = ""
        while True:
            found, others = self._claims.look(key)
            if found:
                return self.read(found, key)
            if not others:
                return None
            first = others[0]
            if told != first.info.run_id:
                told = first.info.run_id
                waiting(f"run {told} of {first.data.tags.get(HOST_TAG, 'another machine')} is the "
                        "same training; waiting for it")
            self._claims.wait(first, cancel)

    def claim(self, experiment: str, name: str, tags: Mapping[str, str], folder: str,
              waiting: Callable[[str], None],
              cancel: threading.Event | None = None) -> Started | Run:
        key = Digest.parse(tags[KEY_TAG])
        while True:
            started = self._create(experiment, name, {**tags, CLAIM_TAG: WANTED}, folder)
            won = False
            try:
                won = self._claims.win(key, started.run_id)
            finally:
                if not won:
                    self.withdraw(started)
            if won:
                return started
            found = self.follow(key, waiting, cancel)
            if found is not None:
                return found

    def start(self, experiment: str, name: str, tags: Mapping[str, str], folder: str) -> Started:
        if KEY_TAG in tags:
            self._claims.look(Digest.parse(tags[KEY_TAG]))  # closes those that died
        return self._create(experiment, name, {**tags, CLAIM_TAG: HELD}, folder)

    def take_over(self, begun: Started, key: Digest, run_ids: Sequence[str]) -> Started:
        # Asked of the store, not by its address: two machines may have two names for it.
        run_id = next((run_id for run_id in run_ids if self._has(run_id, key)), "")
        if not run_id:
            return begun
        taken = self.adopt(run_id)
        self.withdraw(begun)
        return taken

    def _has(self, run_id: str, key: Digest) -> bool:
        """Whether such a run of the key is there."""
        from mlflow.exceptions import MlflowException

        with self._store.explained() as client:
            try:
                run = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return False
                raise
        return bool(run.info.lifecycle_stage == "active" and run.data.tags.get(KEY_TAG) == str(key))

    def adopt(self, run_id: str) -> Started:
        """Go on with a run that another process began, as its owner from now on."""
        with self._store.explained() as client:
            run = client.get_run(run_id)
            client.log_batch(run_id, tags=_tags(_owned() | {CLAIM_TAG: HELD}))
            client.update_run(run_id, status="RUNNING")
        self._heartbeat.add(run_id)
        return self._started(run)

    def finish(self, started: Started, status: str, params: Mapping[str, str], *,
               reusable: bool = True) -> None:
        from mlflow.entities import Param

        run_id = started.run_id
        with self.ending(run_id), self._store.explained() as client:
            data = client.get_run(run_id).data
            missing = [Param(name, value) for name, value in params.items()
                       if name not in data.params]
            if not reusable and KEY_TAG in data.tags:
                client.delete_tag(run_id, KEY_TAG)
            # Before its status: one that ends between the two is finished, and is not lost.
            tags = _tags({CLAIM_TAG: DONE}) if status == "FINISHED" else []
            if missing or tags:
                client.log_batch(run_id, params=missing, tags=tags)
            client.set_terminated(run_id, status)

    def is_finished(self, run_id: str) -> bool:
        if self._store.is_sqlite:
            return bool(self._store.ask_sqlite(
                "select 1 from runs where run_uuid=? and status='FINISHED' "
                "and lifecycle_stage='active'", (run_id,)))
        if self._store.is_server:
            from toolchain.adapters.tracking_server import not_mlflow

            answer = self._store.ask_server(f"runs/get?run_id={quote(run_id)}")
            found = within(answer, "run", "info")
            if answer is not None and not isinstance(answer.get("run", {}), dict):
                raise not_mlflow(self._store.uri)
            return bool(found.get("status") == "FINISHED"
                        and found.get("lifecycle_stage") == "active")
        with self._store.explained() as client:
            info = client.get_run(run_id).info
        return bool(info.status == "FINISHED" and info.lifecycle_stage == "active")

    def read(self, run_id: str, key: Digest) -> Run:
        with self._store.explained() as client:
            run = client.get_run(run_id)
            return Run(
                key=key, run_id=run_id, experiment_id=run.info.experiment_id,
                status=run.info.status, params=dict(sorted(run.data.params.items())),
                metrics={name: logged(value) for name, value in sorted(run.data.metrics.items())},
                model_uri=_model_uri(client, run),
            )

    def lineage_of(self, run_id: str) -> dict[str, str]:
        with self._store.explained() as client:
            tags = client.get_run(run_id).data.tags
        return {name: tags[name] for name in (IMAGE_TAG, LOCK_TAG, COMMIT_TAG) if name in tags}

    def model_files(self, run: Run) -> dict[str, Digest]:
        if not run.model_uri:
            return {}
        import mlflow

        with self._store.explained(), self._store.as_default(), \
                tempfile.TemporaryDirectory(prefix="toolchain-") as name:
            folder = Path(mlflow.artifacts.download_artifacts(run.model_uri, dst_path=name))
            return model_files.digests(folder, (run.run_id, run.model_uri.partition("models:/")[2]))

    def tag(self, run_id: str, name: str, value: str) -> None:
        with self._store.explained() as client:
            client.set_tag(run_id, name, value)

    # Common

    def _create(self, experiment: str, name: str, tags: Mapping[str, str], folder: str) -> Started:
        with self._store.explained() as client:
            experiment_id = self._experiment(client, experiment)
        return self.begin(experiment_id, {**tags, **self.common_tags(name, folder)})

    def common_tags(self, name: str, folder: str) -> dict[str, str]:
        """What every run of a project has; git is asked."""
        return {
            **git.tags(Path(folder)),
            "mlflow.user": self._environ.get("USER") or self._environ.get("LOGNAME") or "root",
            "mlflow.source.type": "PROJECT", "mlflow.source.name": name,
        }

    def begin(self, experiment_id: str, tags: Mapping[str, str]) -> Started:
        """Make a run of this process; `tags` says what claim it holds."""
        with self._store.explained() as client:
            created = client.create_run(experiment_id, tags={**tags, **_owned()})
        self._heartbeat.add(created.info.run_id)
        return self._started(created)

    def _started(self, run: Any) -> Started:
        run_id, experiment_id = run.info.run_id, run.info.experiment_id
        return Started(run_id=run_id, experiment_id=experiment_id, environment={
            "MLFLOW_TRACKING_URI": self.uri, "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
        }, database=self._store.file,
            # The experiment's folder: models are beside the run's own folder in it.
            artifacts=file_of(run.info.artifact_uri or "", "file://")
            .partition(f"/{run_id}/artifacts")[0])

    def withdraw(self, started: Started) -> None:
        run_id = started.run_id
        with self.ending(run_id), self._store.explained() as client:
            client.set_terminated(run_id, "KILLED")
            client.delete_run(run_id)

    @contextlib.contextmanager
    def ending(self, run_id: str) -> Iterator[None]:
        """A run that cannot be ended is nobody's afterwards, though its process lives on."""
        try:
            yield
        except BaseException:
            self._given_up.add(run_id)
            raise
        finally:
            self._heartbeat.drop(run_id)

    def _beat(self, run_id: str) -> None:
        with self._store.explained() as client:
            client.set_tag(run_id, HEARTBEAT_TAG, _now())

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} was deleted", where=without_credentials(self.uri),
                fix="restore it with `mlflow experiments restore`, or set `experiment`",
            )
        if found is not None:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        try:
            return str(client.create_experiment(
                name, artifact_location=(self._root / "mlruns").as_uri() if local else None))
        except MlflowException:
            again = client.get_experiment_by_name(name)  # another process was faster
            if again is None:
                raise
            return str(again.experiment_id)


def _owned() -> dict[str, str]:
    owner = Owner.here()
    return {OWNER_TAG: owner.text, HOST_TAG: owner.host, HEARTBEAT_TAG: _now()}


def _now() -> str:
    return f"{time.time():.3f}"


def _tags(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, value) for name, value in values.items()]


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

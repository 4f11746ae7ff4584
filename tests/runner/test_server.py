"""The runner against an MLflow server, as in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.runner import Rootfs, spec
from tests.support.services import mlflow_server

_TRAIN = '''\
import mlflow, sys
with mlflow.start_run():
    mlflow.log_metric("loss", 0.25)
    mlflow.log_text("flavors: {}", "model/MLmodel")
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def test_a_run_of_a_server(server: str, tmp_path: Path) -> None:
    rootfs = Rootfs(tmp_path / "root", spec(main="python train.py"))
    (rootfs.project / "train.py").write_text(_TRAIN)
    rootfs.run("rate=2,epochs=3", MLFLOW_TRACKING_URI=server, FUSEML_MLFLOW_EXPERIMENT="by fuseml",
               TASK_RESULT=str(tmp_path / "url"))
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("by fuseml")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.25}
    assert run.data.params["epochs"] == "3"
    url = (tmp_path / "url").read_text()
    assert url == f"{run.info.artifact_uri}/model"
    assert url.startswith("mlflow-artifacts:/")
    assert [item.path for item in client.list_artifacts(run.info.run_id, "model")] == [
        "model/MLmodel"]


def test_a_server_that_refuses_is_named(server: str, tmp_path: Path) -> None:
    rootfs = Rootfs(tmp_path / "root", spec(main="echo job"))
    done = rootfs.run(MLFLOW_TRACKING_URI=server, MLFLOW_EXPERIMENT_ID="4711", expect=1)
    assert "MLflow: " in done.stderr
    assert f"at {server}" in done.stderr
    assert "job" not in done.stdout

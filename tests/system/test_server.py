"""Training and registering against an MLflow server instead of a local database."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.monorepo import Monorepo, ran
from tests.support.services import mlflow_server

# Logs a parameter and an artifact that is a model over MLflow's REST interface, without mlflow.
TRAIN = '''\
import json, os, urllib.request
root, run = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_RUN_ID"]

def call(method, path, data):
    request = urllib.request.Request(root + path, data, method=method,
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        response.read()

call("POST", "/api/2.0/mlflow/runs/log-parameter",
     json.dumps({"run_id": run, "key": "own", "value": "1"}).encode())
call("POST", "/api/2.0/mlflow/runs/log-metric", json.dumps(
    {"run_id": run, "key": "loss", "value": 0.25, "timestamp": 1, "step": 0}).encode())
experiment = os.environ["MLFLOW_EXPERIMENT_ID"]
call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/model/MLmodel",
     b"flavors: {}")
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def test_a_server_is_used_like_a_database(monorepo: Monorepo, server: str) -> None:
    folder = monorepo.add("one")
    (folder / "train.py").write_text(TRAIN)
    monorepo.environment["MLFLOW_TRACKING_URI"] = server
    monorepo.database.unlink()
    output = monorepo.doit("register")
    stages = ran(output, "one")
    assert stages["train"] == stages["register"] == "made"
    run = monorepo.receipt("one", "train")
    assert (f"one: see it at {server}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}\n"
            in output)
    assert run["params"] == {"own": "1", "rate": "0.5"}
    assert run["metrics"] == {"loss": 0.25}
    assert run["model_uri"] == f"runs:/{run['run_id']}/model"
    assert monorepo.receipt("one", "register")["version"] == "1"
    assert not monorepo.database.exists()
    # A second call asks the server and finds both; so does another machine with the same server.
    assert set(ran(monorepo.doit("register"), "one").values()) == {"fresh"}


def test_another_machine_does_not_train_again(
    monorepo: Monorepo, server: str, tmp_path: Path
) -> None:
    folder = monorepo.add("shared", files={"unique.txt": str(tmp_path)})
    (folder / "train.py").write_text(TRAIN)
    monorepo.environment["MLFLOW_TRACKING_URI"] = server
    monorepo.doit("register")
    first = monorepo.receipt("shared", "train")
    import shutil

    shutil.rmtree(monorepo.folder / "cache")
    output = monorepo.doit("register")
    assert f"reused run {first['run_id']}" in output
    assert monorepo.receipt("shared", "register")["version"] == "1"


def test_a_server_that_is_gone_is_named_without_credentials(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("train", "tracking_uri=http://user:secret@127.0.0.1:9", expect=1)
    assert "secret" not in output
    assert "the tracking server cannot be reached" in output
    assert "at http://127.0.0.1:9" in output


@pytest.mark.parametrize("asked", ["train", "sweep", "best"])
def test_a_server_that_is_gone_is_noticed_before_anything_is_built(
    monorepo: Monorepo, asked: str
) -> None:
    folder = monorepo.add("one")
    (folder / "sweep.yaml").write_text(
        "method: grid\nmetric: {name: loss, goal: minimize}\nparameters: {rate: {values: [1]}}\n")
    monorepo.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    output = monorepo.doit(asked, "project=one", expect=1)
    assert "the tracking server cannot be reached: [Errno 111] Connection refused\n" in output
    assert "  fix: check that it runs" in output
    assert set(ran(output, "one")) & {"resolve", "base", "layer", "push"} == set()
    assert monorepo.doit("push")  # which needs no server


def test_a_server_that_says_nothing_is_waited_for_a_short_time(monorepo: Monorepo) -> None:
    monorepo.add("one")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monorepo.environment |= {"MLFLOW_TRACKING_URI": where,
                                 "MLFLOW_HTTP_REQUEST_TIMEOUT": "6"}
        output = monorepo.doit("train", expect=1)
    assert output.count(f"waiting for the tracking server {where}\n") == 1
    assert "the tracking server cannot be reached: timed out\n" in output
    assert "base" not in ran(output, "one")

"""What is downloaded of a server to be compared is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.services import mlflow_server
from toolchain.adapters.mlflow import Mlflow
from toolchain.digest import Digest
from toolchain.run import KEY_TAG, Run
from toolchain.trace import Trace


def test_a_models_files_leave_nothing_behind(tmp_path: Path, trace: Trace,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    key = Digest.of(b"key")
    scratch = tmp_path / "scratch"
    model = tmp_path / "model"
    for folder in (scratch, model, tmp_path / "server"):
        folder.mkdir()
    (model / "MLmodel").write_text("run_id: 1\nflavors: {}\n")
    (model / "weights").write_bytes(b"weights")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with mlflow_server(tmp_path / "server") as url:
        mlflow = Mlflow(url, tmp_path, trace, os.environ)
        started = mlflow.start("one", "project", {KEY_TAG: str(key)}, str(tmp_path))
        with mlflow.store.explained() as client:
            client.log_artifact(started.run_id, str(model))
        mlflow.finish(started, "FINISHED", {})
        run = mlflow.find(key, "one")
        assert isinstance(run, Run)
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        found = mlflow.model_files(run)
    assert found == {"MLmodel": Digest.of(b"flavors: {}\n"), "weights": Digest.of(b"weights")}
    assert list(scratch.iterdir()) == []

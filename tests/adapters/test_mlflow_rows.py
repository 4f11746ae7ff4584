"""The end of a run in a sqlite store: as MLflow's client would have written it, or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from toolchain.adapters.mlflow_rows import End, write


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "a store.db"


@pytest.fixture(scope="module")
def client(path: Path) -> Any:
    from mlflow import MlflowClient

    made = MlflowClient(f"sqlite:///{path}")
    made.create_experiment("one")
    return made


def _run(client: Any, **tags: str) -> Any:
    return client.create_run(client.get_experiment_by_name("one").experiment_id, tags=tags)


def test_mlflow_reads_what_was_written(client: Any, path: Path) -> None:
    run = _run(client, claim="held", key="sha256:1", other="stays")
    client.log_param(run.info.run_id, "alpha", "by the script")
    end = End(status="FINISHED", params={"alpha": "ours", "beta": "0.5"},
              tags={"claim": "done", "state": "COMPLETE"}, dropped="key")
    assert write(str(path), run.info.run_id, end)
    found = client.get_run(run.info.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.end_time >= run.info.start_time
    assert found.data.params == {"alpha": "by the script", "beta": "0.5"}
    assert {name: text for name, text in found.data.tags.items() if "mlflow" not in name} == {
        "claim": "done", "state": "COMPLETE", "other": "stays"}
    # As the client itself ends a run, so that whatever MLflow does with it goes on as ever.
    client.set_tag(run.info.run_id, "later", "1")
    assert [one.info.run_id for one in client.search_runs(
        [run.info.experiment_id], "tags.state = 'COMPLETE' and params.beta = '0.5'")] == [
            run.info.run_id]


@pytest.mark.parametrize("params", [{"x": "y" * 501}, {"a name": "1"}, {"": "1"}, {"a/b": "1"}])
def test_what_is_not_plain_is_left_to_mlflow(client: Any, path: Path,
                                             params: dict[str, str]) -> None:
    run = _run(client)
    assert not write(str(path), run.info.run_id, End(status="FINISHED", params=params))
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_deleted_run_is_left_to_mlflow(client: Any, path: Path) -> None:
    run = _run(client)
    client.delete_run(run.info.run_id)
    assert not write(str(path), run.info.run_id, End(status="FINISHED", tags={"a": "b"}))


@pytest.mark.parametrize("change", [
    "alter table tags add column place text not null",
    "alter table runs rename column end_time to ended",
])
def test_another_schema_is_left_to_mlflow(tmp_path: Path, change: str) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as made:
        made.executescript(
            "create table runs (run_uuid text primary key, status text, end_time bigint, "
            "lifecycle_stage text);"
            "create table params (key text, value text not null, run_uuid text, "
            "primary key (key, run_uuid));"
            "create table tags (key text, value text, run_uuid text, primary key (key, run_uuid));"
            "insert into runs values ('r', 'RUNNING', null, 'active');")
    assert write(str(path), "r", End(status="FINISHED"))
    with sqlite3.connect(path) as made:
        made.execute("delete from tags")
        made.execute("update runs set status = 'RUNNING'")
        made.execute(change)
    assert not write(str(path), "r", End(status="FINISHED", tags={"a": "b"}))
    with sqlite3.connect(path) as made:
        assert made.execute("select status from runs").fetchall() == [("RUNNING",)]


def test_all_or_nothing(client: Any, path: Path) -> None:
    run = _run(client)
    tags: Any = {"good": "1", "bad": object()}
    with pytest.raises(sqlite3.Error):
        write(str(path), run.info.run_id, End(status="FINISHED", params={"a": "1"}, tags=tags))
    found = client.get_run(run.info.run_id)
    assert (found.info.status, found.data.params) == ("RUNNING", {})

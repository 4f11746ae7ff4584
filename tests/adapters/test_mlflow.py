"""Runs and models in a real MLflow store, found again by training key."""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolchain import model
from toolchain.adapters.mlflow import Mlflow
from toolchain.digest import Digest
from toolchain.errors import TrackingError
from toolchain.journal import Journal
from toolchain.run import IMAGE_TAG, KEY_TAG, LOCK_TAG, Run, Started
from toolchain.trace import Trace

_COUNT = itertools.count()


class Tracked:
    """One sqlite store for all tests of this module (making one takes seconds)."""

    def __init__(self, root: Path) -> None:
        from mlflow import MlflowClient

        self.root = root
        self.trace = Trace(root / "cache", Journal(root / "cache"))
        self.mlflow = Mlflow("sqlite:///mlflow.db", root, self.trace, {"USER": "somebody"})
        self.mlflow.find(Digest.of(b"makes the database"), "any")
        self.client: Any = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")

    def start(self, key: Digest, experiment: str = "one", **tags: str) -> Started:
        return self.mlflow.start(experiment, "project", {KEY_TAG: str(key), **tags},
                                 str(self.root))

    def done(self, key: Digest, experiment: str = "one", status: str = "FINISHED",
             **params: str) -> Started:
        started = self.start(key, experiment)
        self.mlflow.finish(started, status, params)
        return started

    def with_model(self, key: Digest) -> Run:
        """A finished run that logged a model as files among its artifacts."""
        started = self.start(key)
        folder = self.root / "a model"
        folder.mkdir(exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {}\n")
        self.client.log_artifacts(started.run_id, str(folder), "classifier")
        self.mlflow.finish(started, "FINISHED", {})
        return self.mlflow.read(started.run_id, key)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    before, folder = dict(os.environ), Path.cwd()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # MLflow's own default store is another one, below the current folder.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield Tracked(tmp_path_factory.mktemp("tracked"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def key() -> Digest:
    """A training key that no other test has."""
    return Digest.of(f"key {next(_COUNT)}".encode())


def test_a_relative_database_is_below_the_workspace(tracked: Tracked) -> None:
    assert (tracked.root / "mlflow.db").is_file()
    assert not list(tracked.root.glob(".mlflow-*"))
    started = tracked.start(Digest.of(b"where"))
    assert started.environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{tracked.root}/mlflow.db"


def test_a_run_that_was_started_says_who_and_what(tracked: Tracked, key: Digest) -> None:
    started = tracked.start(key, "named", extra="tag")
    run = tracked.client.get_run(started.run_id)
    assert run.info.status == "RUNNING"
    assert tracked.client.get_experiment(started.experiment_id).name == "named"
    assert started.environment["MLFLOW_RUN_ID"] == started.run_id
    assert started.environment["MLFLOW_EXPERIMENT_ID"] == started.experiment_id
    tags = run.data.tags
    assert {name: tags[name] for name in (
        KEY_TAG, "extra", "mlflow.user", "mlflow.source.type", "mlflow.source.name")} == {
        KEY_TAG: str(key), "extra": "tag", "mlflow.user": "somebody",
        "mlflow.source.type": "PROJECT", "mlflow.source.name": "project"}


def test_a_finished_run_is_found_by_its_key_in_whatever_experiment(
    tracked: Tracked, key: Digest
) -> None:
    assert tracked.mlflow.find(key, "one") is None
    started = tracked.done(key, "elsewhere", rate="0.5")
    found = tracked.mlflow.find(key, "one")
    assert found == tracked.mlflow.read(started.run_id, key)
    assert (found.run_id, found.status, found.key) == (started.run_id, "FINISHED", key)
    assert (found.params, found.model_uri) == ({"rate": "0.5"}, "")
    assert Run.from_json(found.to_json()) == found
    assert tracked.mlflow.is_finished(started.run_id)


def test_the_newest_of_several_runs_is_found(tracked: Tracked, key: Digest) -> None:
    old = tracked.done(key).run_id
    new = tracked.done(key).run_id
    tracked.client.update_run(old, status="FINISHED")
    found = tracked.mlflow.find(key, "one")
    assert found is not None
    ends = {run: tracked.client.get_run(run).info.end_time for run in (old, new)}
    assert ends[found.run_id] == max(ends.values())


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_finish_is_not_found(
    tracked: Tracked, key: Digest, status: str
) -> None:
    started = tracked.done(key, status=status)
    assert tracked.client.get_run(started.run_id).info.status == status
    assert tracked.mlflow.find(key, "one") is None
    assert not tracked.mlflow.is_finished(started.run_id)
    assert not tracked.mlflow.is_finished(tracked.start(key).run_id)
    assert not tracked.mlflow.is_finished("no such run")


def test_a_run_that_was_deleted_is_not_found_until_it_is_restored(
    tracked: Tracked, key: Digest
) -> None:
    run_id = tracked.done(key).run_id
    tracked.client.delete_run(run_id)
    assert tracked.mlflow.find(key, "one") is None
    assert not tracked.mlflow.is_finished(run_id)
    tracked.client.restore_run(run_id)
    assert tracked.mlflow.find(key, "one") is not None
    assert tracked.mlflow.is_finished(run_id)


def test_what_a_killed_writer_left_half_done_is_undone(tracked: Tracked, key: Digest) -> None:
    run_id = tracked.done(key).run_id
    path = tracked.mlflow.store.file
    assert path
    # So much that a part of it is in the file before it is committed.
    writer = subprocess.Popen([sys.executable, "-c", f"""if True:
        import sqlite3, time
        connection = sqlite3.connect({path!r}, isolation_level=None, timeout=60)
        connection.execute("create table if not exists many (text)")
        connection.executemany("insert into many values (?)", [("a" * 500,)] * 2000)
        connection.execute("pragma cache_size=5")
        connection.execute("begin")
        connection.execute("update many set text = 'b' || text")
        connection.execute("update runs set status = 'FAILED'")
        print("ready", flush=True)
        time.sleep(60)"""], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    writer.kill()
    writer.communicate()
    assert Path(f"{path}-journal").stat().st_size
    assert tracked.mlflow.is_finished(run_id)
    tracked.client.set_tag(run_id, "and", "goes on")


def test_an_experiment_that_was_deleted_is_not_used(tracked: Tracked, key: Digest) -> None:
    started = tracked.done(key, "short-lived")
    tracked.client.delete_experiment(started.experiment_id)
    assert tracked.mlflow.find(key, "short-lived") is None
    assert not tracked.mlflow.is_finished(started.run_id)
    with pytest.raises(TrackingError, match="experiment 'short-lived' was deleted") as caught:
        tracked.start(key, "short-lived")
    assert "restore" in caught.value.fix


def test_params_that_the_run_did_not_log_itself_are_logged(
    tracked: Tracked, key: Digest
) -> None:
    started = tracked.start(key)
    tracked.client.log_param(started.run_id, "rate", "its own")
    given = {"rate": "ours", "depth": "3", **{f"p{number:03}": "x" for number in range(150)}}
    tracked.mlflow.finish(started, "FINISHED", given)
    assert tracked.mlflow.read(started.run_id, key).params == {**given, "rate": "its own"}


def test_metrics_are_the_last_ones_and_text_where_they_are_no_number(
    tracked: Tracked, key: Digest
) -> None:
    started = tracked.start(key)
    for step, value in enumerate((0.5, 0.75)):
        tracked.client.log_metric(started.run_id, "score", value, step=step)
    tracked.client.log_metric(started.run_id, "loss", math.nan)
    tracked.mlflow.finish(started, "FINISHED", {})
    run = tracked.mlflow.read(started.run_id, key)
    assert run.metrics == {"score": 0.75, "loss": "NaN"}
    assert Run.from_json(run.to_json()) == run


def test_runs_of_a_key_whose_process_died_are_closed(tracked: Tracked, key: Digest) -> None:
    """Of an earlier version of this tool too, which said only on which machine it was."""
    dead, other_host = tracked.start(key), tracked.start(key)
    other_key = tracked.start(Digest.of(b"another key"))
    for run, host in ((dead, socket.gethostname()), (other_host, "not-this-one")):
        tracked.client.delete_tag(run.run_id, "toolchain.owner")
        tracked.client.set_tag(run.run_id, "toolchain.host", host)
    new = tracked.start(key)
    statuses = {name: tracked.client.get_run(started.run_id).info.status for name, started in {
        "dead": dead, "key": other_key, "host": other_host, "new": new}.items()}
    assert statuses == {"dead": "FAILED", "key": "RUNNING", "host": "RUNNING", "new": "RUNNING"}


def test_a_run_that_died_in_another_experiment_is_closed_too(
    tracked: Tracked, key: Digest
) -> None:
    """The key is the same whatever the experiment is called meanwhile."""
    dead = tracked.start(key, "before")
    tracked.client.delete_tag(dead.run_id, "toolchain.owner")
    tracked.start(key, "after")
    assert tracked.client.get_run(dead.run_id).info.status == "FAILED"


def test_a_model_among_the_artifacts_is_found(tracked: Tracked, key: Digest) -> None:
    run = tracked.with_model(key)
    assert run.model_uri == f"runs:/{run.run_id}/classifier"


def test_artifacts_that_are_no_model_are_not_taken_for_one(
    tracked: Tracked, key: Digest
) -> None:
    started = tracked.start(key)
    tracked.client.log_text(started.run_id, "x", "plots/plot.txt")
    tracked.client.log_text(started.run_id, "x", "notes/NotMLmodel")
    tracked.client.log_text(started.run_id, "x", "MLmodel.txt")
    tracked.mlflow.finish(started, "FINISHED", {})
    assert tracked.mlflow.read(started.run_id, key).model_uri == ""


def test_the_newest_logged_model_is_the_runs(tracked: Tracked, key: Digest) -> None:
    from mlflow.entities import LoggedModelOutput

    started = tracked.start(key)
    for step in range(2):
        logged = tracked.client.create_logged_model(
            started.experiment_id, name="model", source_run_id=started.run_id)
        tracked.client.log_outputs(started.run_id, [LoggedModelOutput(logged.model_id, step)])
    tracked.mlflow.finish(started, "FINISHED", {})
    run = tracked.mlflow.read(started.run_id, key)
    assert run.model_uri == f"models:/{logged.model_id}"


def test_a_logged_model_is_registered_from_the_store_that_is_set(
    tracked: Tracked, key: Digest
) -> None:
    """Whatever MLflow's own default store is, and without changing it for the process."""
    started = tracked.start(key)
    logged = tracked.client.create_logged_model(
        started.experiment_id, name="model", source_run_id=started.run_id)
    tracked.mlflow.finish(started, "FINISHED", {})
    run = replace(tracked.mlflow.read(started.run_id, key),
                  model_uri=f"models:/{logged.model_id}")
    version = model.make(run, f"logged-{key.hex[:8]}", "candidate", {}, tracked.mlflow)
    assert tracked.client.get_model_version(version.name, version.version).run_id == run.run_id
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_model_is_registered_once_and_the_alias_moves(tracked: Tracked, key: Digest) -> None:
    run, name = tracked.with_model(key), f"model-{key.hex[:8]}"
    first = model.make(run, name, "candidate", {"lineage": "x"}, tracked.mlflow)
    assert model.make(run, name, "candidate", {}, tracked.mlflow) == first
    assert (first.version, first.run_id) == ("1", run.run_id)
    assert tracked.client.get_model_version(name, "1").tags == {"lineage": "x"}
    assert tracked.mlflow.has_version(name, "1", "candidate")
    assert not tracked.mlflow.has_version(name, "1", "champion")
    assert not tracked.mlflow.has_version("no-such-model", "1", "candidate")

    second = model.make(tracked.with_model(key), name, "candidate", {}, tracked.mlflow)
    assert second.version == "2"
    assert str(tracked.client.get_model_version_by_alias(name, "candidate").version) == "2"
    assert tracked.mlflow.has_version(name, "2", "candidate")
    assert not tracked.mlflow.has_version(name, "1", "candidate")
    back = model.make(run, name, "candidate", {}, tracked.mlflow)
    assert (back, tracked.mlflow.version_of(name, second.run_id)) == (first, "2")
    assert tracked.mlflow.has_version(name, "1", "candidate")


def test_a_version_that_was_deleted_is_registered_again(tracked: Tracked, key: Digest) -> None:
    run, name = tracked.with_model(key), f"model-{key.hex[:8]}"
    first = model.make(run, name, "candidate", {}, tracked.mlflow)
    tracked.client.delete_model_version(name, first.version)
    assert tracked.mlflow.version_of(name, run.run_id) is None
    assert not tracked.mlflow.has_version(name, first.version, "candidate")
    assert model.make(run, name, "candidate", {}, tracked.mlflow).version == "2"


def test_a_run_without_a_model_cannot_be_registered(tracked: Tracked, key: Digest) -> None:
    run = tracked.mlflow.read(tracked.done(key).run_id, key)
    with pytest.raises(TrackingError, match="logged no model") as caught:
        model.make(run, "empty", "candidate", {}, tracked.mlflow)
    assert run.run_id in caught.value.where
    assert tracked.mlflow.version_of("empty", run.run_id) is None


def test_what_a_run_was_made_from_is_kept(tracked: Tracked, key: Digest, tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.invalid"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"],
                      ["remote", "add", "origin", "https://me:hunter2@git.example/x.git"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True,
                            text=True).stdout.strip()
    started = tracked.mlflow.start("one", "project", {
        KEY_TAG: str(key), IMAGE_TAG: "one@sha256:1", LOCK_TAG: "sha256:2"}, str(tmp_path))
    assert tracked.mlflow.lineage_of(started.run_id) == {
        IMAGE_TAG: "one@sha256:1", LOCK_TAG: "sha256:2", "mlflow.source.git.commit": commit}
    tags = tracked.client.get_run(started.run_id).data.tags
    assert tags["mlflow.source.git.repoURL"] == "https://git.example/x.git"


def test_what_the_store_does_not_know_is_a_tracking_error(tracked: Tracked, key: Digest) -> None:
    for ask in (lambda: tracked.mlflow.read("no-such-run", key),
                lambda: tracked.mlflow.lineage_of("no-such-run"),
                lambda: tracked.mlflow.set_alias("no-such-model", "candidate", "1")):
        with pytest.raises(TrackingError, match="no-such-") as caught:
            ask()
        assert caught.value.where.startswith("sqlite:///")
        assert caught.value.fix

"""What a sweep reads from a sqlite store: the same as MLflow says of it, in one statement."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import mlflow_server
from toolchain.adapters import trial_rows
from toolchain.adapters.claims import CLAIM_TAG, DONE, HELD
from toolchain.adapters.known_trials import KnownTrials
from toolchain.adapters.mlflow import Mlflow
from toolchain.adapters.trials import MlflowTrials
from toolchain.digest import Digest
from toolchain.journal import Journal
from toolchain.run import KEY_TAG
from toolchain.sweep import Metric
from toolchain.sweep.trial import EARLY_TAG, PARAM_TAG, PRUNED, STATE_TAG, member_tag
from toolchain.trace import Trace

_MINE = {member_tag("mine"): "1"}
_INFINITY = float("inf")


class Both:
    """One database, read as a file and through a server."""

    def __init__(self, folder: Path, url: str) -> None:
        from mlflow import MlflowClient

        trace = Trace(folder / "cache", Journal(folder / "cache"))
        self.file, self.server = (
            MlflowTrials(Mlflow(uri, folder, trace, {}))
            for uri in (f"sqlite:///{folder / 'server.db'}", url))
        self.client: Any = MlflowClient(url)
        self.folder = folder
        self.count = 0

    def run(self, experiment: str, tags: dict[str, str], status: str, loss: float | None) -> str:
        found = self.client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self.client.create_experiment(
            experiment, artifact_location=(self.folder / "files").as_uri())
        self.count += 1
        run = self.client.create_run(place, start_time=self.count, tags={
            KEY_TAG: str(Digest.of(b"%d" % self.count)), CLAIM_TAG: DONE, **tags})
        if loss is not None:
            self.client.log_metric(run.info.run_id, "loss", loss)
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status, end_time=self.count)
        run_id: str = run.info.run_id
        return run_id


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    before = dict(os.environ)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with mlflow_server(folder) as url:
        made = Both(folder, url)
        for tags, status, loss in (
                ({}, "FINISHED", 3.0), ({}, "FINISHED", 1.0), ({}, "FINISHED", 1.0),
                ({}, "FINISHED", float("nan")), ({}, "FINISHED", -_INFINITY),
                ({}, "FINISHED", _INFINITY), ({}, "FINISHED", None), ({}, "FAILED", 0.1),
                ({}, "KILLED", 0.2), ({}, "RUNNING", 0.4),
                ({STATE_TAG: PRUNED, EARLY_TAG: "type=median"}, "KILLED", 0.3),
                ({CLAIM_TAG: HELD}, "FINISHED", 0.5), ({member_tag("mine"): "0"}, "FINISHED", 0.6)):
            made.run("one", {**_MINE, f"{PARAM_TAG}x": str(loss), **tags}, status, loss)
        made.run("one", {member_tag("other"): "1"}, "FINISHED", 0.7)
        made.run("two", {**_MINE, f"{PARAM_TAG}x": "9.0"}, "FINISHED", 9.0)
        made.run("gone", _MINE, "FINISHED", 0.8)
        made.client.delete_experiment(made.client.get_experiment_by_name("gone").experiment_id)
        made.client.delete_run(made.run("one", _MINE, "FINISHED", 0.9))
        yield made
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("identity", ["mine", "other", "nobody's"])
def test_the_same_members(both: Both, identity: str) -> None:
    ours = list(both.file.members(identity))
    assert sorted(ours, key=str) == sorted(both.server.members(identity), key=str)
    assert len(ours) == {"mine": 9, "other": 1}.get(identity, 0)
    assert [member.early for member in ours if member.is_pruned] == (
        ["type=median"] if identity == "mine" else [])


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("identity", ["mine", "other", "nobody's"])
@pytest.mark.parametrize("name", ["loss", "none such"])
def test_the_same_best(both: Both, identity: str, goal: str, name: str) -> None:
    metric = Metric(name=name, goal=goal)
    ours = both.file.best(identity, metric)
    assert ours == both.server.best(identity, metric)
    if (identity, name) == ("mine", "loss"):
        assert ours is not None
        assert ours.run.metrics["loss"] == (1.0 if goal == "minimize" else 9.0)
        assert ours.params == {"x": str(ours.run.metrics["loss"])}


def test_a_listing_does_not_ask_once_per_trial(both: Both, tmp_path: Path) -> None:
    """Neither MLflow's database nor Optuna's."""
    import optuna
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    asked: list[str] = []
    here = threading.get_ident()  # runs that are going on give signs of life from elsewhere

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if threading.get_ident() == here:
            asked.append(statement)

    def ask(sql: str, values: tuple[Any, ...]) -> list[Any]:
        asked.append(sql)
        return both.file._store.ask_sqlite(sql, values)

    path = f"sqlite:///{tmp_path / 'sweeps.db'}"
    study = optuna.create_study(storage=path, study_name="one")
    metric, counts = Metric(name="loss", goal="minimize"), []
    for trials in (5, 40):
        for _ in range(trials):
            both.run("one", {member_tag("long"): "1"}, "FINISHED", 1.0)
            study.add_trial(optuna.create_trial(value=1.0))
        storage = optuna.storages.get_storage(path)
        asked.clear()
        event.listen(Engine, "before_cursor_execute", note)
        try:
            known = KnownTrials(storage, "one")
            again = optuna.load_study(study_name="one", storage=known)
            assert trial_rows.best(ask, "long", metric) is not None
            counts.append((len(again.get_trials()), len(trial_rows.members(ask, "long")),
                           len(asked)))
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert [found[:2] for found in counts] == [(5, 5), (45, 45)]
    assert counts[0][2] == counts[1][2] < 20

"""Sweeps in an MLflow tracking store: a parent run, and what its trials say while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.adapters import mlflow_rows, trial_rows
from toolchain.adapters.claims import CLAIM_TAG, DONE, HELD, WANTED
from toolchain.adapters.mlflow import Mlflow
from toolchain.adapters.mlflow_store import experiment_ids, logged
from toolchain.digest import Digest
from toolchain.run import KEY_TAG, Started
from toolchain.sweep import Metric
from toolchain.sweep.trial import (
    EARLY_TAG,
    PARENT_TAG,
    PRUNED,
    STATE_TAG,
    SWEEP_TAG,
    Found,
    Member,
    Parent,
    Winner,
    member_tag,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000
_LONGEST = 5000  # characters of a tag's value that every MLflow store takes


class MlflowTrials:
    """Implements toolchain.sweep.trial.Records with the store of a tracker."""

    def __init__(self, mlflow: Mlflow) -> None:
        self._mlflow = mlflow
        self._store = mlflow.store

    def begin(self, experiment: str, name: str, identity: str, tags: Mapping[str, str],
              folder: str) -> Parent:
        common = self._mlflow.common_tags(name, folder)
        with self._store.explained() as client:
            found = self._search(client, f"tags.`{SWEEP_TAG}` = '{identity}'")
        if not found:
            started = self._mlflow.start(experiment, name, {**tags, SWEEP_TAG: identity}, folder)
        else:
            started = self._mlflow.adopt(found[0].info.run_id)
            self._close_dead(started.run_id)
            self.mark(started.run_id, tags)
        return Parent(run_id=started.run_id, experiment_id=started.experiment_id,
                      experiment=experiment, project=name, folder=folder, tags=common)

    def members(self, identity: str) -> list[Member]:
        if self._store.is_sqlite:
            return trial_rows.members(self._store.ask_sqlite, identity)
        with self._store.explained() as client:
            found = self._search(client, f"tags.`{member_tag(identity)}` = '1'")
        return [Member(run_id=run.info.run_id, key=run.data.tags.get(KEY_TAG, ""),
                       is_pruned=run.info.status == "KILLED",
                       early=run.data.tags.get(EARLY_TAG, ""))
                for run in found
                if (run.info.status == "FINISHED" and not _is_open(run))
                or (run.info.status == "KILLED" and run.data.tags.get(STATE_TAG) == PRUNED)]

    def find(self, key: Digest) -> Found | None:
        if not self._store.is_sqlite:
            run = self._mlflow.find(key, "")
            return Found(run_id=run.run_id, metrics=run.metrics) if run is not None else None
        run_id = trial_rows.finished(self._store.ask_sqlite, key)
        return self._logged(run_id) if run_id else None

    def start(self, parent: Parent, key: Digest, tags: Mapping[str, str],
              waiting: Callable[[str], None], cancel: threading.Event) -> Started | Found:
        tags = {**tags, KEY_TAG: str(key)}
        if self._store.is_sqlite:
            # As in `claim`, begun held at once: of two that do so one at least sees the other,
            # since each looks after it can be seen. Whoever sees another, be it one that has ended
            # since `find`, takes the long way.
            started = self._mlflow.begin(
                parent.experiment_id, {**parent.tags, **tags, CLAIM_TAG: HELD})
            if not trial_rows.has_others(self._store.ask_sqlite, key, started.run_id):
                return started
            self._mlflow.withdraw(started)
        got = self._mlflow.claim(parent.experiment, parent.project, tags, parent.folder, waiting,
                                 cancel)
        return got if isinstance(got, Started) else Found(run_id=got.run_id, metrics=got.metrics)

    def take_over(self, begun: Started, key: Digest, run_ids: Sequence[str]) -> Started:
        return self._mlflow.take_over(begun, key, run_ids)

    def withdraw(self, started: Started) -> None:
        self._mlflow.withdraw(started)

    def finish(self, started: Started, status: str, params: Mapping[str, str],
               tags: Mapping[str, str], *, reusable: bool = True) -> Found:
        run_id = started.run_id
        done = {CLAIM_TAG: DONE} if status == "FINISHED" else {}
        tags = {name: value[:_LONGEST] for name, value in {**tags, **done}.items()}
        end = mlflow_rows.End(status=status, params=params, tags=tags,
                              dropped="" if reusable else KEY_TAG)
        with self._mlflow.ending(run_id):
            if self._store.is_sqlite:
                found = self._logged(run_id)
                if self._store.end_sqlite(run_id, end):
                    return found
            return self._end(run_id, end)

    def _end(self, run_id: str, end: mlflow_rows.End) -> Found:
        from mlflow.entities import Param, RunTag

        with self._store.explained() as client:
            data = client.get_run(run_id).data
            if end.dropped in data.tags:
                client.delete_tag(run_id, end.dropped)
            # Before its status: one that ends between the two is finished, and is not lost.
            client.log_batch(
                run_id, params=[Param(name, value) for name, value in end.params.items()
                                if name not in data.params],
                tags=[RunTag(name, value) for name, value in end.tags.items()])
            client.set_terminated(run_id, end.status)
            return Found(run_id=run_id, metrics={
                name: logged(value) for name, value in data.metrics.items()})

    def _logged(self, run_id: str) -> Found:
        rows = self._store.ask_sqlite(
            "select key, value, is_nan from latest_metrics where run_uuid=?", (run_id,))
        return Found(run_id=run_id, metrics={
            name: "NaN" if is_nan else logged(value) for name, value, is_nan in rows})

    def histories(self, run_ids: Sequence[str], metric: str
                  ) -> dict[str, list[tuple[int, float]]]:
        with self._store.explained() as client:
            return {run_id: _in_order(client.get_metric_history(run_id, metric))
                    for run_id in run_ids}

    def mark(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with self._store.explained() as client:
            client.log_batch(run_id, tags=[RunTag(name, value[:_LONGEST])
                                           for name, value in tags.items()])

    def keep(self, run_id: str, files: Sequence[Path], folder: str = "") -> None:
        with self._store.explained() as client:
            for file in files:
                client.log_artifact(run_id, str(file), folder or None)

    def end(self, parent: Parent, status: str, tags: Mapping[str, str],
            metrics: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric as Logged
        from mlflow.entities import RunTag

        now = int(time.time() * 1000)
        with self._store.explained() as client:
            client.log_batch(
                parent.run_id,
                tags=[RunTag(name, value[:_LONGEST]) for name, value in tags.items()],
                metrics=[Logged(name, value, now, 0) for name, value in metrics.items()])
        self._mlflow.finish(Started(run_id=parent.run_id, experiment_id=parent.experiment_id,
                                    environment={}), status, {})

    def best(self, identity: str, metric: Metric) -> Winner | None:
        if self._store.is_sqlite:
            there = trial_rows.best(self._store.ask_sqlite, identity, metric)
            if there is None:
                return None
            return Winner(run=self._mlflow.read(*there),
                          params=trial_rows.given(self._store.ask_sqlite, there[0]))
        order = "ASC" if metric.goal == "minimize" else "DESC"
        for most in (20, 0):  # the first have it, unless they are no numbers
            with self._store.explained() as client:
                found = self._search(
                    client, f"tags.`{member_tag(identity)}` = '1' and "
                            "attributes.status = 'FINISHED'",
                    order=f"metrics.`{metric.name}` {order}", most=most)
            for run in found:
                value = run.data.metrics.get(metric.name)
                if (value is not None and isinstance(logged(value), float)
                        and KEY_TAG in run.data.tags and not _is_open(run)):
                    key = Digest.parse(run.data.tags[KEY_TAG])
                    return Winner(run=self._mlflow.read(run.info.run_id, key),
                                  params=trial_rows.params(run.data.tags))
            if len(found) < most:
                break
        return None

    def _close_dead(self, parent: str) -> None:
        """Mark trials FAILED whose process is gone."""
        with self._store.explained() as client:
            running = self._search(client, f"tags.`{PARENT_TAG}` = '{parent}' and "
                                           "attributes.status = 'RUNNING'")
        for key in {run.data.tags.get(KEY_TAG, "") for run in running} - {""}:
            self._mlflow.find(Digest.parse(key), "")

    def _search(self, client: MlflowClient, filter_text: str, *, order: str = "",
                most: int = 0) -> list[Any]:
        experiments = experiment_ids(client)
        found: list[Any] = []
        token = None
        while experiments:
            page = client.search_runs(
                experiments, filter_text, max_results=most or _PAGE,
                order_by=[*([order] if order else ()), "attributes.start_time ASC"],
                page_token=token)
            found += page
            token = page.token
            if not token or most:
                break
        return found


def _is_open(run: Any) -> bool:
    """Whether the entry point has ended its run, and the run's owner has not yet."""
    return run.data.tags.get(CLAIM_TAG) in (WANTED, HELD)


def _in_order(found: Sequence[Any]) -> list[tuple[int, float]]:
    rows = sorted(((item.step, item.timestamp, item.value) for item in found),
                  key=lambda row: (row[0], row[1]))
    steps = [row[0] for row in rows]
    if len(set(steps)) < len(steps):
        return [(number, value) for number, (_, _, value) in enumerate(rows)]
    return [(step, value) for step, _, value in rows]

"""One key is trained once, whoever asks: real processes, a real database, a real server."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.claimant import Claimant
from tests.support.services import mlflow_server
from tests.test_kubernetes import job as a_job
from toolchain import run
from toolchain.adapters.claims import CLAIM_TAG, HEARTBEAT_TAG, HELD, HOST_TAG, OWNER_TAG
from toolchain.adapters.mlflow import Mlflow
from toolchain.adapters.owner import Owner
from toolchain.adapters.trials import MlflowTrials
from toolchain.digest import Digest
from toolchain.errors import EngineError, TrackingError
from toolchain.journal import Journal
from toolchain.run import KEY_TAG, Job, Outcome, Run, Started
from toolchain.sweep.trial import Found
from toolchain.trace import Trace

_COUNT = itertools.count()
_PATIENCE = 1.5


def _silent(text: str) -> None:
    pass


class Store:
    """A tracking store, and what is in it."""

    def __init__(self, uri: str, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.folder = folder
        self.mlflow = self.another()
        self.mlflow.find(Digest.of(b"makes the database"), "any")
        self.client: Any = MlflowClient(uri)

    def another(self) -> Mlflow:
        """What another process has of the same store; here it is this one."""
        trace = Trace(self.folder / "cache", Journal(self.folder / "cache"))
        return Mlflow(self.uri, self.folder, trace, {}, beat=0.3, patience=_PATIENCE)

    def claim(self, key: Digest) -> Started | Run:
        return self.mlflow.claim("claims", "one", {KEY_TAG: str(key)}, str(self.folder), _silent)

    def runs(self, key: Digest) -> dict[str, str]:
        """run -> status, of all that are to be seen."""
        experiments = [item.experiment_id for item in self.client.search_experiments()]
        return {run.info.run_id: run.info.status for run in self.client.search_runs(
            experiments, f"tags.`{KEY_TAG}` = '{key}'")}

    def foreign(self, key: Digest, beat: str = "", **changes: Any) -> str:
        """A held run of a process that is not to be seen from here, but for `changes`."""
        here = Owner.here()
        owner = {"host": "elsewhere", "machine": "another", "boot": "another", "space": here.space,
                 "pid": here.pid, "since": here.since, **changes}
        started = self.mlflow.start("claims", "one", {KEY_TAG: str(key)}, str(self.folder))
        self.mlflow._heartbeat.drop(started.run_id)
        for name, value in ((OWNER_TAG, json.dumps(owner)), (HOST_TAG, owner["host"]),
                            (HEARTBEAT_TAG, beat or f"{time.time():.3f}")):
            self.client.set_tag(started.run_id, name, value)
        return started.run_id


@pytest.fixture(scope="module")
def _quiet() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, _quiet: None) -> Store:
    folder = tmp_path_factory.mktemp("database")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _quiet: None) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder) as url:
        yield Store(url, folder)


@pytest.fixture(params=["database", "server"])
def store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def key() -> Digest:
    return Digest.of(f"claimed {next(_COUNT)}".encode())


def test_four_processes_at_once_make_one_run(store: Store, key: Digest, tmp_path: Path) -> None:
    start = tmp_path / "start"
    crowd = [Claimant(store.uri, tmp_path / str(number), str(key), start=start, seconds=1.5)
             for number in range(4)]
    for one in crowd:
        one.until("ready")
    start.touch()
    said = [line for one in crowd for line in one.end()]
    began = [line.split()[1] for line in said if line.startswith("began")]
    assert len(began) == 1, said
    assert [line.split()[1] for line in said if line.startswith("has")] == began * 3
    assert store.runs(key) == {began[0]: "FINISHED"}


def test_whoever_waits_says_so_once_and_for_what(
    store: Store, key: Digest, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    first = Claimant(store.uri, tmp_path / "first", str(key), stop=stop)
    run_id = first.until("began")
    second = Claimant(store.uri, tmp_path / "second", str(key))
    second.until("waits")
    time.sleep(2)  # it looks again and again
    stop.touch()
    said = second.end()
    waits = [line for line in said if line.startswith("waits")]
    assert len(waits) == 1
    assert run_id in waits[0]
    assert Owner.here().host in waits[0]
    assert said[-1] == f"has {run_id}"
    first.end()


def test_a_trial_that_has_ended_since_it_was_looked_for_is_not_repeated(
    store: Store, key: Digest
) -> None:
    trials = MlflowTrials(store.mlflow)
    parent = trials.begin("claims", "one", "sweep", {}, str(store.folder))
    assert trials.find(key) is None
    other = store.claim(key)
    assert isinstance(other, Started)
    store.mlflow.finish(other, "FINISHED", {})
    found = trials.start(parent, key, {}, pytest.fail, threading.Event())
    trials.end(parent, "FINISHED", {}, {})
    assert found == Found(run_id=other.run_id, metrics={})
    assert store.runs(key) == {other.run_id: "FINISHED"}


def test_if_it_fails_one_of_those_who_waited_tries(
    store: Store, key: Digest, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    first = Claimant(store.uri, tmp_path / "first", str(key), stop=stop, status="FAILED")
    failed = first.until("began")
    crowd = [Claimant(store.uri, tmp_path / str(number), str(key), seconds=1)
             for number in range(2)]
    for one in crowd:
        one.until("waits")
    stop.touch()
    said = [line for one in crowd for line in one.end()]
    began = [line.split()[1] for line in said if line.startswith("began")]
    assert len(began) == 1
    assert [line.split()[1] for line in said if line.startswith("has")] == began
    assert store.runs(key) == {failed: "FAILED", began[0]: "FINISHED"}
    first.end()


def test_a_process_that_is_killed_is_noticed_at_once(
    store: Store, key: Digest, tmp_path: Path
) -> None:
    first = Claimant(store.uri, tmp_path / "first", str(key), seconds=60)
    dead = first.until("began")
    second = Claimant(store.uri, tmp_path / "second", str(key))
    second.until("waits")
    first.kill()
    killed = time.monotonic()
    new = second.until("began")
    assert time.monotonic() - killed < 10  # far less than a minute
    second.end()
    assert store.runs(key) == {dead: "FAILED", new: "FINISHED"}


def test_a_run_is_found_in_whichever_of_very_many_experiments(
    database: Store, key: Digest
) -> None:
    made = database.claim(key)
    assert isinstance(made, Started)
    database.mlflow.finish(made, "FINISHED", {})
    later = int(time.time() * 1000)
    with sqlite3.connect(database.mlflow.store.file) as connection:
        connection.executemany(
            "insert into experiments (name, lifecycle_stage, creation_time, last_update_time, "
            "workspace) values (?, 'active', ?, ?, 'default')",
            [(f"newer {number}", later + number, later + number) for number in range(1000)])
    try:
        found = database.mlflow.find(key, "claims")
        assert found is not None
        assert found.run_id == made.run_id
    finally:
        with sqlite3.connect(database.mlflow.store.file) as connection:
            connection.execute("delete from experiments where name like 'newer %'")


def test_a_run_that_a_dead_process_left_is_closed_by_the_next(
    database: Store, key: Digest, tmp_path: Path
) -> None:
    first = Claimant(database.uri, tmp_path / "first", str(key), seconds=60)
    dead = first.until("began")
    first.kill()
    begun = database.claim(key)
    assert isinstance(begun, Started)
    assert database.runs(key) == {dead: "FAILED", begun.run_id: "RUNNING"}
    assert "gone" in database.client.get_run(dead).data.tags[CLAIM_TAG]


def test_after_a_reboot_it_is_gone(store: Store, key: Digest) -> None:
    here = Owner.here()
    dead = store.foreign(key, host=here.host, machine=here.machine, boot="an earlier one")
    if not here.machine:
        pytest.skip("a machine without an id is told by its heartbeat")
    assert store.mlflow.follow(key, pytest.fail) is None
    assert store.runs(key) == {dead: "FAILED"}


@pytest.mark.parametrize("changes", [
    {}, {"machine": Owner.here().machine}, {"host": Owner.here().host},
    {"boot": Owner.here().boot, "space": "pid:[1]"}])
def test_elsewhere_it_is_gone_when_its_heart_stands_still(
    store: Store, key: Digest, changes: dict[str, str]
) -> None:
    """Also in a container on this machine, and on a copy of this machine."""
    dead, began = store.foreign(key, **changes), time.monotonic()
    said: list[str] = []
    assert store.mlflow.follow(key, said.append) is None
    assert _PATIENCE < time.monotonic() - began < _PATIENCE + 10
    assert store.runs(key) == {dead: "FAILED"}
    assert len(said) == 1


def test_elsewhere_it_is_waited_for_while_its_heart_beats(store: Store, key: Digest) -> None:
    """Though the clock there is minutes behind."""
    run_id = store.foreign(key, beat=f"{time.time() - 300}")
    over = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            if over.wait(0.2):
                return
            store.client.set_tag(run_id, HEARTBEAT_TAG, f"{time.time() - 300 + count / 100}")

    with ThreadPoolExecutor(2) as pool:
        beating = pool.submit(beat)
        followed = pool.submit(store.another().follow, key, _silent)
        time.sleep(_PATIENCE * 2)
        assert not followed.done()
        store.client.set_tag(run_id, CLAIM_TAG, "done")
        store.client.set_terminated(run_id, "FINISHED")
        found = followed.result(30)
        over.set()
        beating.result()
    assert found is not None
    assert found.run_id == run_id


def test_a_heart_that_has_not_beaten_for_an_hour_is_not_watched(
    database: Store, key: Digest
) -> None:
    dead = database.foreign(key, beat=f"{time.time() - 3600}")
    assert database.mlflow.follow(key, pytest.fail) is None
    assert database.runs(key) == {dead: "FAILED"}


def test_the_heart_beats_while_a_run_lasts_and_not_longer(store: Store, key: Digest) -> None:
    begun = store.claim(key)
    assert isinstance(begun, Started)
    beats: set[str] = set()
    end = time.monotonic() + 60
    while len(beats) < 3:
        assert time.monotonic() < end, beats
        beats.add(store.client.get_run(begun.run_id).data.tags[HEARTBEAT_TAG])
        time.sleep(0.1)
    store.mlflow.finish(begun, "FINISHED", {})
    last = store.client.get_run(begun.run_id).data.tags[HEARTBEAT_TAG]
    time.sleep(1)
    assert store.client.get_run(begun.run_id).data.tags[HEARTBEAT_TAG] == last


def test_a_run_that_ended_itself_is_not_done_before_its_owner_says_so(
    database: Store, key: Digest, tmp_path: Path
) -> None:
    """`with mlflow.start_run()` ends the run; the program may fail after it."""
    first = Claimant(database.uri, tmp_path / "first", str(key), seconds=60)
    run_id = first.until("began")
    database.client.set_terminated(run_id, "FINISHED")
    assert database.mlflow.find(key, "") is None
    first.kill()
    assert database.mlflow.follow(key, pytest.fail) is None
    assert database.runs(key) == {run_id: "FAILED"}


def test_threads_of_one_process_settle_it_too(database: Store) -> None:
    crowd = [database.another() for _ in range(3)]
    for mlflow in crowd:
        mlflow.find(Digest.of(b"opens it"), "")
    for number in range(12):
        key, start = Digest.of(f"round {number}".encode()), threading.Barrier(3)

        def go(mlflow: Mlflow, key: Digest = key, start: threading.Barrier = start) -> str:
            start.wait()
            begun = mlflow.claim("claims", "one", {KEY_TAG: str(key)}, str(database.folder),
                                 _silent)
            if isinstance(begun, Run):
                return ""
            mlflow.finish(begun, "FINISHED", {})
            return begun.run_id

        with ThreadPoolExecutor(3) as pool:
            winners = list(filter(None, pool.map(go, crowd)))
        assert len(winners) == 1
        assert database.runs(key) == {winners[0]: "FINISHED"}


def test_an_interrupt_while_waiting_leaves_no_claim(database: Store, key: Digest) -> None:
    """Another wants it too, and comes earlier by its clock."""
    earlier = database.foreign(key)
    database.client.set_tag(earlier, CLAIM_TAG, HELD)

    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.mlflow.claim("claims", "one", {KEY_TAG: str(key)}, str(database.folder),
                              interrupted)
    assert database.runs(key) == {earlier: "RUNNING"}


def test_a_run_that_its_process_could_not_end_is_closed_by_that_process(
    database: Store, key: Digest
) -> None:
    begun = database.claim(key)
    assert isinstance(begun, Started)
    with pytest.raises(TrackingError):
        database.mlflow.finish(begun, "FINISHED", {"no such name": "\0", "x" * 600: "y"})
    again = database.claim(key)
    assert isinstance(again, Started)
    assert database.runs(key) == {begun.run_id: "FAILED", again.run_id: "RUNNING"}


def test_a_run_of_this_process_is_waited_for_by_its_other_threads(
    database: Store, key: Digest
) -> None:
    begun = database.claim(key)
    assert isinstance(begun, Started)
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(database.mlflow.follow, key, _silent)
        time.sleep(_PATIENCE * 1.5)
        assert not followed.done()
        database.mlflow.finish(begun, "FINISHED", {})
        assert followed.result(20) == database.mlflow.read(begun.run_id, key)


def test_another_process_can_go_on_with_a_run(database: Store, key: Digest, tmp_path: Path) -> None:
    """As when a job outlives the client that submitted it."""
    first = Claimant(database.uri, tmp_path / "first", str(key), seconds=60)
    run_id = first.until("began")
    first.kill()
    taken = database.mlflow.adopt(run_id)
    assert taken.environment["MLFLOW_RUN_ID"] == run_id
    second = Claimant(database.uri, tmp_path / "second", str(key))
    assert run_id in second.until("waits")
    database.mlflow.finish(taken, "FINISHED", {})
    assert second.end()[-1] == f"has {run_id}"


def test_a_run_whose_key_was_taken_from_it_is_kept_and_not_found(
    database: Store, key: Digest
) -> None:
    begun = database.claim(key)
    assert isinstance(begun, Started)
    database.mlflow.finish(begun, "FINISHED", {"a": "b"}, reusable=False)
    assert database.mlflow.find(key, "") is None
    assert database.client.get_run(begun.run_id).info.status == "FINISHED"
    assert database.runs(key) == {}


@pytest.mark.parametrize("text", ["", "nobody", "[]", '{"host": 1}', '{"pid": "x"}'])
def test_an_owner_that_is_none_is_told_by_its_heartbeat(
    database: Store, key: Digest, text: str
) -> None:
    dead = database.foreign(key, beat="never")
    database.client.set_tag(dead, OWNER_TAG, text)
    assert Owner.parse(text) is None
    assert database.mlflow.follow(key, _silent) is None
    assert database.runs(key) == {dead: "FAILED"}


class Jobs:
    """An engine that keeps jobs after their clients are gone, as a cluster does."""

    name = "jobs"

    def __init__(self, *run_ids: str) -> None:
        self.run_ids = list(run_ids)
        self.followed: list[str] = []
        self.open = threading.Event()
        self.begun = threading.Event()

    def find(self, key: str) -> tuple[str, ...]:
        return tuple(self.run_ids)

    def prepare(self, job: Job) -> None:
        pass

    def execute(self, job: Job) -> Outcome:
        self.followed.append(job.environment["MLFLOW_RUN_ID"])
        self.begun.set()
        self.open.wait(60)
        self.run_ids.clear()
        return Outcome(code=0)


def _made(tracker: Mlflow, engine: Jobs, key: Digest, folder: Path) -> Run:
    job = a_job(name="one", environment={})
    return run.make(key=key, entry_point="main", params={}, experiment="claims",
                    folder=str(folder), environment="", job=job, engine=engine, tracker=tracker)


def test_of_two_that_come_back_to_one_job_one_goes_on_and_the_other_has_its_run(
    store: Store, key: Digest, tmp_path: Path
) -> None:
    first = Claimant(store.uri, tmp_path / "first", str(key), seconds=60)
    run_id = first.until("began")
    first.kill()
    engine = Jobs("f" * 32, run_id)  # the newest is of another store's
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(_made, store.another(), engine, key, store.folder) for _ in range(3)]
        assert engine.begun.wait(60)
        time.sleep(2 * _PATIENCE)
        engine.open.set()
        found = {one.result(60).run_id for one in asked}
    assert found == {run_id}
    assert engine.followed == [run_id]
    assert store.runs(key) == {run_id: "FINISHED"}


def test_a_job_of_another_store_is_none_of_ours(store: Store, key: Digest) -> None:
    other = store.claim(Digest.of(b"another training of this store"))
    assert isinstance(other, Started)
    engine = Jobs("f" * 32, other.run_id)
    engine.open.set()
    made = _made(store.another(), engine, key, store.folder)
    assert engine.followed == [made.run_id]
    assert made.run_id not in ("f" * 32, other.run_id)
    store.mlflow.finish(other, "FINISHED", {})


def test_a_claim_is_taken_back_if_the_cluster_cannot_be_asked(store: Store, key: Digest) -> None:
    class Silent(Jobs):
        def find(self, key: str) -> tuple[str, ...]:
            raise EngineError("the cluster does not answer", where="a test", fix="none")

    with pytest.raises(EngineError):
        _made(store.another(), Silent(), key, store.folder)
    assert store.runs(key) == {}

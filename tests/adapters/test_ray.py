"""The engine `ray` on a real cluster: what is a cluster's own. Else see test_engines."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.machine import PLATFORM, PYTHON, locked, package
from tests.support import wheels
from tests.support.engines import Bench
from tests.support.ray_cluster import Node, Nodes, shared_cluster
from tests.support.registry import RegistryServer
from toolchain import run
from toolchain.adapters.mlflow import Mlflow
from toolchain.adapters.ray_cluster import Cluster
from toolchain.adapters.ray_node import _look
from toolchain.adapters.ray_order import Order, Place, Shared
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.layer.archive import Entry
from toolchain.lock import Place as FolderPlace
from toolchain.lock import Request
from toolchain.progress import Progress
from toolchain.run import Outcome, Resources
from toolchain.spec import source as sources

_ROOT = Path(__file__).parents[2]
# One point when it begins and one when it ends, as an entry point without MLflow can log them.
_TRIAL = '''
import os, sqlite3, sys, time
def log(name, step):
    database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
    row = (name, 1.0, int(time.time() * 1000), os.environ["MLFLOW_RUN_ID"], step, 0)
    with sqlite3.connect(database, timeout=60) as connection:
        connection.execute("insert into metrics (key, value, timestamp, run_uuid, step, is_nan) "
                           "values (?,?,?,?,?,?)", row)
        connection.execute("insert into latest_metrics (key, value, timestamp, run_uuid, step, "
                           "is_nan) values (?,?,?,?,?,?) on conflict do nothing", row)
log("began", int(os.environ["TOOLCHAIN_ATTEMPT"]))
time.sleep(1.5)
log("ended", 0)
'''


@pytest.fixture(scope="module")
def cluster() -> Nodes:
    return shared_cluster()


@pytest.fixture(scope="module")
def bench(cluster: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def second(cluster: Nodes) -> Iterator[Node]:
    """A node beside the cluster's first, until a test kills it."""
    node = cluster.add(2)
    Cluster(cluster.address).join()
    _until(lambda: _alive() == 2, 60)
    yield node
    if node.process.poll() is None:
        node.kill()


def _alive() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def _until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def test_an_environment_is_made_once_on_each_node(
    bench: Bench, cluster: Nodes, second: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wheels.wheel(cluster.index, "shown", files={"shown.py": b"WORD = 'from the index'\n"})
    lock = locked(package(path, "shown", "1.0"))
    engine = bench.ray()
    command = "echo $VIRTUAL_ENV; python -c 'import shown; print(shown.WORD)'; sleep 0.5"
    jobs = [bench.job(command, lock=lock) for _ in range(6)]
    engine.prepare(jobs[0])
    capsys.readouterr()
    with ThreadPoolExecutor(6) as pool:  # both nodes' processors at once
        assert list(pool.map(engine.execute, jobs)) == [Outcome(code=0)] * 6
    said = Counter(capsys.readouterr().out.splitlines())
    folders = [node.cache / "envs" / lock.digest.hex[:32] for node in (cluster.nodes[0], second)]
    assert said.pop("from the index") == 6
    assert set(said) == {str(folder) for folder in folders}
    made = [(folder / "toolchain.json").stat().st_ino for folder in folders]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(engine.execute, jobs))
    assert [(folder / "toolchain.json").stat().st_ino for folder in folders] == made


def test_a_node_is_lost_amid_many_trials_and_each_finishes_once_in_the_record(
    bench: Bench, second: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = bench.ray()
    tracker = Mlflow(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, bench.machine.trace, os.environ)
    project = bench.layer("trials", Entry(path="project/trial.py", mode=0o644,
                                          data=_TRIAL.encode()))
    _in_layout(bench, project)
    first = bench.job("true", project=project)
    tracker.find(Digest.of(b""), "trials")  # makes the database
    engine.prepare(first)

    def trial(number: int) -> run.Run:
        job = bench.job("python trial.py", project=project, trial=f"trial {number}")
        return run.make(key=Digest.of(b"%d" % number), entry_point="main", params={},
                        experiment="trials", folder=str(tmp_path), environment="", job=job,
                        engine=engine, tracker=tracker)

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(trial, number) for number in range(12)]
        work = second.cache / "work"
        _until(lambda: work.exists() and list(work.iterdir()), 60)
        time.sleep(0.3)
        second.kill()  # no test below uses it
        finished = [one.result() for one in running]
    assert {one.status for one in finished} == {"FINISHED"}
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        statuses = connection.execute("select status, count(*) from runs group by status")
        assert statuses.fetchall() == [("FINISHED", 12)]
        ended = connection.execute(
            "select run_uuid, count(*) from metrics where key='ended' group by run_uuid")
        assert sorted(ended.fetchall()) == sorted((one.run_id, 1) for one in finished)
        again = connection.execute(
            "select run_uuid, value from tags where key='toolchain.attempts'").fetchall()
        began = dict(connection.execute(
            "select run_uuid, value from tags where key='toolchain.attempt.began'").fetchall())
        points = connection.execute(
            "select run_uuid, step, timestamp from metrics where key='began'").fetchall()
    assert 1 <= len(again) <= 2
    for run_id, value in again:
        assert value == "2"
        # What the tag says tells the attempts' points apart.
        for own, step, at in points:
            if own == run_id:
                assert (at >= int(began[run_id])) == (step == 2)
    assert Counter(point[0] for point in points if point[1] == 2) == dict.fromkeys(
        (run_id for run_id, _ in again), 1)
    assert "is lost; attempt 2" in capsys.readouterr().out


def test_a_file_with_another_hash_is_refused(bench: Bench, cluster: Nodes) -> None:
    path = wheels.wheel(cluster.index, "changed")
    lock = locked(package(path, "changed", "1.0"))
    wheels.wheel(cluster.index, "changed", files={"changed.py": b"evil = True\n"})
    with pytest.raises(EngineError, match="cannot be installed") as caught:
        bench.ray().prepare(bench.job("true", lock=lock))
    assert "node " in caught.value.where
    assert caught.value.fix


def test_what_no_node_can_run_is_said(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    job = bench.job("true", resources=Resources(cpus=64, gpus=2))
    with pytest.raises(EngineError, match=r"asked for 64 CPU, 2 GPU; its nodes have: .*4 CPU"):
        bench.ray().execute(job)
    assert "warning: one: no node of the Ray cluster can run this" in capsys.readouterr().out


def test_a_lost_worker_is_no_lost_node(bench: Bench) -> None:
    """The job killed it; to begin again would kill the next."""
    engine, job = bench.ray(), bench.job("kill -9 $PPID; sleep 20")
    engine.prepare(job)
    outcome = engine.execute(job)
    assert outcome.code == 137
    assert "was killed with its Ray worker on node" in outcome.reason


def test_secrets_are_in_no_task_and_in_none_of_rays_files(bench: Bench, cluster: Nodes,
                                                          capsys: pytest.CaptureFixture[str]
                                                          ) -> None:
    secret = "s3cr3t-that-ray-has-not"
    engine = bench.ray(MLFLOW_TRACKING_PASSWORD=secret)
    job = bench.job("printf %s $MLFLOW_TRACKING_PASSWORD | wc -c; echo $PARAMETER",
                    environment={"PARAMETER": secret})
    engine.prepare(job)
    assert engine.execute(job).code == 0
    assert capsys.readouterr().out.split() == [str(len(secret)), secret]
    time.sleep(1)  # logs are written now and then
    files = [path for path in (cluster.folder / "s").rglob("*")
             if path.is_file() and not path.is_symlink()]
    assert any("worker" in path.name for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_project_layer_comes_from_a_registry(bench: Bench, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    project = bench.layer("pulled", Entry(path="project/x", mode=0o644, data=b"from afar\n"))
    job = bench.job("cat x", project=project)
    with RegistryServer(tmp_path) as server:
        registry = HttpRegistry(server.host, server.host, "toolchain/test", insecure=False)
        registry.put_blob(project.digest, project.size, bench.store, Progress())
        engine = bench.ray("", Place(host=server.host, repository="toolchain/test"))
        engine.prepare(job)
    assert engine.execute(job).code == 0  # the node keeps it
    assert capsys.readouterr().out == "from afar\n"


def test_images_in_a_folder_that_the_node_lacks(bench: Bench) -> None:
    project = bench.layer("lost", Entry(path="project/x", mode=0o644, data=b"lost\n"))
    engine = bench.ray("", Place(folder="/nowhere/registry", repository="toolchain/test"))
    with pytest.raises(EngineError, match="the folder with the images is not on this node") as e:
        engine.prepare(bench.job("true", project=project))
    assert "set registry" in e.value.fix


def test_another_file_of_the_same_name_is_not_the_database(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("")
    for inode, is_it in ((path.stat().st_ino, True), (path.stat().st_ino + 1, False)):
        order = Order(job=bench.job("true"), place=Place(),
                      shared=(Shared(path=str(path), inode=inode, fix="a server"),))
        if is_it:
            _look(order)
        else:
            with pytest.raises(EngineError, match="not on this node"):
                _look(order)


def test_a_tracking_server_of_this_machine_alone_is_refused_elsewhere(bench: Bench) -> None:
    order = Order(job=bench.job("true"), place=Place(), machine="another",
                  local="http://127.0.0.1:5000")
    with pytest.raises(EngineError, match="means another machine here"):
        _look(order)


def test_wheels_that_are_in_no_index_come_with_the_job(bench: Bench, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    wheels.package_folder(tmp_path / "lib", "ours", "1.5")
    (tmp_path / "one").mkdir()
    request = Request(
        python=PYTHON, platform=PLATFORM, glibc="2.36", requirements=(), constraints=(), hashes=(),
        sources=(sources.read("../lib", (), "requirements.txt:1"),),
        place=FolderPlace(folder=tmp_path / "one", root=tmp_path, skipped=()))
    ours = bench.machine.sources.settle(request.sources[0], request, ()).package
    job = bench.job("python -c 'import importlib.metadata as m; print(m.version(\"ours\"))'",
                    lock=locked(ours))
    engine = bench.ray()
    engine.prepare(job)
    assert engine.execute(job).code == 0
    assert capsys.readouterr().out == "1.5\n"


def test_two_drivers_at_once(cluster: Nodes, tmp_path: Path) -> None:
    def start(number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.engines", str(tmp_path / str(number)), "ray",
             f"echo of {number}; sleep 1; exit {number}", "{}"], cwd="/", text=True,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(_ROOT),
                                         "RAY_ADDRESS": cluster.address})

    for number in range(2):
        (tmp_path / str(number)).mkdir()
    drivers = [start(number) for number in range(2)]
    for number, driver in enumerate(drivers):
        assert driver.communicate(timeout=90)[0] == (
            f"prepared\nof {number}\noutcome {number} \n")


_JOIN = """
import json, sys
from toolchain.adapters.ray_cluster import Cluster
from toolchain.errors import EngineError
for address in sys.argv[1:]:
    try:
        Cluster(address).join()
        print(json.dumps(["joined", "", ""]))
    except EngineError as error:
        print(json.dumps([error.what, error.where, error.fix]))
"""


def _joining(*addresses: str) -> list[list[str]]:
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", _JOIN, *addresses], capture_output=True, text=True,
                          env={**environ, "PYTHONPATH": str(_ROOT)}, timeout=60)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_bad_addresses_are_explained_at_once(cluster: Nodes) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started = time.monotonic()
    found = _joining("", "nonsense", "host:99999", "ray://host:10001", "127.0.0.1:1",
                     f"127.0.0.1:{server.server_port}")
    server.shutdown()
    for (what, where, fix), expected in zip(found, [
            "no Ray cluster is named", "that is no address of a Ray cluster",
            "that is no address of a Ray cluster",
            "Ray Client addresses are not supported: only a node of the cluster can pass on a "
            "job's output and signals",
            "no Ray cluster answers: Connection refused", "what answers is no Ray cluster"],
            strict=True):
        assert what == expected
        assert where
        assert fix
    assert time.monotonic() - started < 40


def test_a_cluster_with_another_python_is_explained(cluster: Nodes) -> None:
    """By what Ray itself finds when it compares."""
    from ray._private import ray_constants
    from ray.experimental import internal_kv

    Cluster(cluster.address).join()
    key, space = b"CLUSTER_METADATA", ray_constants.KV_NAMESPACE_CLUSTER
    good = internal_kv._internal_kv_get(key, namespace=space)
    other = {**json.loads(good), "python_version": "3.7.9", "ray_version": "2.1.0"}
    internal_kv._internal_kv_put(key, json.dumps(other).encode(), namespace=space)
    try:
        [(what, _, fix)] = _joining(cluster.address)
    finally:
        internal_kv._internal_kv_put(key, good, namespace=space)
    assert what.startswith("the cluster has Ray 2.1.0 and Python 3.7.9, this machine Ray ")
    assert "pip install ray==2.1.0" in fix


def _in_layout(bench: Bench, project: Any) -> None:
    from toolchain.adapters.layout import Layout
    from toolchain.journal import Journal

    Layout(bench.folder / "layout", "toolchain/test", bench.folder / "quarantine",
           Journal(bench.cache)).put_blob(project.digest, project.size, bench.store, Progress())



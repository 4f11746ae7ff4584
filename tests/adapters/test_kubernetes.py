"""The engine `kubernetes` on a real cluster: how Jobs end, why they do not begin, what is left."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.adapters.test_engines import Parent
from tests.support.engines import Bench
from tests.support.gate import Gate
from tests.support.services import cluster_config
from toolchain.adapters.cluster import Apis, Cluster
from toolchain.adapters.kubernetes import KubernetesEngine
from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.kubernetes import RUN, story
from toolchain.kubernetes.settings import Settings
from toolchain.push import Pushed
from toolchain.run import Outcome, Resources

pytestmark = pytest.mark.kubernetes
PLAIN = Settings()
LOUD = "trap 'echo cleaned up; exit 9' TERM; echo begun; sleep 100 & wait"
_OURS = "app.kubernetes.io/managed-by=mlproject-toolchain"
Run = Callable[..., Outcome]


class Objects:
    """What is in the cluster, asked by its own client."""

    def __init__(self, kubeconfig: str) -> None:
        self._cluster = Cluster("", {"KUBECONFIG": kubeconfig})

    def jobs(self, namespace: str = "default") -> list[Any]:
        return self._list(lambda apis: apis.batch.list_namespaced_job, namespace)

    def pods(self, namespace: str = "default") -> list[Any]:
        return self._list(lambda apis: apis.core.list_namespaced_pod, namespace)

    def is_active(self, name: str) -> bool:
        return any(job["metadata"]["name"] == name and job["status"].get("active")
                   for job in self.jobs())

    def secrets(self, namespace: str = "default") -> list[Any]:
        return self._list(lambda apis: apis.core.list_namespaced_secret, namespace)

    def _list(self, method: Any, namespace: str) -> list[Any]:
        answer = self._cluster.ask("list", lambda apis: method(apis)(
            namespace, label_selector=_OURS, _preload_content=False))
        items: list[Any] = answer.body["items"]
        return items

    def token(self) -> str:
        """Of the service account that pods have by default; a Secret up to Kubernetes 1.23."""
        answer = self._cluster.ask("list", lambda apis: apis.core.list_namespaced_secret(
            "default", field_selector="type=kubernetes.io/service-account-token",
            _preload_content=False))
        if not answer.body["items"]:
            pytest.skip("this cluster keeps no token of its service accounts")
        return base64.b64decode(answer.body["items"][0]["data"]["token"]).decode()

    def make(self, kind: str, name: str, **body: Any) -> None:
        self._cluster.ask("make", lambda apis: getattr(apis.core, f"create_namespaced_{kind}")(
            "default", {"metadata": {"name": name}, **body}, _preload_content=False),
            accept=(409,))

    def delete_job(self, name: str) -> None:
        self._cluster.ask("delete", lambda apis: apis.batch.delete_namespaced_job(
            name, "default", propagation_policy="Background", _preload_content=False),
            accept=(404,))

    def evict(self, job: str) -> None:
        """As `kubectl drain` does."""
        (pod,) = [pod["metadata"]["name"] for pod in self.pods()
                  if pod["metadata"]["labels"]["job-name"] == job]
        for version in ("v1", "v1beta1"):  # the latter for clusters before 1.22
            body = {"apiVersion": f"policy/{version}", "kind": "Eviction",
                    "metadata": {"name": pod, "namespace": "default"}}
            answer = self._cluster.ask("evict", partial(_evict, pod, body), accept=(400, 404, 422))
            if answer.status < 300:
                return
        pytest.fail(str(answer.body))

    def cpus(self) -> float:
        """What the only node has."""
        (node,) = self._cluster.ask("list", lambda apis: apis.core.list_node(
            _preload_content=False)).body["items"]
        return float(node["status"]["allocatable"]["cpu"])

    @contextlib.contextmanager
    def priority_class(self, name: str, value: int) -> Iterator[str]:
        import kubernetes

        api: Any = kubernetes.client.SchedulingV1Api
        self._cluster.ask("make", lambda apis: api(apis.core.api_client).create_priority_class(
            {"metadata": {"name": name}, "value": value}, _preload_content=False), accept=(409,))
        try:
            yield name
        finally:
            self._cluster.ask("delete", lambda apis: api(
                apis.core.api_client).delete_priority_class(name, _preload_content=False))

    def gone(self, seconds: float = 120) -> bool:
        end = time.monotonic() + seconds
        while self.jobs() or self.pods() or self.secrets():
            if time.monotonic() > end:
                return False
            time.sleep(0.3)
        return True


def _evict(pod: str, body: Any, apis: Apis) -> Any:
    return apis.core.create_namespaced_pod_eviction(pod, "default", body, _preload_content=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    cluster_config()
    made = Bench(tmp_path_factory.mktemp("cluster"))
    made.kubernetes()
    return made


@pytest.fixture(scope="module")
def objects() -> Objects:
    return Objects(cluster_config())


@pytest.fixture
def run(bench: Bench) -> Run:
    def execute(command: str, settings: Settings = PLAIN, **changes: Any) -> Outcome:
        engine, job = bench.kubernetes(settings=settings), bench.job(command, **changes)
        engine.prepare(job)
        return engine.execute(job)

    return execute


def template(**pod: Any) -> dict[str, Any]:
    first = pod.pop("container", {})
    return {"spec": {"template": {"spec": {"hostNetwork": True, "containers": [first], **pod}}}}


# How a Job ends

def test_nothing_is_left_of_a_job_that_ended_well_or_not(run: Run, objects: Objects) -> None:
    assert run("true", environment={"A_PASSWORD": "p"}) == Outcome(code=0)
    assert run("exit 3") == Outcome(code=3)
    assert objects.gone()


def test_out_of_memory_is_said(run: Run) -> None:
    outcome = run("x=$(head -c 200000000 /dev/zero | tr '\\0' y); echo ${#x}",
                  resources=Resources(memory=32 << 20))
    assert outcome.reason == "was killed: out of memory of 32 MB"
    assert outcome.code


def test_a_deadline_ends_the_job_and_is_said(run: Run) -> None:
    outcome = run("sleep 60", Settings(deadline=2))
    assert outcome.reason == "ran longer than its deadline of 2 s"
    assert outcome.code


def test_a_job_that_somebody_deletes_ends(run: Run, objects: Objects) -> None:
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(run, "sleep 60", environment={"MLFLOW_RUN_ID": "d" * 32})
        wait_for(lambda: objects.is_active(f"one-{'d' * 12}"))
        objects.delete_job(f"one-{'d' * 12}")
        assert "deleted" in outcome.result(120).reason


def test_a_failed_pod_is_tried_again_where_that_is_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("echo tried; exit 4", Settings(backoff_limit=1)).code == 4
    assert capsys.readouterr().out.splitlines() == ["tried", "tried"]


def test_an_evicted_job_ends_and_is_not_begun_again(
    bench: Bench, objects: Objects, tmp_path: Path
) -> None:
    """A cluster would make another pod, which would log into the same run."""
    log, run_id = tmp_path / "log", "9" * 32
    engine = bench.kubernetes()
    with ThreadPoolExecutor(1) as pool:
        evicted = pool.submit(engine.execute, bench.job(
            LOUD, log=str(log), environment={"MLFLOW_RUN_ID": run_id}))
        wait_for(lambda: has_begun(log))
        objects.evict(f"one-{run_id[:12]}")
        outcome = evicted.result(120)
    assert outcome.code
    assert outcome.reason.startswith((story.REMOVED, "was evicted"))
    assert log.read_text() == "begun\ncleaned up\n"
    assert objects.gone()


def test_a_job_that_is_put_off_its_node_ends(bench: Bench, objects: Objects,
                                             tmp_path: Path) -> None:
    log, most = tmp_path / "log", Resources(cpus=0.6 * objects.cpus())
    with objects.priority_class("toolchain-test-urgent", 1000) as urgent, \
            ThreadPoolExecutor(1) as pool:
        preempted = pool.submit(bench.kubernetes().execute,
                                bench.job(LOUD, log=str(log), resources=most))
        wait_for(lambda: has_begun(log))
        engine = bench.kubernetes(settings=Settings(priority_class=urgent))
        assert engine.execute(bench.job("exit 5", resources=most)) == Outcome(code=5)
        outcome = preempted.result(120)
    assert outcome.code
    assert outcome.reason.startswith("was put off its node for a pod of higher priority")
    assert log.read_text() == "begun\ncleaned up\n"
    assert objects.gone()


# Why it does not begin

def test_an_image_that_is_not_there_is_explained(bench: Bench, run: Run) -> None:
    digest = Digest.of(b"no such image")
    outcome = run("true", pushed=Pushed(
        reference=f"{bench.registry}/toolchain/test@{digest}", tag="x", digest=digest,
        config=digest))
    assert outcome.code == 125
    assert outcome.reason.startswith("could not be started: the image cannot be pulled: ")
    assert "manifest unknown" in outcome.reason


def test_a_registry_that_does_not_answer_is_tried_again(run: Run) -> None:
    digest = Digest.of(b"x")
    outcome = run("true", Settings(start_timeout=4), pushed=Pushed(
        reference=f"127.0.0.1:9/toolchain/test@{digest}", tag="x", digest=digest, config=digest))
    assert outcome.reason.startswith("did not begin within 4 s: the image cannot be pulled: ")
    assert "refused" in outcome.reason


def test_an_image_that_is_no_name_is_explained(run: Run) -> None:
    digest = Digest.of(b"x")
    outcome = run("true", pushed=Pushed(reference="UPPER/Case", tag="x", digest=digest,
                                        config=digest))
    assert outcome.reason.startswith("could not be started: the image's name is not one")


def test_what_no_node_has_is_waited_for_with_words(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run("true", Settings(start_timeout=2), resources=Resources(cpus=9000))
    assert outcome.code == 125
    assert outcome.reason.startswith("did not begin within 2 s: no node takes it: 0/1 nodes")
    assert "said: one: waiting: no node takes it: 0/1 nodes are available: 1 Insufficient cpu" in (
        capfd.readouterr().err)


def test_a_secret_that_is_not_there_is_explained(run: Run) -> None:
    outcome = run("true", Settings(secrets=("no-such",), start_timeout=12))
    assert outcome.reason == ('did not begin within 12 s: the container cannot be set up: secret '
                              '"no-such" not found')


def test_an_image_without_bash_is_explained(bench: Bench, run: Run) -> None:
    from toolchain.layer.archive import Entry

    bare = bench.assembled(bench.layer("bare", Entry(path="etc/x", mode=0o644, data=b"x")))
    bench.push(bare)
    assert run("true", image=bare).reason == "could not be started: the image has no bash"


# What it gets

def test_variables_of_secrets_and_config_maps(
    run: Run, objects: Objects, capsys: pytest.CaptureFixture[str]
) -> None:
    objects.make("secret", "given-secret", stringData={"THE_PASSWORD": "p $(ls) $$"})
    objects.make("config_map", "given-map", data={"REGION": "north"})
    settings = Settings(secrets=("given-secret",), config_maps=("given-map",))
    assert run('echo "$THE_PASSWORD" $REGION', settings).code == 0
    assert capsys.readouterr().out == "p $(ls) $$ north\n"


def test_kubernetes_expands_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It would read $(NAME) and $$ in commands and values."""
    assert run('echo $(NAME) "$(echo $NAME)" "$PRICE" $(( $$ > 0 )); NAME() { echo ran; }; NAME',
               environment={"NAME": "n", "PRICE": "$(NAME) $$5"}).code == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["n $(NAME) $$5 1", "ran"]


def test_what_is_secret_is_in_a_secret_of_the_job(bench: Bench, objects: Objects) -> None:
    engine = bench.kubernetes(MLFLOW_TRACKING_PASSWORD="pass word", AWS_ACCESS_KEY_ID="AKIA",
                              MLFLOW_S3_ENDPOINT_URL="http://s3")
    with Gate() as gate, ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(engine.execute, bench.job(
            gate.wait + '; [ "$MLFLOW_S3_ENDPOINT_URL" = "http://s3" ] && '
            "[ ${#MLFLOW_TRACKING_PASSWORD}${#AWS_ACCESS_KEY_ID}${#URI} = 9415 ]",
            environment={"URI": "http://u:p@host", "MLFLOW_RUN_ID": "5" * 32}))
        wait_for(lambda: objects.is_active(f"one-{'5' * 12}") and bool(objects.secrets()))
        found = [item for item in objects.jobs() if item["metadata"]["name"].endswith("5" * 12)]
        text = json.dumps(found)
        (secret,) = objects.secrets()
        gate.open()
        assert outcome.result(120) == Outcome(code=0)
    for value in ("pass word", "AKIA", "u:p"):
        assert value not in text
    assert base64.b64decode(secret["data"]["MLFLOW_TRACKING_PASSWORD"]) == b"pass word"
    assert secret["metadata"]["ownerReferences"][0]["uid"] == found[0]["metadata"]["uid"]
    assert objects.gone()


def test_named_secrets_stand_alone(bench: Bench, objects: Objects) -> None:
    """This machine's own would be put over them."""
    objects.make("secret", "given-key", stringData={"AWS_SECRET_ACCESS_KEY": "theirs"})
    engine = bench.kubernetes(settings=Settings(secrets=("given-key",), hands_secrets_on=False),
                              AWS_SECRET_ACCESS_KEY="ours")
    job = bench.job('[ "$AWS_SECRET_ACCESS_KEY" = theirs ]')
    assert engine.execute(job) == Outcome(code=0)


# Cancel, and coming back

def test_a_cancelled_job_is_over(bench: Bench, objects: Objects) -> None:
    cancel, engine = threading.Event(), bench.kubernetes()
    job = bench.job("sleep 100", environment={"MLFLOW_RUN_ID": "c" * 32}, cancel=cancel)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(engine.execute, job)
        wait_for(lambda: objects.is_active(f"one-{'c' * 12}"))
        cancel.set()
        assert outcome.result(120).reason == "was cancelled"
    assert objects.gone()


def test_a_client_that_was_killed_finds_its_job_again(
    bench: Bench, objects: Objects, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, run_id = f"sha256:{'ab' * 32}", "e" * 32
    parent = Parent(tmp_path / "bench", "kubernetes")
    engine, log = bench.kubernetes(), tmp_path / "log"
    with Gate() as gate, ThreadPoolExecutor(1) as pool:
        parent.start(f"echo begun; {gate.wait}; echo done; exit 5",
                     changes={"key": key, "environment": {"MLFLOW_RUN_ID": run_id}})
        assert parent.line() == "begun"
        parent.kill()
        # The label is too short to tell these two apart.
        assert engine.find(f"sha256:{'ab' * 31}ac") == ()
        assert engine.find(key) == (run_id,)
        capsys.readouterr()
        outcome = pool.submit(engine.execute, bench.job(
            "echo another", key=key, environment={"MLFLOW_RUN_ID": run_id}, log=str(log)))
        wait_for(lambda: has_begun(log))
        gate.open()
        assert outcome.result(120) == Outcome(code=5)
    assert capsys.readouterr().out == "begun\ndone\n"
    assert engine.find(key) == ()
    assert objects.gone()


def test_a_job_that_ended_while_nobody_looked_is_taken(
    bench: Bench, objects: Objects, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = Parent(tmp_path / "bench", "kubernetes")
    changes = {"key": "sha256:cd", "environment": {"MLFLOW_RUN_ID": "f" * 32}}
    parent.start("echo begun; sleep 1; echo done", changes=changes)
    assert parent.line() == "begun"
    parent.kill()
    wait_for(lambda: any(job["status"].get("succeeded") for job in objects.jobs()))
    engine = bench.kubernetes()
    assert engine.find("sha256:cd") == ("f" * 32,)
    capsys.readouterr()
    assert engine.execute(bench.job("exit 9", **changes)) == Outcome(code=0)
    assert capsys.readouterr().out == "begun\ndone\n"


def test_a_hundred_jobs_at_once(bench: Bench, objects: Objects,
                                capsys: pytest.CaptureFixture[str]) -> None:
    """With two watches between them, and no trace afterwards."""
    engine = bench.kubernetes()
    jobs = [bench.job(f"echo {number}; exit {number}", trial=f"t{number}") for number in range(100)]
    engine.prepare(jobs[0])
    capsys.readouterr()
    most = 0

    def count() -> None:
        nonlocal most
        while not over.wait(0.2):
            most = max(most, sum(thread.name.startswith("watch of ")
                                 for thread in threading.enumerate()))

    over = threading.Event()
    with ThreadPoolExecutor(101) as pool:
        counting = pool.submit(count)
        outcomes = list(pool.map(engine.execute, jobs))
        over.set()
        counting.result()
    assert [outcome.code for outcome in outcomes] == list(range(100))
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert sorted(said) == sorted(f"t{number} | {number}" for number in range(100))
    assert most == 2
    assert objects.gone()


# Who may, and where

def test_without_permission_the_error_says_which(bench: Bench, objects: Objects,
                                                 tmp_path: Path) -> None:
    """As the namespace's service account, which may do nothing."""
    def somebody(user: dict[str, Any]) -> None:
        user.clear()
        user["token"] = token

    token = objects.token()
    with pytest.raises(EngineError, match=r"no permission: jobs\.batch is forbidden") as caught:
        _changed(bench, tmp_path, somebody).prepare(bench.job("true"))
    assert 'cannot create resource "jobs"' in str(caught.value)
    assert token not in str(caught.value)


def test_credentials_that_nobody_knows(bench: Bench, tmp_path: Path) -> None:
    def stranger(user: dict[str, Any]) -> None:
        user.clear()
        user["token"] = "not-a-token"

    engine = _changed(bench, tmp_path, stranger)
    with pytest.raises(EngineError, match="does not know these credentials") as caught:
        engine.prepare(bench.job("true"))
    assert "not-a-token" not in str(caught.value)


def test_a_namespace_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(EngineError, match="no such namespace"):
        bench.kubernetes(settings=Settings(namespace="nowhere")).prepare(bench.job("true"))


def test_a_template_that_the_cluster_refuses(bench: Bench) -> None:
    refused = template(container={"volumeMounts": [{"name": "none", "mountPath": "/x"}]})
    with pytest.raises(EngineError, match="the cluster refuses the Job") as caught:
        bench.kubernetes(template=refused).prepare(bench.job("true"))
    assert "volumeMounts" in str(caught.value)


def test_nothing_is_made_before_a_job_is_executed(bench: Bench, objects: Objects) -> None:
    assert objects.gone()
    engine = bench.kubernetes()
    engine.prepare(bench.job("true"))
    engine.preview(bench.job("true"))
    assert objects.jobs() == []


def test_a_run_is_on_record_with_its_job(bench: Bench, objects: Objects) -> None:
    engine = bench.kubernetes()
    name = f"my-project-1-{'7' * 12}"
    with Gate() as gate, ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(engine.execute, bench.job(
            gate.wait, name="My Project_1", environment={"MLFLOW_RUN_ID": "7" * 32}))
        wait_for(lambda: objects.is_active(name))
        (job,) = [item for item in objects.jobs() if item["metadata"]["name"] == name]
        gate.open()
        outcome.result(120)
    assert job["metadata"]["annotations"][RUN] == "7" * 32


def has_begun(log: Path) -> bool:
    return log.exists() and "begun" in log.read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _changed(bench: Bench, folder: Path, change: Callable[[dict[str, Any]], None]
             ) -> KubernetesEngine:
    """An engine with another kubeconfig."""
    config = yaml.safe_load(Path(cluster_config()).read_text())
    change(config["users"][0]["user"])
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return KubernetesEngine(cluster=Cluster("", {"KUBECONFIG": str(path)}), settings=Settings(),
                            template=template(), environ=os.environ, say=print)


"""Settings, templates and manifests of the engine kubernetes; no cluster is asked."""

from __future__ import annotations

import importlib
import json
import subprocess
from typing import Any

import pytest

from tests.adapters.machine import locked
from tests.support.services import need_module
from toolchain.config import CALL, Config
from toolchain.digest import Digest
from toolchain.errors import ConfigError, SpecError
from toolchain.image import Image
from toolchain.kubernetes import backend, secret, settings, story, template
from toolchain.kubernetes.backend import Backend
from toolchain.kubernetes.manifest import Manifest, label, manifest, pod_spec
from toolchain.kubernetes.settings import Settings
from toolchain.layer import GZIP, Layer
from toolchain.push import Pushed
from toolchain.run import Job, Outcome, Resources
from toolchain.spec import Docker

# As in MLflow's documentation.
MLFLOWS = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: "{replaced with MLflow Project name}"
  namespace: mlflow
spec:
  ttlSecondsAfterFinished: 100
  backoffLimit: 0
  template:
    spec:
      containers:
        - name: "{replaced with MLflow Project name}"
          image: "{replaced with URI of Docker image created during Project execution}"
          command: ["{replaced with MLflow Project entry point command}"]
          env: ["{appended with MLFLOW_TRACKING_URI, MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_ID}"]
          resources:
            limits: {memory: 512Mi}
            requests: {memory: 256Mi}
      restartPolicy: Never
"""
PLAIN = Settings()
DIGEST = Digest.of(b"image")
REFERENCE = f"registry.example:5000/team/trainer@{DIGEST}"


def job(**changes: Any) -> Job:
    layer = Layer(label="project", digest=DIGEST, diff_id=DIGEST, size=1, media_type=GZIP)
    return Job(**{
        "name": "Élastic Net_1", "command": "python train.py && echo $$ $(id) | cat",
        "lock": locked(), "project": layer,
        "image": Image(layers=(layer,), config=b"{}", manifest=b"{}"),
        "environment": {"MLFLOW_RUN_ID": "0123456789abcdef", "MLFLOW_TRACKING_URI": "http://t"},
        "pushed": Pushed(reference=REFERENCE, tag="t", digest=DIGEST, config=DIGEST),
        "key": f"sha256:{'ab' * 32}", **changes})


def made(text: str | None = None, wanted: Settings = PLAIN, *, environ: Any = None,
         **changes: Any) -> Manifest:
    return manifest(template.parse(text, "job.yaml") if text else None, wanted, job(**changes),
                    namespace="of-context", run_id="0123456789abcdef", variables=environ or {})


def values(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


# Settings

def read(**given: str) -> Settings:
    named = {f"kubernetes.{name}": value for name, value in given.items()}
    return settings.read(Config().given(named, scope=CALL, where="here"), Backend(context="c"))


def test_settings_are_read() -> None:
    found = read(namespace="ml", scheduler="runai-scheduler", node_selector="disk=ssd,zone=a",
                 tolerations="gpu=yes:NoSchedule,spot", ttl="1m", backoff_limit="0", deadline="5",
                 secrets="a,b", start_timeout="30")
    assert (found.context, found.namespace, found.ttl, found.backoff_limit) == ("c", "ml", 60, 0)
    assert found.node_selector == {"disk": "ssd", "zone": "a"}
    assert found.tolerations == (
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists"})
    assert found.secrets == ("a", "b")
    assert not found.hands_secrets_on
    assert read().hands_secrets_on
    assert not read(pass_secrets="0").hands_secrets_on
    assert read(context="other").context == "other"


@pytest.mark.parametrize(("name", "value"), [
    ("gpu_fraction", "1"), ("gpu_fraction", "half"), ("node_selector", "ssd"),
    ("tolerations", "gpu:Never"), ("namespace", "Not A Name"), ("queue", "a b"),
    ("secrets", "ok,Not/ok")])
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{name: value})
    assert caught.value.where == f"kubernetes.{name}"
    assert caught.value.fix


@pytest.mark.parametrize(("name", "value"), [
    ("ttl", "-1"), ("deadline", "soon"), ("backoff_limit", "many"), ("start_timeout", "1 day")])
def test_a_quantity_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"kubernetes\.{name}"):
        read(**{name: value})


# MLflow's backend config

def test_mlflows_backend_config_is_taken_as_it_is() -> None:
    text = json.dumps({"kube-context": "docker-for-desktop",
                       "repository-uri": "registry.example:5000/team/mlflow-example",
                       "kube-job-template-path": "job.yaml"})
    assert backend.parse(text) == Backend(
        context="docker-for-desktop", registry="registry.example:5000",
        repository="team/mlflow-example", template="job.yaml")
    assert backend.parse('{"repository-uri": "user/project"}') == Backend(
        registry="docker.io", repository="user/project")


@pytest.mark.parametrize(("text", "words"), [
    ("{", "not valid JSON"), ("[]", "no JSON object"),
    ('{"kube-contxt": "a"}', "did you mean 'kube-context'"), ('{"kube-context": 3}', "is text"),
    ('{"repository-uri": "host:1/UPPER"}', "not a repository name")])
def test_a_wrong_backend_config_is_explained(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        backend.parse(text, "backend.json")
    assert caught.value.where == "backend.json"
    assert caught.value.fix


# Templates

def test_mlflows_template_is_filled() -> None:
    found = made(MLFLOWS)
    assert found.name == "lastic-net-1-0123456789ab"
    assert found.namespace == "mlflow"
    spec = found.job["spec"]
    assert (spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (100, 0)
    (container,) = pod_spec(found.job)["containers"]
    assert container["name"] == found.container == "lastic-net-1"
    assert container["image"] == REFERENCE
    assert values(container) == {"MLFLOW_RUN_ID": "0123456789abcdef",
                                 "MLFLOW_TRACKING_URI": "http://t"}
    assert container["resources"]["limits"] == {"memory": "512Mi"}
    assert "replaced with" not in json.dumps(found.job)


def test_placeholders_without_quotes_are_placeholders() -> None:
    bare = MLFLOWS.replace('"{', "{").replace('}"', "}")
    assert bare != MLFLOWS
    assert made(bare) == made(MLFLOWS)


def test_a_template_keeps_what_its_author_decided() -> None:
    found = made("""\
metadata: {labels: {team: a}, annotations: {note: b}, generateName: x-}
spec:
  activeDeadlineSeconds: 7
  template:
    metadata: {labels: {team: a}}
    spec:
      hostNetwork: true
      restartPolicy: OnFailure
      nodeSelector: {a: b}
      containers:
      - args: [gone]
        env:
        - {name: KEPT, value: "1"}
        - {name: MLFLOW_RUN_ID, value: theirs}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: s, key: k}}}
      - {name: beside, image: other}
""", Settings(node_selector={"c": "d"}))
    assert found.job["metadata"]["labels"]["team"] == "a"
    assert found.job["metadata"]["annotations"]["note"] == "b"
    assert "generateName" not in found.job["metadata"]
    assert found.namespace == "of-context"
    pod = pod_spec(found.job)
    assert (pod["hostNetwork"], pod["restartPolicy"]) == (True, "OnFailure")
    assert pod["nodeSelector"] == {"a": "b", "c": "d"}
    ours, beside = pod["containers"]
    assert "args" not in ours
    assert [item["name"] for item in ours["env"]] == [
        "KEPT", "PASSWORD", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"]
    assert beside == {"name": "beside", "image": "other"}


@pytest.mark.parametrize(("text", "words", "line"), [
    ("kind: Job\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n",
     "the template has no containers", 5),
    ("spec:\n  template:\n    spec:\n      containers: []\n", "the template has no containers", 4),
    ("kind: CronJob\nspec: {}\n", "kind is CronJob, not Job", 1),
    ("apiVersion: batch/v1beta1\nkind: Job\n", "apiVersion is batch/v1beta1", 1),
    ("kind: Job\nspec: 3\n", "the template has no spec", 2),
    ("kind: Job\n", "the template has no spec", 1), ("- a\n", "is not a mapping", 1),
    ("a: [", "not valid YAML", 2), ("", "empty", 0)])
def test_a_template_that_cannot_be_filled_is_explained(text: str, words: str, line: int) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        template.parse(text, "job.yaml")
    assert caught.value.where.startswith(f"job.yaml:{line}" if line else "job.yaml")
    assert caught.value.fix


# Manifests

def test_the_command_is_an_argument_that_kubernetes_does_not_read() -> None:
    command = pod_spec(made().job)["containers"][0]["command"]
    assert command[:2] == ["bash", "-c"]
    assert command[4] == "python train.py && echo $$$$ $$(id) | cat"
    assert values(pod_spec(made(environment={"A": "$(B) $$"}).job)["containers"][0]) == {
        "A": "$$(B) $$$$"}


def test_names_are_what_dns_takes() -> None:
    assert label("A_b.C--d", 63) == "a-b-c-d"
    assert label("é", 63) == "project"
    assert len(made(name="x" * 200).name) == 63
    assert len(made(name="x" * 200).container) == 63
    assert label("a" * 49 + "-b", 50) == "a" * 49


def test_what_is_secret_is_no_value() -> None:
    found = made(environ={"AWS_SECRET_ACCESS_KEY": "s1", "AWS_REGION": "north",
                          "MLFLOW_TRACKING_PASSWORD": "s2"},
                 environment={"MLFLOW_TRACKING_URI": "http://u:s3@host"},
                 docker=Docker(image="x", environment={"HF_TOKEN": "s4", "PLAIN": "p"}))
    assert found.secret == {
        "AWS_SECRET_ACCESS_KEY": "s1", "MLFLOW_TRACKING_PASSWORD": "s2",
        "MLFLOW_TRACKING_URI": "http://u:s3@host", "HF_TOKEN": "s4"}
    container = pod_spec(found.job)["containers"][0]
    assert values(container) == {"AWS_REGION": "north", "PLAIN": "p"}
    assert container["envFrom"] == [{"secretRef": {"name": found.name}}]
    assert not any(f"s{number}" in json.dumps(found.job["spec"]["template"]["spec"][
        "containers"][0]["env"]) for number in range(1, 5))
    assert found.secret_body("uid-1")["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": found.name, "uid": "uid-1"}]


def test_this_machines_secrets_are_left_out_where_secrets_are_named() -> None:
    found = made(None, Settings(secrets=("named",), hands_secrets_on=False),
                 environ={"AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "north"},
                 environment={"TOOLCHAIN_PARAMETER_1": "s3://u:p@host"})
    assert found.left_out == ("AWS_ACCESS_KEY_ID",)
    assert found.secret == {"TOOLCHAIN_PARAMETER_1": "s3://u:p@host"}
    assert pod_spec(found.job)["containers"][0]["envFrom"] == [
        {"secretRef": {"name": "named"}}, {"secretRef": {"name": found.name}}]


def test_a_template_that_writes_a_secret_out_is_noticed() -> None:
    text = MLFLOWS.replace('env: ["{appended with MLFLOW_TRACKING_URI, MLFLOW_RUN_ID and '
                           'MLFLOW_EXPERIMENT_ID}"]', 'env: [{name: DB_PASSWORD, value: x}]')
    assert list(secret.written_out(template.parse(text, "job.yaml"))) == ["DB_PASSWORD"]
    assert list(secret.written_out(template.parse(MLFLOWS, "job.yaml"))) == []


def test_resources_are_asked_for_and_bound() -> None:
    found = made(MLFLOWS, resources=Resources(cpus=1.5, memory=1 << 30, gpus=2, shm=1 << 20))
    pod = pod_spec(found.job)
    asked = {"cpu": "1500m", "memory": str(1 << 30), "nvidia.com/gpu": "2"}
    assert pod["containers"][0]["resources"] == {"requests": asked, "limits": asked}
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(1 << 20)}
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/dev/shm"


@pytest.mark.parametrize(("scheduler", "labels", "annotations"), [
    ("", {"kueue.x-k8s.io/queue-name": "q"}, {}),
    ("volcano", {}, {"scheduling.volcano.sh/queue-name": "q"}),
    ("kai-scheduler", {"kai.scheduler/queue": "q", "priorityClassName": "build"}, {}),
    ("runai-scheduler", {"runai/queue": "q", "priorityClassName": "build"}, {})])
def test_each_scheduler_finds_its_queue(scheduler: str, labels: dict[str, str],
                                        annotations: dict[str, str]) -> None:
    found = made(None, Settings(scheduler=scheduler, queue="q", priority_class="build",
                                gpu_fraction="0.5"), resources=Resources(gpus=1))
    pods = found.job["spec"]["template"]["metadata"]
    assert labels.items() <= found.job["metadata"]["labels"].items()
    assert pods["annotations"] == {"gpu-fraction": "0.5", **annotations}
    pod = pod_spec(found.job)
    assert pod.get("schedulerName", "") == scheduler
    assert pod["priorityClassName"] == "build"
    assert "resources" not in pod["containers"][0]  # a part of a GPU is no whole one
    if scheduler.startswith(("kai", "runai")):
        assert labels.items() <= pods["labels"].items()


def test_the_key_is_found_by_a_label_and_known_by_an_annotation() -> None:
    metadata = made().job["metadata"]
    assert metadata["labels"]["toolchain/key"] == ("ab" * 32)[:63]
    assert metadata["annotations"]["toolchain/key"] == f"sha256:{'ab' * 32}"
    assert metadata["annotations"]["toolchain/run"] == "0123456789abcdef"


def test_a_current_api_takes_the_manifest_whole() -> None:
    """Old clusters drop newer fields in silence; the newest client's models do not."""
    need_module("kubernetes")
    client: Any = importlib.import_module("kubernetes").client
    if not hasattr(client.V1Job, "model_validate"):
        pytest.skip("this client has no models that check")
    everything = Settings(
        namespace="ml", scheduler="volcano", queue="q", gpu_fraction="0.5", priority_class="p",
        node_selector={"a": "b"}, tolerations=({"key": "k", "operator": "Exists"},),
        service_account="s", pull_secrets=("a",), secrets=("b",), config_maps=("c",), ttl=1,
        backoff_limit=2, deadline=3)
    for text, wanted in ((MLFLOWS, everything), (None, Settings())):
        found = made(text, wanted, environ={"A_TOKEN": "x"},
                     resources=Resources(cpus=1, memory=5, gpus=1, shm=6))
        checked = client.V1Job.model_validate(found.job)
        assert checked.model_dump(by_alias=True, exclude_none=True) == found.job
        assert client.V1Secret.model_validate(found.secret_body("u")).metadata.name == found.name


# What a cluster says

def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status,
            "spec": {"restartPolicy": "Never", "containers": [{}]}}


def in_state(**state: Any) -> dict[str, Any]:
    return pod(phase="Pending", containerStatuses=[{"name": "one", "state": state}])


ONCE = {"spec": {"backoffLimit": 0}}


def ended(job: Any, pod: Any) -> Outcome | None:
    return story.ended(job, pod, "one", timeout=5, memory=64 << 20)


@pytest.mark.parametrize(("found", "words", "patience"), [
    (in_state(waiting={"reason": "ContainerCreating"}), "", None),
    (in_state(waiting={"reason": "ErrImagePull", "message": "dial tcp: timeout"}),
     "the image cannot be pulled: dial tcp: timeout", 120),
    (in_state(waiting={"reason": "ErrImagePull", "message": "Manifest Unknown"}),
     "the image cannot be pulled: Manifest Unknown", 0),
    (in_state(waiting={"reason": "InvalidImageName"}), "the image's name is not one", 0),
    (pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes."}]),
     "no node takes it: 0/3 nodes", None), (None, "", None)])
def test_pending_is_explained(found: Any, words: str, patience: float | None) -> None:
    state = story.waiting(ONCE, found, "one")
    assert state.words == words
    assert state.patience == (float("inf") if patience is None else patience)


def test_trying_to_pull_again_is_the_same_obstacle() -> None:
    """So that its patience comes to an end."""
    first, again = (story.waiting(ONCE, in_state(waiting={"reason": reason, "message": message}),
                                  "one")
                    for reason, message in (("ErrImagePull", "dial tcp: refused"),
                                            ("ImagePullBackOff", "Back-off pulling image")))
    assert first.kind == again.kind
    assert first.patience == again.patience == 120


def test_a_suspended_job_waits_in_its_queue() -> None:
    assert "queue" in story.waiting({"spec": {"suspend": True}}, None, "one").words


def terminated(**state: Any) -> dict[str, Any]:
    return in_state(terminated={"exitCode": 1, **state})


@pytest.mark.parametrize(("found", "outcome"), [
    (terminated(exitCode=0), Outcome(code=0)), (terminated(exitCode=3), Outcome(code=3)),
    (terminated(exitCode=137, reason="OOMKilled"),
     Outcome(code=137, reason="was killed: out of memory of 64 MB")),
    (terminated(exitCode=143, message="toolchain: late\n"),
     Outcome(code=143, reason="ran longer than its timeout of 5 s")),
    (terminated(exitCode=128, reason="StartError", message='exec: "bash": executable not found'),
     Outcome(code=125, reason="could not be started: the image has no bash")),
    (pod(phase="Failed", reason="Evicted", message="The node was low on memory."),
     Outcome(code=125, reason="was evicted by its node: The node was low on memory")),
    (pod(phase="Failed", reason="NodeLost"), Outcome(code=125, reason="was lost with its node")),
    (pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True",
                                      "reason": "PreemptionByScheduler"}]),
     Outcome(code=125, reason="was put off its node for a pod of higher priority")),
    (pod(phase="Failed"), Outcome(code=125, reason="ended, and the cluster does not say how")),
    (in_state(running={}), None), (None, None)])
def test_an_end_is_explained(found: Any, outcome: Outcome | None) -> None:
    assert ended(ONCE, found) == outcome


def test_the_jobs_own_word_counts_where_pods_are_tried_again() -> None:
    again = {"spec": {"backoffLimit": 2}}
    assert ended(again, terminated(exitCode=3)) is None
    over = {**again, "status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}}
    assert ended(over, terminated(exitCode=3)) == Outcome(code=3)
    late = {"spec": {"activeDeadlineSeconds": 9}, "status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}}
    assert ended(late, None) == Outcome(code=143, reason="ran longer than its deadline of 9 s")


@pytest.mark.parametrize(("counts", "pods", "is_ahead"), [
    ({"failed": 1}, [], True), ({"failed": 1}, [in_state(running={})], True),
    ({"failed": 1}, [terminated()], False), ({"failed": 2}, [terminated()], True),
    ({"failed": 1, "succeeded": 1}, [terminated(), pod(phase="Succeeded")], False)])
def test_a_job_may_tell_of_ends_before_its_pods_do(counts: Any, pods: Any, is_ahead: bool) -> None:
    conditions = [{"type": "Failed", "status": "True"}]
    assert story.is_ahead({"status": {**counts, "conditions": conditions}}, pods, "one") == is_ahead
    assert not story.is_ahead({"status": counts}, pods, "one")


def deleted(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "metadata": {"name": "p", "deletionTimestamp": "now"}}


@pytest.mark.parametrize(("spec", "found", "words"), [
    ({"backoffLimit": 0}, deleted(in_state(running={})), story.REMOVED),
    ({"backoffLimit": 0}, in_state(running={}), ""),
    ({"backoffLimit": 1}, deleted(in_state(running={})), ""),
    ({"backoffLimit": 0, "completions": 2}, deleted(in_state(running={})), ""),
    ({"backoffLimit": 0, "activeDeadlineSeconds": 5}, deleted(in_state(running={})), ""),
    ({"backoffLimit": 0, "suspend": True}, deleted(in_state(running={})),
     "was put back into its queue"),
    ({"backoffLimit": 0}, deleted(pod(conditions=[{
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "by the API"}])),
     "was evicted, as a node that is drained does: by the API")])
def test_a_pod_that_is_taken_away_is_explained(spec: Any, found: Any, words: str) -> None:
    assert story.removed({"spec": spec}, found) == words


def test_a_pod_that_ended_while_it_was_taken_away() -> None:
    assert ended(ONCE, deleted(terminated(exitCode=9))) == Outcome(code=9, reason=story.REMOVED)
    assert ended(ONCE, deleted(terminated(exitCode=0))) == Outcome(code=0)


def test_the_first_process_says_nothing_of_its_own() -> None:
    """bash tells of a job's end, if it has not been told otherwise before the job began."""
    found = made(command="echo out; echo err >&2; exit 4")
    command = pod_spec(found.job)["containers"][0]["command"]
    for _ in range(50):
        done = subprocess.run([text.replace("$$", "$") for text in command], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert (done.returncode, done.stdout) == (4, "out\nerr\n")

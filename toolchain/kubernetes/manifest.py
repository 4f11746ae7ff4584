"""Template + settings + Job -> Manifest: what is submitted.

Rule 1: Kubernetes reads `$(NAME)` and `$$` in a command and in variables' values before any program
does. So every `$` is written as `$$`, which it reads as one.
Rule 2: what is secret is no value in a Job, which many may read. It goes into a Secret of the Job's
own, or is left out.
Rule 3: the first process is a few lines of bash, since process 1 gets no signal that it has not
asked for. It also keeps the time: a Job's own deadline would count the wait for a node.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from toolchain.kubernetes import KEY, MANAGED, MANAGER, RUN
from toolchain.kubernetes.secret import is_secret
from toolchain.kubernetes.settings import Settings
from toolchain.run import Job, Resources
from toolchain.values import dataclass

Json = dict[str, Any]
LATE = "toolchain: late"  # what the first process leaves to be read, where time was up
GRACE = 10  # seconds between SIGTERM and SIGKILL
_TTL = 24 * 3600  # of a Job that nobody follows any more
_LONGEST = 63  # of a label's value, and of a container's name
_MESSAGE = "/dev/termination-log"
_FIRST = f"""\
set -m
job= asked=
pass() {{ [ -z "$job" ] || kill "-$asked" -- "-$job"; }}
for name in INT TERM HUP QUIT USR1 USR2; do trap "asked=$name; pass" "$name"; done
exec 3>&1 >/dev/null 2>&1  # before there is a job whose end bash would tell of
bash -c "$1" </dev/null >&3 2>&3 3>&- & job=$!
exec 3>&-
wait_for() {{ read -rt "$1" _ <> <(:); }}
if [ "$2" != 0 ]; then
  {{ wait_for "$2"; echo "{LATE}" >"$3"; kill -TERM -- "-$job"; wait_for {GRACE}
    kill -KILL -- "-$job"; }} &
fi
[ -z "$asked" ] || pass
while wait "$job"; code=$?; kill -0 "$job"; do :; done
wait "$job"; code=$?
exit "$code"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A Job as the API takes it. secret: variable -> value, for a Secret of the Job's name;
    left_out: secret variables that the Job does not get."""

    job: Json
    secret: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        text: str = self.job["metadata"]["name"]
        return text

    @property
    def namespace(self) -> str:
        text: str = self.job["metadata"]["namespace"]
        return text

    @property
    def container(self) -> str:
        text: str = pod_spec(self.job)["containers"][0]["name"]
        return text

    def secret_body(self, owner_uid: str) -> Json:
        """The Secret, which goes when the Job goes."""
        import base64

        return {
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": self.name, "namespace": self.namespace,
                         "labels": {MANAGED: MANAGER},
                         "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job",
                                              "name": self.name, "uid": owner_uid}]},
            "data": {name: base64.b64encode(value.encode()).decode()
                     for name, value in self.secret.items()}}


def manifest(template: Json | None, settings: Settings, job: Job, *, namespace: str, run_id: str,
             variables: Mapping[str, str]) -> Manifest:
    """`namespace` is the context's own, for where neither settings nor template name one;
    `variables`: what it gets of this machine's environment."""
    made: Json = copy.deepcopy(template) if template else {
        "spec": {"template": {"spec": {"containers": [{}]}}}}
    made |= {"apiVersion": "batch/v1", "kind": "Job"}
    made.pop("status", None)
    own = {**(job.docker.environment if job.docker else {}), **job.environment}
    whole = {**variables, **own}
    secret = {name: value for name, value in whole.items() if is_secret(name, value)}
    # The job's own, such as a parameter, it cannot do without.
    handed = {name: value for name, value in secret.items()
              if settings.hands_secrets_on or name in own}
    _metadata(made, settings, job, namespace, run_id)
    _job(made["spec"], settings)
    _pod(made, settings, job)
    container = pod_spec(made)["containers"][0]
    container |= {"name": label(job.name, _LONGEST), "image": job.pushed.reference}
    container.pop("args", None)
    message = container.get("terminationMessagePath", _MESSAGE)
    container["command"] = [_unread(text) for text in (
        "bash", "-c", _FIRST, "toolchain", job.command, f"{job.timeout:g}", message)]
    plain = {name: value for name, value in whole.items() if name not in secret}
    _environment(container, settings, plain, made["metadata"]["name"] if handed else "")
    _resources(made, settings, job.resources)
    return Manifest(job=made, secret=handed,
                    left_out=tuple(sorted(set(secret) - set(handed))))


def pod_spec(job: Json) -> Json:
    found: Json = job["spec"]["template"]["spec"]
    return found


def label(text: str, most: int) -> str:
    """A name as DNS takes it: small letters, digits and `-`, of at most so many characters."""
    short = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:most].rstrip("-")
    return short or "project"


def key_label(key: str) -> str:
    """As much of a training key as a label holds."""
    return key.rpartition(":")[2][:_LONGEST]


def _metadata(made: Json, settings: Settings, job: Job, namespace: str, run_id: str) -> None:
    own = made["metadata"] = dict(made.get("metadata") or {})
    for name in ("generateName", "uid", "resourceVersion", "creationTimestamp"):
        own.pop(name, None)
    own["name"] = f"{label(job.name, 50)}-{run_id[:12]}"
    own["namespace"] = settings.namespace or own.get("namespace") or namespace
    labels = {MANAGED: MANAGER} | ({KEY: key_label(job.key)} if job.key else {})
    own["labels"] = {**(own.get("labels") or {}), **labels}
    own["annotations"] = {
        **(own.get("annotations") or {}), RUN: run_id, "toolchain/project": job.name,
        "toolchain/image": job.pushed.reference, **({KEY: job.key} if job.key else {})}
    # A Job and its pods are watched by the same label.
    template = made["spec"]["template"]
    pods = template["metadata"] = dict(template.get("metadata") or {})
    pods["labels"] = {**(pods.get("labels") or {}), **labels}
    _queue(own, pods, settings)


def _queue(own: Json, pods: Json, settings: Settings) -> None:
    """Where each scheduler looks for the queue, the share of a GPU and the priority."""
    scheduler, queue = settings.scheduler, settings.queue
    notes = dict(pods.get("annotations") or {})
    if queue and scheduler.startswith("volcano"):
        notes["scheduling.volcano.sh/queue-name"] = queue
    elif queue and scheduler.startswith(("runai", "kai")):
        name = "runai/queue" if scheduler.startswith("runai") else "kai.scheduler/queue"
        own["labels"][name] = pods["labels"][name] = queue
    elif queue:
        own["labels"]["kueue.x-k8s.io/queue-name"] = queue
    if settings.priority_class and scheduler.startswith(("runai", "kai")):
        own["labels"]["priorityClassName"] = settings.priority_class
        pods["labels"]["priorityClassName"] = settings.priority_class
    if settings.gpu_fraction:
        notes["gpu-fraction"] = settings.gpu_fraction
    if notes:
        pods["annotations"] = notes


def _job(spec: Json, settings: Settings) -> None:
    # A training that failed is not begun again in the same MLflow run, unless somebody says so.
    for name, given, default in (
            ("backoffLimit", settings.backoff_limit, 0),
            ("ttlSecondsAfterFinished", settings.ttl, _TTL),
            ("activeDeadlineSeconds", settings.deadline, None)):
        if given is not None:
            spec[name] = given
        elif default is not None:
            spec.setdefault(name, default)


def _pod(made: Json, settings: Settings, job: Job) -> None:
    pod = pod_spec(made)
    pod.setdefault("restartPolicy", "Never")
    pod.setdefault("terminationGracePeriodSeconds", GRACE)
    for name, value in (("schedulerName", settings.scheduler),
                        ("priorityClassName", settings.priority_class),
                        ("serviceAccountName", settings.service_account)):
        if value:
            pod[name] = value
    if settings.node_selector:
        pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), **settings.node_selector}
    if settings.tolerations:
        pod["tolerations"] = [*(pod.get("tolerations") or ()), *map(dict, settings.tolerations)]
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [*(pod.get("imagePullSecrets") or ()),
                                   *({"name": name} for name in settings.pull_secrets)]
    if job.resources.shm:
        pod["volumes"] = [*(pod.get("volumes") or ()), {
            "name": "toolchain-shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": str(job.resources.shm)}}]
        first = pod["containers"][0]
        first["volumeMounts"] = [*(first.get("volumeMounts") or ()),
                                 {"name": "toolchain-shm", "mountPath": "/dev/shm"}]


def _environment(container: Json, settings: Settings, plain: Mapping[str, str],
                 own_secret: str) -> None:
    whole = [*({"configMapRef": {"name": name}} for name in settings.config_maps),
             *({"secretRef": {"name": name}} for name in settings.secrets),
             *([{"secretRef": {"name": own_secret}}] if own_secret else [])]
    if whole:
        container["envFrom"] = [*(container.get("envFrom") or ()), *whole]
    container["env"] = [
        *(item for item in container.get("env") or () if item.get("name") not in plain),
        *({"name": name, "value": _unread(value)} for name, value in plain.items())]


def _resources(made: Json, settings: Settings, wanted: Resources) -> None:
    container = pod_spec(made)["containers"][0]
    asked: Json = {}
    if wanted.cpus:
        asked["cpu"] = f"{round(wanted.cpus * 1000)}m"
    if wanted.memory:
        asked["memory"] = str(wanted.memory)
    if wanted.gpus and not settings.gpu_fraction:
        asked[settings.gpu_resource] = str(wanted.gpus)
    if not asked:
        return
    given = dict(container.get("resources") or {})
    container["resources"] = {**given, **{
        kind: {**(given.get(kind) or {}), **asked} for kind in ("requests", "limits")}}


def _unread(text: str) -> str:
    return text.replace("$", "$$")

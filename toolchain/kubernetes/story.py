"""A pod and its Job, as the API tells of them -> what a person reads, and how a job ended.

Source: the Kubernetes API's PodStatus, ContainerStatus and JobStatus.
"""

from __future__ import annotations

from typing import Any

from toolchain.kubernetes.manifest import LATE
from toolchain.run import Outcome
from toolchain.values import dataclass

Json = dict[str, Any]
NEVER_STARTED = 125  # the code of a job that did not get as far as having one; Docker's
_FOREVER = float("inf")
# Reasons for which a container waits: words, and how long they may last, in seconds.
_WAITING = {
    "InvalidImageName": ("the image's name is not one", 0.0),
    "ErrImageNeverPull": ("the image is not on the node, which may not pull it", 0.0),
    "ErrImagePull": ("the image cannot be pulled", 120.0),
    "ImagePullBackOff": ("the image cannot be pulled", 120.0),
    "RegistryUnavailable": ("the image's registry does not answer", 120.0),
    "CreateContainerConfigError": ("the container cannot be set up", 20.0),
    "CreateContainerError": ("the container cannot be made", 20.0),
    "RunContainerError": ("the container cannot be started", 20.0),
    "CrashLoopBackOff": ("the program ends again and again", _FOREVER),
}
# What a registry says of an image that waiting does not bring.
_FINAL = ("not found", "manifest unknown", "unauthorized", "denied", "forbidden",
          "invalid reference", "no basic auth")
_DISRUPTED = {
    "PreemptionByScheduler": "was put off its node for a pod of higher priority",
    "PreemptionByKubeScheduler": "was put off its node for a pod of higher priority",
    "DeletionByTaintManager": "was put off its node, which was tainted",
    "EvictionByEvictionAPI": "was evicted, as a node that is drained does",
    "DeletionByPodGC": "was lost with its node",
    "TerminationByKubelet": "was ended by its node",
}
DELETED = "was ended: somebody deleted its Job"
# Clusters before 1.26 say no more of a pod than that it is deleted.
REMOVED = "was ended: its pod was deleted, as when a node is drained"
PREEMPTED = _DISRUPTED["PreemptionByScheduler"]
_FAILED = {
    "Evicted": "was evicted by its node",
    "NodeLost": "was lost with its node",
    "NodeAffinity": "was refused by the node, whose labels had changed",
    "Shutdown": "was ended with its node",
    "Terminated": "was ended with its node",
    "Preempting": "was put off its node for a pod of higher priority",
    "UnexpectedAdmissionError": "was refused by the node",
    "DeadlineExceeded": "ran longer than its pod's deadline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job has not begun. words: empty if nothing is wrong, and kind: what stays the same
    while the cluster tries again; patience: how long that may last, in seconds."""

    kind: str = ""
    words: str = ""
    patience: float = _FOREVER


def waiting(job: Json | None, pod: Json | None, container: str) -> Waiting:
    """Why there is nothing to see yet."""
    if pod is None:
        if job is not None and job.get("spec", {}).get("suspend"):
            return Waiting(kind="suspended", words="it waits in its queue, suspended")
        return Waiting()
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            why = condition.get("message", "").rstrip(".")
            return Waiting(kind="unscheduled", words=f"no node takes it: {why}")
    state = _container(pod, container).get("state", {}).get("waiting") or {}
    words, patience = _WAITING.get(state.get("reason", ""), ("", _FOREVER))
    if not words:
        return Waiting()
    message = str(state.get("message") or "")
    if state["reason"] in ("ErrImagePull", "ImagePullBackOff") and any(
            word in message.lower() for word in _FINAL):
        patience = 0
    return Waiting(kind=words, words=f"{words}: {message}" if message else words,
                   patience=patience)


def has_begun(pod: Json | None, container: str) -> bool:
    """Whether there is a log to read."""
    state = _container(pod or {}, container).get("state", {})
    return "running" in state or "terminated" in state


def has_ended(pod: Json | None, container: str) -> bool:
    """Whether the log is all there."""
    phase = (pod or {}).get("status", {}).get("phase")
    return ("terminated" in _container(pod or {}, container).get("state", {})
            or phase in ("Succeeded", "Failed"))


def container_id(pod: Json | None, container: str) -> str:
    """As the node calls it; empty if there is none yet."""
    return str(_container(pod or {}, container).get("containerID") or "").rpartition("/")[2]


def is_ahead(job: Json | None, pods: list[Json], container: str) -> bool:
    """Whether the Job tells of ends that its pods do not tell of yet: two watches bring them."""
    status = (job or {}).get("status", {})
    known = sum(has_ended(pod, container) for pod in pods)
    return bool(_verdict(job)) and known < (status.get("succeeded") or 0) + (
        status.get("failed") or 0)


def ended(job: Json | None, pod: Json | None, container: str, *, timeout: float,
          memory: int) -> Outcome | None:
    """How the job ended; None if it has not. `timeout` and `memory` are what was asked for."""
    over = _verdict(job)
    if not over and not _is_last(job, pod, container):
        return None
    message = over.get("message", "") if over else ""
    if over and over.get("reason") == "DeadlineExceeded":
        limit = (job or {}).get("spec", {}).get("activeDeadlineSeconds")
        return Outcome(code=_code(pod, container) or 143,
                       reason=f"ran longer than its deadline of {limit} s")
    if over and over.get("type") == "Complete":
        return Outcome(code=0)
    if pod is None:
        return Outcome(code=NEVER_STARTED, reason=f"ended without a pod: {message}".rstrip(": "))
    return _of_pod(pod, container, timeout=timeout, memory=memory)


def _of_pod(pod: Json, container: str, *, timeout: float, memory: int) -> Outcome:
    status, state = pod.get("status", {}), _terminated(pod, container)
    code = int(state.get("exitCode", NEVER_STARTED))
    if state.get("message", "").strip() == LATE:
        return Outcome(code=code or 143, reason=f"ran longer than its timeout of {timeout:g} s")
    if state.get("reason") == "OOMKilled":
        most = f" of {memory / 2**20:.0f} MB" if memory else ""
        return Outcome(code=code or 137, reason=f"was killed: out of memory{most}")
    if state.get("reason") in ("ContainerCannotRun", "StartError"):
        message = str(state.get("message", ""))
        return Outcome(code=NEVER_STARTED, reason=(
            "could not be started: the image has no bash" if '"bash"' in message
            and "not found" in message else f"could not be started: {message}"))
    if _disruption(pod):
        return Outcome(code=code or 143, reason=_disruption(pod))
    if status.get("reason"):
        words = _FAILED.get(status["reason"], f"failed: {status['reason']}")
        return Outcome(code=code or 143, reason=_with(words, status.get("message")))
    if _is_removed(pod) and code:
        return Outcome(code=code, reason=REMOVED)
    if not state:
        return Outcome(code=NEVER_STARTED, reason="ended, and the cluster does not say how")
    return Outcome(code=code)


def removed(job: Json, pod: Json) -> str:
    """Why a pod that is the only one its Job may have is taken away; empty if it is not.

    The Job would make another one, which would log into the same run. Its own deadline is another
    matter, and ends the Job a moment later.
    """
    spec = job.get("spec", {})
    if not _is_removed(pod) or not _is_the_only_one(job, pod) or spec.get("backoffLimit") != 0:
        return ""
    if spec.get("suspend"):
        return "was put back into its queue"
    return "" if spec.get("activeDeadlineSeconds") else _disruption(pod) or REMOVED


def _is_removed(pod: Json) -> bool:
    return "deletionTimestamp" in pod.get("metadata", {})


def _disruption(pod: Json) -> str:
    for condition in _conditions(pod):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            words = _DISRUPTED.get(condition.get("reason", ""), "was ended by the cluster")
            return _with(words, condition.get("message"))
    return ""


def _is_last(job: Json | None, pod: Json | None, container: str) -> bool:
    """Whether a pod's end is the Job's: so the Job's own word, which comes later, is not needed."""
    if pod is None or not has_ended(pod, container) or not _is_the_only_one(job or {}, pod):
        return False
    return _code(pod, container) == 0 or (job or {}).get("spec", {}).get("backoffLimit") == 0


def _is_the_only_one(job: Json, pod: Json) -> bool:
    """Whether what becomes of this pod becomes of its Job, unless another is tried."""
    return (pod.get("spec", {}).get("restartPolicy") == "Never"
            and (job.get("spec", {}).get("completions") or 1) == 1
            and len(pod["spec"].get("containers", ())) == 1)


def _verdict(job: Json | None) -> Json:
    for condition in _conditions(job or {}):
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            return condition
    return {}


def _code(pod: Json | None, container: str) -> int | None:
    code = _terminated(pod or {}, container).get("exitCode")
    return None if code is None else int(code)


def _terminated(pod: Json, container: str) -> Json:
    state: Json = _container(pod, container).get("state", {}).get("terminated") or {}
    return state


def _container(pod: Json, name: str) -> Json:
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status.get("name") == name:
            found: Json = status
            return found
    return {}


def _conditions(item: Json) -> list[Json]:
    found: list[Json] = item.get("status", {}).get("conditions") or []
    return found


def _with(words: str, message: Any) -> str:
    return f"{words}: {message}".rstrip(".") if message else words

"""One Job, followed from its making to its end: its log, what it waits for, how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toolchain.adapters.cluster import Cluster
from toolchain.adapters.cluster_log import PodLog
from toolchain.adapters.cluster_watch import Observed
from toolchain.adapters.log import Log
from toolchain.kubernetes import story
from toolchain.kubernetes.manifest import Manifest, pod_spec
from toolchain.run import Job, Outcome

Json = dict[str, Any]
CANCELLED = "was cancelled"
_SILENT = 20.0  # seconds without a reason, after which the events are asked
_BEAT = 0.5  # seconds between looks at the clock and at `cancel`
_LAST_WORDS = 60.0  # seconds for what is left of a log
_SLACK = 20  # seconds beyond the pod's grace, for the cluster to remove it


class Followed:
    """A Job as `observed` tells of it. start_timeout: seconds, zero is none."""

    def __init__(self, made: Manifest, job: Job, observed: Observed, cluster: Cluster,
                 say: Callable[[str], None], start_timeout: float) -> None:
        self._made = made
        self._job = job
        self._observed = observed
        self._cluster = cluster
        self._say = say
        self._start_timeout = start_timeout
        self._logs: dict[str, PodLog] = {}  # by the pod's name
        self.is_over = False  # nothing of it runs any more, as far as we know
        self._heard = 0
        self._wrong, self._wrong_since = story.Waiting(), 0.0
        self._complain_after = _SILENT

    def outcome(self) -> Outcome:
        """Wait for the end. Raises EngineError if the cluster no longer answers."""
        began = time.monotonic()
        cancel = self._job.cancel
        while True:
            self._wait()
            if cancel is not None and cancel.is_set():
                return Outcome(code=143, reason=CANCELLED)
            outcome = self._end() or self._never(began)
            if outcome is not None:
                self.is_over = True
                self._hear_out()
                return outcome
            outcome = self._loss()
            if outcome is not None:
                return outcome

    def _end(self) -> Outcome | None:
        job, pods = self._now[0], self._observed.pods.get(self._made.name, {})
        if story.is_ahead(job, list(pods.values()), self._made.container):
            self._observed.ask_for_pods(self._made.name)
            self._listen()
        job, pod = self._now
        return story.ended(job, pod, self._made.container, timeout=self._job.timeout,
                           memory=self._job.resources.memory)

    def _loss(self) -> Outcome | None:
        """Its pod is taken away, and there must not be another one."""
        reason = self._lost()
        if reason and not self._observed.is_still_wanted(self._made.name):
            reason = story.DELETED
        return Outcome(code=143, reason=reason) if reason else None

    def _lost(self) -> str:
        """Why its pod is taken away; a pod that comes in its place is none of ours."""
        job, pod = self._now[0], self._observed.removed(self._made.name)
        return story.removed(job, pod) if job is not None and pod is not None else ""

    def explained(self, outcome: Outcome) -> Outcome:
        """With what the cluster told of a pod that it took away; that may come after the deed."""
        if outcome.reason != story.REMOVED:
            return outcome
        said = self._cluster.events(self._made.namespace, self._made.name, "reason=Preempted")
        return replace(outcome, reason=f"{story.PREEMPTED}: {said}") if said else outcome

    def _never(self, began: float) -> Outcome | None:
        if self._observed.is_deleted(self._made.name, began):
            return Outcome(code=story.NEVER_STARTED, reason=story.DELETED)
        reason = self._obstacle(*self._now, time.monotonic() - began) if not self._logs else ""
        return Outcome(code=story.NEVER_STARTED, reason=reason) if reason else None

    def until_gone(self) -> None:
        """Wait until nothing of a Job that was deleted runs any more; the cluster then removes
        what it still knows of it."""
        grace = pod_spec(self._made.job).get("terminationGracePeriodSeconds", 0)
        began = time.monotonic()
        while self._is_running(began) and time.monotonic() < began + grace + _SLACK:
            self._wait()
        self._hear_out()

    def _is_running(self, deleted: float) -> bool:
        if self._observed.is_deleted(self._made.name, deleted):
            return False
        pods = self._observed.pods.get(self._made.name, {})
        return not pods or not all(
            story.has_ended(pod, self._made.container)
            or (name in self._logs and self._logs[name].ended.is_set())
            for name, pod in list(pods.items()))

    def close(self) -> None:
        for log in self._logs.values():
            log.end()

    @property
    def _now(self) -> tuple[Json | None, Json | None]:
        name = self._made.name
        return self._observed.jobs.get(name), self._observed.pod(name)

    def _wait(self) -> None:
        """For news or for a while; then there may be a log to read."""
        self._heard = self._observed.wait(self._made.name, self._heard, _BEAT)
        self._listen()

    def _listen(self) -> None:
        is_lost = bool(self._logs and self._lost())
        for name, pod in list(self._observed.pods.get(self._made.name, {}).items()):
            if story.has_begun(pod, self._made.container) and not is_lost:
                self._read(name)

    def _obstacle(self, job: Json | None, pod: Json | None, seconds: float) -> str:
        """Why the job will never begin; says what it waits for."""
        state, now = story.waiting(job, pod, self._made.container), time.monotonic()
        if state.kind != self._wrong.kind:
            self._wrong, self._wrong_since = state, now
            if state.words:
                self._say(f"{self._job.trial or self._job.name}: waiting: {state.words}")
        if now - self._wrong_since >= state.patience:
            # The first words say more than those of later tries ("back-off").
            words = self._wrong.words if state.patience else state.words
            return f"could not be started: {words}"
        if not state.words and seconds > self._complain_after:
            self._complain_after = 2 * seconds
            self._say_event()
        if self._start_timeout and seconds > self._start_timeout:
            reason = f": {self._wrong.words}" if self._wrong.words else ""
            return f"did not begin within {self._start_timeout:g} s{reason}"
        return ""

    def _say_event(self) -> None:
        """What the cluster complains of where a pod's status says nothing: no network, say."""
        found = self._cluster.events(self._made.namespace, self._made.name)
        if found:
            self._say(f"{self._job.trial or self._job.name}: waiting: {found}")

    def _read(self, pod: str) -> None:
        if pod in self._logs:
            return

        def known() -> Json | None:
            return self._observed.pods.get(self._made.name, {}).get(pod)

        self._logs[pod] = PodLog(self._cluster, self._made.namespace, pod, self._made.container,
                                 Log(self._job.trial, self._job.log), known)
        self._logs[pod].start()

    def _hear_out(self) -> None:
        end = time.monotonic() + _LAST_WORDS
        for log in self._logs.values():
            log.ended.wait(max(0.1, end - time.monotonic()))

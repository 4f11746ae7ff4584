"""The `kubernetes` engine: the image as a Job of a cluster.

Rule 1: a Job's name is made of the project and the MLflow run, so making it twice is as once, and
whoever comes back to a run finds its Job.
Rule 2: a Job outlives us. It is removed when it has ended or is cancelled; if we are killed it goes
on, and `find` brings the next one to it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from toolchain.adapters.cluster import Cluster, timeouts
from toolchain.adapters.cluster_job import Followed
from toolchain.adapters.cluster_watch import Observed
from toolchain.adapters.handed_on import threads, variables
from toolchain.adapters.supervised import exit_on_sigterm
from toolchain.adapters.workload import seen_by_pods
from toolchain.errors import EngineError
from toolchain.kubernetes import KEY, MANAGED, MANAGER, RUN
from toolchain.kubernetes.manifest import Manifest, key_label, manifest
from toolchain.kubernetes.secret import written_out
from toolchain.kubernetes.settings import Settings
from toolchain.run import Job, Outcome

Json = dict[str, Any]
_HERE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "AWS_PROFILE",
         "AWS_DEFAULT_PROFILE", "MLFLOW_TRACKING_URI")


class KubernetesEngine:
    """Runs jobs as Jobs of `cluster`. template: the Job to start from; environ: this machine's."""

    name = "kubernetes"

    def __init__(self, *, cluster: Cluster, settings: Settings, template: Json | None,
                 environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._template = template
        self._environ = environ
        self._say = say
        self._lock = threading.Lock()
        self._observed: dict[str, Observed] = {}
        self._said: set[str] = set()

    def find(self, key: str) -> tuple[str, ...]:
        """The runs of Jobs with that training key, which the cluster still has. Whose they are,
        a Job does not know: two tracking stores can have trained the same."""
        namespace = self._namespace()
        answer = self._cluster.ask(
            f"list Jobs of namespace {namespace}", lambda apis: apis.batch.list_namespaced_job(
                namespace, label_selector=f"{MANAGED}={MANAGER},{KEY}={key_label(key)}",
                _preload_content=False, _request_timeout=timeouts()))
        found = [item["metadata"] for item in answer.body.get("items") or ()
                 if item["metadata"].get("annotations", {}).get(KEY) == key
                 and not item["metadata"].get("deletionTimestamp")]
        found.sort(key=lambda item: str(item.get("creationTimestamp")), reverse=True)
        return tuple(str(item["annotations"][RUN]) for item in found
                     if item["annotations"].get(RUN))

    def prepare(self, job: Job) -> None:
        """Have the cluster look at the Job without making it: it says what is wrong before an
        MLflow run is begun."""
        self._check(job)
        made = self._made(job, uuid.uuid4().hex)
        self._warn(made, job)
        self._create(made, dry_run="All")

    def execute(self, job: Job) -> Outcome:
        self._check(job)
        run_id = job.environment.get("MLFLOW_RUN_ID") or uuid.uuid4().hex
        made = self._made(job, run_id)
        with exit_on_sigterm(), self._watched(made.namespace) as observed:
            followed = Followed(made, job, observed, self._cluster, self._say,
                                self._settings.start_timeout)
            try:
                self._create_both(made)
                outcome = followed.outcome()
                self._clear(made, followed)
            except (KeyboardInterrupt, SystemExit):
                with contextlib.suppress(EngineError):
                    self._clear(made, followed)
                raise
            finally:
                followed.close()
            return followed.explained(outcome)

    def preview(self, job: Job) -> str:
        """The manifest and the digests, as YAML; nothing is asked of the cluster."""
        from toolchain.spec.yamltext import canonical

        self._check(job)
        made = self._made(job, "dry-run")
        head = [f"# image: {job.pushed.reference}", f"# image config: {job.pushed.config}",
                f"# training key: {job.key}"]
        if made.secret:
            head.append(f"# in the Secret {made.name}, gone with the Job: "
                        f"{', '.join(sorted(made.secret))}")
        if made.left_out:
            head.append(f"# left out: {', '.join(made.left_out)}")
        return "\n".join([*head, canonical(made.job).rstrip()])

    # What is submitted

    def _made(self, job: Job, run_id: str) -> Manifest:
        here = {name: value for name, value in variables(
                    self._environ, replace(job.docker, environment={}) if job.docker else None
                ).items()
                if name.upper() not in _HERE and not self._is_path(value)}
        address, own = seen_by_pods(self._settings, self._environ), dict(job.environment)
        if address and "MLFLOW_TRACKING_URI" in own:
            own["MLFLOW_TRACKING_URI"] = address
        return manifest(self._template, self._settings, replace(job, environment=own),
                        namespace=self._namespace(), run_id=run_id,
                        variables={**threads(job.resources), **here})

    @staticmethod
    def _is_path(value: str) -> bool:
        """Whether a variable names a file of this machine, which no pod has."""
        return os.path.isabs(value) and os.path.exists(value)

    def _namespace(self) -> str:
        if self._settings.namespace:
            return self._settings.namespace
        named = ((self._template or {}).get("metadata") or {}).get("namespace")
        return str(named) if named else self._cluster.namespace

    def _check(self, job: Job) -> None:
        where = f"{job.name}, engine kubernetes"
        if job.readable:
            raise EngineError(f"a pod has no file of this machine: {job.readable[0]}", where=where,
                              fix="put it into the project's folder, or into a storage that the "
                                  "parameter can name (s3://…)")
        if job.database:
            raise EngineError("a pod cannot reach a tracking store that is a file on this machine",
                              where=where, fix="run `mlflow server` where pods reach it, and set "
                              "tracking_uri=http://…")

    def _warn(self, made: Manifest, job: Job) -> None:
        for volume in job.docker.volumes if job.docker else ():
            self._once(f"warning: {job.name}: engine kubernetes mounts no folder of this machine: "
                       f"{volume}; write volumes in the job template")
        for name in written_out(self._template):
            self._once(f"warning: the job template has {name} in plain text, which all can read "
                       "who can read Jobs; name a Secret (valueFrom.secretKeyRef)")
        if made.left_out:
            self._once(f"note: {job.name}: not handed on, as kubernetes.secrets or "
                       f"kubernetes.pass_secrets says: {', '.join(made.left_out)}")

    def _once(self, text: str) -> None:
        with self._lock:
            if text in self._said:
                return
            self._said.add(text)
        self._say(text)

    def _create(self, made: Manifest, dry_run: str | None = None) -> str:
        """The Job's uid. One of that name is the same."""
        what = f"create Job {made.name} in namespace {made.namespace}"
        answer = self._cluster.ask(what, lambda apis: apis.batch.create_namespaced_job(
            made.namespace, made.job, **({"dry_run": dry_run} if dry_run else {}),
            _preload_content=False, _request_timeout=timeouts()), accept=(409,))
        if answer.status == 409:
            answer = self._cluster.ask(what, lambda apis: apis.batch.read_namespaced_job(
                made.name, made.namespace, _preload_content=False, _request_timeout=timeouts()))
        return str(answer.body["metadata"].get("uid", ""))

    def _create_both(self, made: Manifest) -> None:
        uid = self._create(made)
        if not made.secret:
            return
        try:
            self._create_secret(made, uid)
        except EngineError:
            self._delete(made, "Background")
            raise

    def _create_secret(self, made: Manifest, uid: str) -> None:
        """After its Job, so that it never outlives one; the pod waits for it."""
        try:
            self._cluster.ask(
                f"create Secret {made.name} in namespace {made.namespace}",
                lambda apis: apis.core.create_namespaced_secret(
                    made.namespace, made.secret_body(uid), _preload_content=False,
                    _request_timeout=timeouts()), accept=(409,))
        except EngineError as error:
            raise EngineError(
                error.what, where=error.where,
                fix="name Secrets that are there with kubernetes.secrets, or hand no credentials "
                    "on with kubernetes.pass_secrets=0; else: " + error.fix) from None

    # What becomes of it

    @contextlib.contextmanager
    def _watched(self, namespace: str) -> Iterator[Observed]:
        with self._lock:
            observed = self._observed.setdefault(namespace, Observed(self._cluster, namespace))
        with observed:
            yield observed

    def _clear(self, made: Manifest, followed: Followed) -> None:
        """Delete the Job. A program that still runs is told, and may clean up; its last words are
        heard."""
        if followed.is_over:
            self._delete(made, "Background")
        elif self._delete(made, "Foreground"):
            followed.until_gone()

    def _delete(self, made: Manifest, policy: str) -> bool:
        """Whether there was one. Without a policy the Job's pods would stay."""
        answer = self._cluster.ask(
            f"delete Job {made.name} in namespace {made.namespace}",
            lambda apis: apis.batch.delete_namespaced_job(
                made.name, made.namespace, propagation_policy=policy, _preload_content=False,
                _request_timeout=timeouts()), accept=(404,))
        return answer.status != 404

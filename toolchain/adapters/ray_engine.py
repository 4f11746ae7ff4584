"""The `ray` engine: each job is a task of a Ray cluster, run on a node as `local` runs it here.

Rule 1: where a task runs and when is Ray's business, and so is whether a node is alive. A task is
submitted once for each attempt, and another attempt is made only when Ray says that the node of
the last one is lost, never when the job itself failed.
Rule 2: what a job needs to know, credentials included, goes to it through a mailbox (an actor) and
is in no task. What it says comes back that way.
Rule 3: a job lives as long as we do. Ray ends the workers of a driver that is gone, and a job dies
with its worker.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolchain.adapters.connections import is_loopback
from toolchain.adapters.handed_on import variables
from toolchain.adapters.ray_attempt import Attempt, MailboxLostError, NodeLostError
from toolchain.adapters.ray_cluster import Cluster
from toolchain.adapters.ray_order import Order, Place, Shared, machine
from toolchain.adapters.supervised import exit_on_sigterm
from toolchain.errors import EngineError, without_credentials
from toolchain.image import Image
from toolchain.lock import Lock
from toolchain.run import Job, Outcome, Resources
from toolchain.shares import THREADS

if TYPE_CHECKING:
    from toolchain.adapters.local import Wheels
    from toolchain.store import Store

ATTEMPTS = 4
ATTEMPT = "TOOLCHAIN_ATTEMPT"  # variable of the job: 1, or more after the loss of a node
_HANDED_ON = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")


class RayEngine:
    """Runs jobs as tasks of `cluster`.

    wheels, store: where wheels come from that are in no package index; place: where nodes find
    images; patience: seconds for a node to join if none could ever run a job; again: is told of
    an attempt after the first, before it starts.
    """

    name = "ray"

    def __init__(self, *, cluster: Cluster, place: Place, wheels: Wheels, store: Store,
                 environ: Mapping[str, str], say: Callable[[str], None],
                 again: Callable[[Job, int, str], None], patience: float = 60) -> None:
        self._cluster = cluster
        self._place = place
        self._wheels = wheels
        self._store = store
        self._environ = environ
        self._say = say
        self._again = again
        self._patience = patience
        self._preparing = threading.Lock()
        self._sending = threading.Lock()
        self._opened: Any = None
        self._sent: dict[str, list[Any]] = {}
        self._prepared: set[tuple[str, str]] = set()

    def find(self, key: str) -> tuple[str, ...]:
        return ()  # a job ends with the process that started it

    def prepare(self, job: Job) -> None:
        if job.lock.conda is not None:
            raise EngineError("conda packages are not installed on Ray nodes: of this package's "
                              "own dependencies, which unpack them, a node has none",
                              where=f"{job.name}, engine ray",
                              fix="take them from the package index, or use another engine")
        self._cluster.join()
        key = (job.lock.digest.hex, job.project.digest.hex)
        with self._preparing:  # who comes second has nothing left to do
            if key in self._prepared:
                return
            # One node shows that it can be done; the others do it when they get a job.
            outcome = self._attempts(job, is_rehearsal=True)
            if outcome.code:
                raise EngineError(f"the environment could not be made: {outcome.reason}",
                                  where=f"{job.name}, engine ray",
                                  fix="see the cluster with `ray status`, then run it again")
            self._prepared.add(key)

    def execute(self, job: Job) -> Outcome:
        self._cluster.join()
        return self._attempts(job)

    def _attempts(self, job: Job, *, is_rehearsal: bool = False) -> Outcome:
        for number in range(1, ATTEMPTS + 1):
            order = self._order(job, number, is_rehearsal)
            mailbox = self._mailbox()
            attempt = Attempt(job, order, cluster=self._cluster, mailbox=mailbox,
                              patience=self._patience, say=self._say)
            try:
                with exit_on_sigterm():
                    return attempt.run(self._references(job.lock))
            except SystemExit:  # Ray makes its status 1 of every other
                raise SystemExit(128 + signal.SIGTERM) from None
            except NodeLostError as lost:
                node = str(lost)
            except MailboxLostError:
                self._lose(mailbox)
                raise EngineError(
                    "Ray lost the process that passes logs on", where=f"{job.name}, engine ray",
                    fix="run the same command again; see why in the logs of this machine's "
                        "node") from None
            if number < ATTEMPTS and not is_rehearsal:
                self._say(f"{job.trial or job.name}: node {node} is lost; attempt {number + 1}")
                self._again(job, number + 1, node)
        return Outcome(code=1, reason=f"lost {ATTEMPTS} nodes one after the other")

    def _order(self, job: Job, number: int, is_rehearsal: bool) -> Order:
        named = {*job.docker.environment, *job.docker.copied} if job.docker else set()
        # Not proxies and certificates: a node has its own.
        given = {name: value for name, value in variables(self._environ, job.docker).items()
                 if name in named or name in THREADS or name.startswith(_HANDED_ON)}
        environment = {**given, ATTEMPT: str(number), **job.environment}
        # Only what the node uses of it; a trial's message stays small.
        sent = replace(
            job, docker=None, image=Image(layers=(), config=b"", manifest=b""),
            environment=environment, resources=_threaded(job.resources), **_cleared(job))
        tracking = environment.get("MLFLOW_TRACKING_URI", "")
        return Order(job=sent, place=self._place, shared=tuple(_shared(job)), machine=machine(),
                     local=_loopback(tracking), is_rehearsal=is_rehearsal)

    def _mailbox(self) -> Any:
        with self._sending:
            if self._opened is None:
                self._opened = self._cluster.mailbox()
            return self._opened

    def _lose(self, mailbox: Any) -> None:
        """The next job gets another."""
        with self._sending:
            if self._opened is mailbox:
                self._opened = None

    def _references(self, lock: Lock) -> list[Any]:
        """References to the wheels of a lock that names what is in no index; else none."""
        import ray

        if not any(package.source for package in lock.packages):
            return []
        key = lock.digest.hex
        with self._sending:
            if key not in self._sent:
                self._sent[key] = [
                    [wheel.digest.hex, wheel.filename, ray.put(self._store.read(wheel.digest))]
                    for wheel in self._wheels.stored(lock)]
            return self._sent[key]


def _shared(job: Job) -> list[Shared]:
    found = []
    if job.artifacts:
        os.makedirs(job.artifacts, exist_ok=True)
    for path, fix in (
            (job.database, "set tracking_uri to a server that every node reaches"),
            (job.artifacts, "let the tracking server serve artifacts, or keep them in an object "
                            "store"),
            *((path, "keep it on storage that every node has at the same path, or give a URI")
              for path in job.readable)):
        if path and os.path.exists(path):
            found.append(Shared(path=path, inode=os.stat(path).st_ino, fix=fix))
    return found


def _loopback(uri: str) -> str:
    """A server's address if it is this machine's own, without secrets; else nothing."""
    if not uri.startswith(("http://", "https://")):
        return ""
    host = urlsplit(uri).hostname or ""
    return without_credentials(uri) if is_loopback(host) else ""


def _threaded(resources: Resources) -> Resources:
    """Who asks for no processors gets one of Ray, and is not to start threads for all of a node."""
    return resources if resources.cpus or resources.threads else replace(resources, threads=1)


def _cleared(job: Job) -> dict[str, Any]:
    """What is of this process and means nothing on a node."""
    return {name: value for name, value in (("cancel", None), ("log", "")) if hasattr(job, name)}

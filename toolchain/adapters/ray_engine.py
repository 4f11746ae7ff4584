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

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolchain.adapters.connections import is_loopback
from toolchain.adapters.handed_on import variables
from toolchain.adapters.log import Log
from toolchain.adapters.ray_cluster import Cluster
from toolchain.adapters.ray_node import Order, Place, Shared, machine
from toolchain.adapters.supervised import GRACE, asked_with, exit_on_sigterm
from toolchain.errors import EngineError, without_credentials
from toolchain.image import Image
from toolchain.lock import Lock
from toolchain.run import Job, Outcome

if TYPE_CHECKING:
    from toolchain.adapters.local import Wheels
    from toolchain.store import Store

ATTEMPTS = 4
ATTEMPT = "TOOLCHAIN_ATTEMPT"  # variable of the job: 1, or more after the loss of a node
_TICK = 0.5  # seconds between looks at what Ray does not tell by itself
_LOOK = 2  # seconds between looks at what the cluster has
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

    def prepare(self, job: Job) -> None:
        if job.lock.conda is not None:
            raise EngineError("conda packages are not installed on Ray nodes",
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
            attempt = _Attempt(self, job, order, self._mailbox())
            try:
                with exit_on_sigterm():
                    return attempt.run()
            except SystemExit:  # Ray makes its status 1 of every other
                raise SystemExit(128 + signal.SIGTERM) from None
            except _NodeLostError as lost:
                node = str(lost)
            if number < ATTEMPTS and not is_rehearsal:
                self._say(f"{job.trial or job.name}: node {node} is lost; attempt {number + 1}")
                self._again(job, number + 1, node)
        return Outcome(code=1, reason=f"lost {ATTEMPTS} nodes one after the other")

    def _order(self, job: Job, number: int, is_rehearsal: bool) -> Order:
        named = {*job.docker.environment, *job.docker.copied} if job.docker else set()
        # Not proxies, certificates and numbers of threads: a node has its own.
        given = {name: value for name, value in variables(self._environ, job.docker).items()
                 if name in named or name.startswith(_HANDED_ON)}
        environment = {**given, ATTEMPT: str(number), **job.environment}
        # Only what the node uses of it; a trial's message stays small.
        sent = replace(
            job, docker=None, image=Image(layers=(), config=b"", manifest=b""),
            environment=environment, **_cleared(job))
        tracking = environment.get("MLFLOW_TRACKING_URI", "")
        return Order(job=sent, place=self._place, shared=tuple(_shared(job)), machine=machine(),
                     local=_loopback(tracking), is_rehearsal=is_rehearsal)

    def _mailbox(self) -> Any:
        with self._sending:
            if self._opened is None:
                self._opened = self._cluster.mailbox()
            return self._opened

    def lost_mailbox(self, mailbox: Any) -> None:
        """The next job gets another."""
        with self._sending:
            if self._opened is mailbox:
                self._opened = None

    def wheels(self, lock: Lock) -> list[Any]:
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

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    @property
    def patience(self) -> float:
        return self._patience

    @property
    def say(self) -> Callable[[str], None]:
        return self._say


class _NodeLostError(Exception):
    """Ray says that the node of an attempt is dead; its name."""


class _Attempt:
    """One task of one job, from its submission to its end."""

    def __init__(self, engine: RayEngine, job: Job, order: Order, mailbox: Any) -> None:
        self._engine = engine
        self._job = job
        self._order = order
        self._mailbox = mailbox
        self._name = uuid.uuid4().hex
        self._log = Log(job.trial, *filter(None, [getattr(job, "log", "")]))
        self._wanted = _wanted(job)
        self._begun_on = ""
        self._is_over = False
        self._task: Any = None
        self._reading: Any = None
        self._looked = time.monotonic()
        self._impossible_since = 0.0

    def run(self) -> Outcome:
        import ray

        try:
            ray.get(self._mailbox.open.remote(
                self._name, self._order.to_bytes(), self._engine.wheels(self._job.lock)))
            self._task = self._engine.cluster.start(
                self._mailbox, self._name, self._job.trial or self._job.name, self._wanted)
            self._reading = self._mailbox.read.remote(self._name)
            try:
                while not self._step():
                    self._look()
                    if _is_cancelled(self._job):
                        self._end(signal.SIGTERM)
                        return Outcome(code=143, reason="was cancelled")
            except (KeyboardInterrupt, SystemExit) as error:
                self._end(asked_with(error))
                raise
            return self._outcome()
        except ray.exceptions.RayActorError:
            self._engine.lost_mailbox(self._mailbox)
            raise EngineError(
                "Ray lost the process that passes logs on", where=f"{self._job.name}, engine ray",
                fix="run the same command again; see why in the logs of this machine's "
                    "node") from None
        except ray.exceptions.RayTaskError:
            raise  # a bug of ours on the node
        except ray.exceptions.RayError as error:
            raise EngineError(f"Ray gave the job up: {str(error).splitlines()[0][:300]}",
                              where=f"{self._job.name}, engine ray",
                              fix="see the cluster with `ray status`") from None
        finally:
            self._drop()

    def _step(self) -> bool:
        """Pass on what was said, for a moment; whether the task is over."""
        import ray

        waiting = [one for one in (self._reading, self._task) if one is not None]
        ready, _ = ray.wait(waiting, num_returns=1, timeout=_TICK)
        if self._reading is not None and self._reading in ready:
            said, is_over = ray.get(self._reading)
            self._is_over = is_over
            self._log.write(said)
            self._reading = None if is_over else self._mailbox.read.remote(self._name)
            return False
        return self._task in ready

    def _outcome(self) -> Outcome:
        import ray

        try:
            ended = ray.get(self._task)
        except ray.exceptions.NodeDiedError:
            raise _NodeLostError(self._node or "that it was sent to") from None
        except ray.exceptions.OutOfMemoryError:
            return Outcome(code=137, reason=f"was killed, as node {self._node} ran out of memory")
        except ray.exceptions.WorkerCrashedError:
            return Outcome(code=137, reason=f"was killed with its Ray worker on node {self._node}: "
                           "by the kernel for want of memory, or by somebody")
        except (ray.exceptions.TaskCancelledError, ray.exceptions.TaskUnschedulableError):
            return Outcome(code=143, reason="was cancelled in the cluster")
        finally:
            self._drop()
        if "error" in ended:
            what, where, fix = ended["error"]
            raise EngineError(what, where=f"{self._job.name}, engine ray, {where}", fix=fix)
        return Outcome(code=ended["code"], reason=ended["reason"])

    def _look(self) -> None:
        """Raise EngineError if no node is ever going to run this."""
        now = time.monotonic()
        if self._begun_on or now - self._looked < min(_LOOK, self._engine.patience):
            return
        self._looked = now
        if self._node:
            return
        obstacle = self._engine.cluster.obstacle(self._wanted)
        if not obstacle:
            self._impossible_since = 0
            return
        if not self._impossible_since:
            self._impossible_since = now
            self._engine.say(f"warning: {self._job.name}: no node of the Ray cluster can run this: "
                             f"{obstacle}")
        if now - self._impossible_since >= self._engine.patience:
            self._cancel(force=False)
            raise EngineError(
                f"no node of the Ray cluster can run this: {obstacle}",
                where=f"{self._job.name}, engine ray",
                fix="ask for less, or add such a node with `ray start --address=…`")

    def _end(self, number: signal.Signals) -> None:
        """Let the job have the signal; after a while, have Ray kill what is left of it."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._mailbox.order.remote(self._name, int(number)))
            if not self._node:
                self._cancel(force=False)  # it may not have a worker yet
            if self._ends_within(3 * GRACE):
                return
        self._cancel(force=True)
        self._ends_within(GRACE)

    def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._step():
            if time.monotonic() > end:
                return False
        return True

    @property
    def _node(self) -> str:
        """The node that it runs on; empty as long as it has not begun."""
        import ray

        if not self._begun_on:
            self._begun_on = ray.get(self._mailbox.where.remote(self._name))
        return self._begun_on

    def _cancel(self, *, force: bool) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.cancel(self._task, force=force, recursive=False)

    def _drop(self) -> None:
        """Have the rest of the log; what is left of the attempt finds nobody to serve."""
        import ray

        if self._name:
            with contextlib.suppress(ray.exceptions.RayError):
                dropped = self._mailbox.drop.remote(self._name)
                if not self._is_over:
                    self._log.write(ray.get(dropped))
            self._log.close()
            self._name = ""


def _wanted(job: Job) -> dict[str, float]:
    """A job's wishes as Ray names them. One that has none for processors gets one, as Ray's
    tasks do."""
    wanted: dict[str, float] = {"CPU": job.resources.cpus or 1}
    if job.resources.gpus:
        wanted["GPU"] = job.resources.gpus
    if job.resources.memory:
        wanted["memory"] = job.resources.memory
    return wanted


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


def _is_cancelled(job: Job) -> bool:
    event = getattr(job, "cancel", None)
    return event is not None and event.is_set()


def _cleared(job: Job) -> dict[str, Any]:
    """What is of this process and means nothing on a node."""
    return {name: value for name, value in (("cancel", None), ("log", "")) if hasattr(job, name)}

"""One attempt of a job on a Ray cluster: its task, from submission to how that ended."""

from __future__ import annotations

import contextlib
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

from toolchain.adapters.log import Log
from toolchain.adapters.ray_cluster import Cluster
from toolchain.adapters.ray_order import Order
from toolchain.adapters.supervised import GRACE, asked_with
from toolchain.errors import EngineError
from toolchain.run import Job, Outcome

_TICK = 0.5  # seconds between looks at what Ray does not tell by itself
_LOOK = 2  # seconds between looks at what the cluster has


class NodeLostError(Exception):
    """Ray says that the node of an attempt is dead; its name."""


class MailboxLostError(Exception):
    """The mailbox is gone, and with it the job."""


class Attempt:
    """`order` is the job as it is sent. `patience`: seconds for a node to join if none could ever
    run it; `say` tells people."""

    def __init__(self, job: Job, order: Order, *, cluster: Cluster, mailbox: Any, patience: float,
                 say: Callable[[str], None]) -> None:
        self._job = job
        self._order = order
        self._cluster = cluster
        self._mailbox = mailbox
        self._patience = patience
        self._say = say
        self._name = uuid.uuid4().hex
        self._log = Log(job.trial, job.log)
        self._wanted = _wanted(job)
        self._begun_on = ""
        self._is_over = False
        self._task: Any = None
        self._reading: Any = None
        self._looked = time.monotonic()
        self._impossible_since = 0.0

    def run(self, wheels: list[Any]) -> Outcome:
        """How the job ended. `wheels`: references to those that go with it.

        Raises NodeLostError, MailboxLostError, and EngineError for what cannot be run.
        """
        import ray

        try:
            ray.get(self._mailbox.open.remote(
                self._name, self._order.to_bytes(), wheels))
            self._task = self._cluster.start(
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
            raise MailboxLostError from None
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
            # First, since a signal may come while it is shown: it would be shown again.
            self._reading = None if is_over else self._mailbox.read.remote(self._name)
            self._log.write(said)
            return False
        return self._task in ready

    def _outcome(self) -> Outcome:
        import ray

        try:
            ended = ray.get(self._task)
        except ray.exceptions.NodeDiedError:
            raise NodeLostError(self._node or "that it was sent to") from None
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
        if self._begun_on or now - self._looked < min(_LOOK, self._patience):
            return
        self._looked = now
        if self._node:
            return
        obstacle = self._cluster.obstacle(self._wanted)
        if not obstacle:
            self._impossible_since = 0
            return
        if not self._impossible_since:
            self._impossible_since = now
            self._say(f"warning: {self._job.name}: no node of the Ray cluster can run this: "
                             f"{obstacle}")
        if now - self._impossible_since >= self._patience:
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
                if self._reading is not None:  # its answer may be on the way
                    self._log.write(ray.get(self._reading)[0])
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


def _is_cancelled(job: Job) -> bool:
    event = job.cancel
    return event is not None and event.is_set()

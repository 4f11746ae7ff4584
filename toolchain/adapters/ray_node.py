"""On a Ray node: one attempt of a job, by the `local` engine in the node's own cache.

Rule 1: it runs in Ray's worker. Only the standard library is there for sure, uv perhaps, and this
package's own code, which came with the task.
Rule 2: what the job says, and what it is told, goes through the mailbox. If that is gone, so is
whoever waits for the job, and the job is ended.
"""

from __future__ import annotations

import os
import signal
import socket
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from toolchain.adapters.environments import Environments
from toolchain.adapters.indexes import uv_environment
from toolchain.adapters.interpreters import Interpreters
from toolchain.adapters.local import LocalEngine
from toolchain.adapters.log import Log
from toolchain.adapters.ray_order import Order, Place, machine
from toolchain.adapters.ray_talk import SentLog, obeying
from toolchain.adapters.supervised import exit_on_sigterm
from toolchain.adapters.uv import Uv
from toolchain.digest import Digest
from toolchain.errors import EngineError, ResolveError, ToolchainError
from toolchain.journal import Journal
from toolchain.layer import Layer
from toolchain.lock import Lock, Package
from toolchain.store import Store
from toolchain.trace import Trace

if TYPE_CHECKING:
    from toolchain.push import Registry


# What Ray sets for its workers; the number of threads is that of processors it was asked for.
_OF_RAY = ("RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_LD_PRELOAD_ON_WORKERS", "OMP_NUM_THREADS")


def run(mailbox: Any, name: str, root: str) -> dict[str, Any]:
    """How the attempt ended: `code` and `reason`, or `error` with what, where and fix."""
    import ray

    node = socket.gethostname()
    # Nodes are started with SIGINT blocked, which the job would inherit.
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with exit_on_sigterm():
            begun = ray.get(mailbox.begin.remote(name, node))
            if begun is None:
                return {"code": 143, "reason": "was not begun"}
            log = SentLog(mailbox, name)
            with obeying(mailbox, name, log):
                return _run(log, Path(root), Order.from_bytes(begun[0]), begun[1])
    except ToolchainError as error:
        return {"error": [error.what, f"node {node}, {error.where}", error.fix]}
    except KeyboardInterrupt:
        return {"code": 130, "reason": ""}
    except SystemExit:
        return {"code": 143, "reason": ""}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(log: Log, root: Path, order: Order, wheels: list[Any]) -> dict[str, Any]:
    _look(order)
    cache = _cache(root)
    cache.bring(order.job.project, order.place)
    engine = cache.engine(wheels, log)
    if order.is_rehearsal:
        engine.prepare(order.job)
        return {"code": 0, "reason": ""}
    outcome = engine.execute(order.job)
    return {"code": outcome.code, "reason": outcome.reason}


def _look(order: Order) -> None:
    """Raise EngineError if the node cannot reach what the job needs."""
    for shared in order.shared:
        try:
            inode = os.stat(shared.path).st_ino
        except OSError:
            inode = -1
        if inode != shared.inode:
            raise EngineError("a file or folder of the machine that asks is not on this node",
                              where=shared.path, fix=shared.fix)
    if order.local and order.machine != machine():
        raise EngineError("the tracking server's address means another machine here",
                          where=order.local,
                          fix="set tracking_uri to an address that every node reaches")


@lru_cache(maxsize=1)
def _cache(root: Path) -> _Cache:
    return _Cache(root)


class _Cache:
    """What a node keeps: environments by lock, project layers, the record of both."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = Journal(root)
        self._store = Store(root / "blobs" / "sha256", root / "quarantine", self._journal)
        self._trace = Trace(root, self._journal)

    def engine(self, wheels: list[Any], log: Log) -> LocalEngine:
        environ = {name: value for name, value in os.environ.items() if name not in _OF_RAY}
        return LocalEngine(
            cache=self._root, store=self._store, trace=self._trace,
            wheels=_SentWheels(wheels, self._store), conda=_no_conda, environ=environ,
            environments=self._environments(log), log=lambda job: log)

    def _environments(self, log: Log) -> Environments:
        interpreters = Interpreters(os.environ, lambda text: log.write(f"{text}\n".encode()))
        return Environments(Uv(environ=uv_environment(os.environ), interpreter=interpreters.find),
                            self._store)

    def bring(self, layer: Layer, place: Place) -> None:
        """Have a layer in the store. Raises RegistryError or EngineError."""
        if self._store.has(layer.digest):
            return
        with self._trace.holding("fetch", layer.digest):
            if self._store.has(layer.digest):
                return
            with self._store.writer(layer.digest) as blob:
                for piece in self._registry(place).stream(layer.digest, layer.size):
                    blob.write(piece)

    def _registry(self, place: Place) -> Registry:
        if place.host:
            from toolchain.adapters.registry import HttpRegistry

            return HttpRegistry(place.host, place.host, place.repository,
                                insecure=place.insecure)
        if not os.path.isdir(place.folder):
            raise EngineError("the folder with the images is not on this node",
                              where=place.folder,
                              fix="set registry to one that every node reaches")
        from toolchain.adapters.layout import Layout

        return Layout(Path(place.folder), place.repository, self._root / "quarantine",
                      self._journal)


def _no_conda() -> NoReturn:
    raise EngineError("conda packages are not installed on Ray nodes", where="engine=ray",
                      fix="take them from the package index, or use another engine")


class _SentWheel(NamedTuple):
    """As toolchain.layer.wheel.Wheel, whose module needs more than is there."""

    digest: Digest
    filename: str


class _SentWheels:
    """The wheels of a lock with what is in no index: whoever asks has built them all.

    `sent`: sha256 in hexadecimal, file name and reference of each.
    """

    def __init__(self, sent: list[Any], store: Store) -> None:
        self._sent = sent
        self._store = store

    def stored(self, lock: Lock) -> tuple[Any, ...]:
        if not self._sent:
            return ()
        import ray

        found = []
        for text, filename, reference in self._sent:
            digest = Digest(text)
            if not self._store.has(digest):
                with self._store.writer(digest) as blob:
                    blob.write(ray.get(reference))
            found.append(_SentWheel(digest, filename))
        return tuple(found)

    def locate(self, packages: tuple[Package, ...], python: str, platform: str,
               options: tuple[str, ...]) -> None:
        return None

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...]) -> NoReturn:
        raise ResolveError(f"{package.name} did not come with the job", where="engine=ray",
                           fix="use another engine")

    def here(self, package: Package, python: str, platform: str) -> None:
        return None

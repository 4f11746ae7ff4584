"""This process as a driver of a Ray cluster: joining it, what it can run, what goes to its nodes.

Ray knows one cluster per process, so what is here is shared by all engines of this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import signal
import socket
import threading
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from toolchain.errors import EngineError

_JOINING = threading.Lock()
_PROBE = 5  # seconds until an address that does not answer is given up
_CALLS = 4000  # that one mailbox answers at once; a job has two or three
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})\Z")
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class Cluster:
    """The cluster at `address`: `host:port` of its head, or `auto` for the one on this machine."""

    def __init__(self, address: str) -> None:
        self._address = address

    def join(self) -> None:
        """Twice is as once. Raises EngineError."""
        ray = _ray()
        with _JOINING:
            if ray.is_initialized():
                self._check_joined(ray)
                return
            where = self._checked()
            with _signals_as_before():
                try:
                    ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR,
                             namespace="toolchain")
                except (RuntimeError, ConnectionError, ValueError, TimeoutError,
                        ray.exceptions.RayError) as error:
                    raise self._explained(str(error), ray) from None

    def _check_joined(self, ray: Any) -> None:
        here = ray.get_runtime_context().gcs_address
        if self._address not in ("auto", here) and _port(self._address) != _port(here):
            raise EngineError(f"this process is in another Ray cluster, {here}",
                              where=f"address={self._address}",
                              fix="one call can use one cluster; call once for each")

    def _checked(self) -> str:
        """The address as Ray takes it. Raises EngineError for one that cannot be."""
        if self._address == "auto":
            return "auto"
        if not self._address:
            raise EngineError("no Ray cluster is named", where="engine=ray",
                              fix="set address=HOST:PORT of its head, or RAY_ADDRESS; "
                                  "address=auto is the one that this machine is in")
        if self._address.startswith("ray://"):
            raise EngineError(
                "Ray Client addresses are not supported: only a node of the cluster can pass on a "
                "job's output and signals", where=f"address={self._address}",
                fix="make this machine a node (`ray start --address=HOST:6379 --num-cpus=0` runs "
                    "no jobs on it) and set address=HOST:6379, or make this call on a node")
        match = _ADDRESS.match(self._address)
        if not match or int(match[2]) > 65535:
            raise EngineError("that is no address of a Ray cluster",
                              where=f"address={self._address}",
                              fix="give HOST:PORT of its head, as in address=10.0.0.1:6379")
        try:
            is_one = _speaks_grpc(match[1].strip("[]"), int(match[2]))
        except OSError as error:
            raise EngineError(
                f"no Ray cluster answers: {error.strerror or error}",
                where=f"address={self._address}",
                fix="start one with `ray start --head`, or check the address") from None
        if not is_one:
            raise EngineError(
                "what answers is no Ray cluster", where=f"address={self._address}",
                fix="give the port that `ray start --head` named, 6379 if none was set")
        return self._address

    def _explained(self, text: str, ray: Any) -> EngineError:
        where = f"address={self._address}"
        found = _VERSIONS.findall(text)
        if "ersion mismatch" in text and len(found) == 2:
            (theirs, their_python), (ours, our_python) = found
            return EngineError(
                f"the cluster has Ray {theirs} and Python {their_python}, this machine Ray {ours} "
                f"and Python {our_python}", where=where,
                fix="Ray wants the same of both: pip install "
                    f"ray=={theirs} in a Python {their_python} with this package")
        if "uthenticat" in text:
            return EngineError("the cluster wants a token", where=where,
                               fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                                   "RAY_AUTH_TOKEN_PATH")
        if "any running Ray instance" in text:
            return EngineError("this machine is in no Ray cluster", where=where,
                               fix="start one with `ray start --head`, or name another's head")
        if "node info" in text or "raylet" in text:
            return EngineError("this machine is no node of the cluster", where=where,
                               fix=f"make it one: `ray start --address={self._address}`, with "
                                   "--num-cpus=0 if it is to run nothing")
        return EngineError(f"the Ray cluster cannot be joined: {' '.join(text.split())[:300]}",
                           where=where, fix="check the address, and `ray status` on its head")

    # What it can run

    def obstacle(self, wanted: Mapping[str, float]) -> str:
        """Why no node could ever run that, or nothing."""
        nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in wanted.items())
               for node in nodes):
            return ""
        have = "; ".join(_shown({name: node.get(name, 0) for name in ("CPU", "GPU", "memory")})
                         for node in nodes)
        return f"asked for {_shown(wanted)}; its nodes have: {have or 'nothing'}"

    # What goes to its nodes

    @cached_property
    def _code(self) -> tuple[list[Any], str]:
        """A reference to this package's files, and their digest."""
        data = _zipped(Path(__file__).parents[1])
        return [_ray().put(data)], hashlib.sha256(data).hexdigest()

    def start(self, mailbox: Any, name: str, title: str, wanted: Mapping[str, float]) -> Any:
        """Submit the task that runs an attempt; its reference."""
        with _JOINING:
            code, digest = self._code
            task = self._task
        return task.options(
            name=title, num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0),
            memory=wanted.get("memory"),
        ).remote(mailbox, name, code, digest)

    @cached_property
    def _task(self) -> Any:
        from toolchain.adapters import ray_start

        ray = _ray()
        # max_retries: see docs/decisions/0028; who asks begins an attempt again.
        _by_value(ray_start)
        return ray.remote(max_retries=0)(ray_start.start)

    def mailbox(self) -> Any:
        """A new mailbox, beside this process."""
        from toolchain.adapters import ray_mailbox

        ray = _ray()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False)
        with _JOINING:
            _by_value(ray_mailbox)
            return ray.remote(ray_mailbox.Mailbox).options(
                num_cpus=0, max_concurrency=_CALLS, scheduling_strategy=near).remote()


def _speaks_grpc(host: str, port: int) -> bool:
    """Whether a server of HTTP/2 is there. Raises OSError if nobody answers.

    Ray itself would try for minutes, and print what it thinks of it.
    """
    with socket.create_connection((host, port), _PROBE) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return True
        # RFC 9113, 3.4: the client's preface and an empty SETTINGS; the server begins with its own.
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        with contextlib.suppress(TimeoutError, ConnectionError):
            return connection.recv(9)[3:4] == b"\4"
        return False


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise EngineError("Ray is not installed", where="engine=ray",
                          fix="pip install 'mlproject-toolchain[ray]'") from None
    return ray


def _by_value(module: Any) -> None:
    """From now on what is of that module is pickled whole and not by its name."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Ray takes SIGTERM for itself when a process joins."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _zipped(package: Path) -> bytes:
    """The modules of a package as a zip; the same files give the same bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*.py")):
            name = os.path.join(package.name, path.relative_to(package))
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _shown(amounts: Mapping[str, float]) -> str:
    words = []
    for name, amount in amounts.items():
        if name == "memory":
            words.append(f"{amount / 2**30:.1f} GiB")
        elif amount or name == "CPU":
            words.append(f"{amount:g} {name}")
    return ", ".join(words)

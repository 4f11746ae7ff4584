"""Real Ray clusters on this machine: each node is a raylet with a loopback address and a cache of
its own, started as `ray start` starts it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tests.support.services import free_port, lacking

_HEALTH = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "5000",
           "RAY_health_check_failure_threshold": "4"}


class Node:
    """One node. `cache` is where it keeps environments; `log` is what `ray start` says."""

    def __init__(self, folder: Path, number: int, arguments: list[str], cpus: int,
                 index: Path, cache: Path, environ: dict[str, str]) -> None:
        self.cache = cache
        self.log = folder / f"node-{number}.log"
        self.host = f"127.0.0.{number + 2}"
        inherited = {name: value for name, value in os.environ.items()
                     if not name.startswith(("UV_", "PIP_", "RAY_", "MLFLOW_"))
                     and name != "PYTHONPATH"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments,
                 f"--node-ip-address={self.host}", f"--num-cpus={cpus}", "--disable-usage-stats",
                 "--object-store-memory=78643200", "--min-worker-port=0", "--max-worker-port=0",
                 "--block"],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True, preexec_fn=_with_parent, env={
                    **inherited, **_HEALTH, "TOOLCHAIN_RAY_CACHE": str(cache),
                    "UV_FIND_LINKS": str(index), "UV_NO_INDEX": "1", "UV_OFFLINE": "1",
                    "UV_PYTHON_DOWNLOADS": "never", "UV_CACHE_DIR": str(cache / "uv"),
                    "RAY_DISABLE_IMPORT_WARNING": "1", **environ})

    def kill(self) -> None:
        """As a machine that loses its power: raylet, workers and the rest at once."""
        for pid in _of_session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Nodes:
    """A cluster whose head is at `address`. `index`: the package index of its nodes."""

    def __init__(self, cpus: int = 4, **environ: str) -> None:
        if importlib.util.find_spec("ray") is None:
            lacking("Ray is not installed")
        # The paths of its sockets are to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.index = self.folder / "index"
        self.index.mkdir()
        self.nodes: list[Node] = []
        atexit.register(self.stop)
        for _ in range(3):  # see `add`; another program may take the port, too
            port = free_port()
            self.address = f"127.0.0.2:{port}"
            head = self._start(["--head", f"--port={port}", "--include-dashboard=false",
                                f"--temp-dir={self.folder / 's'}"], cpus, environ)
            if self._runs(head):
                return
            head.kill()
            self.nodes.clear()
            shutil.rmtree(self.folder / "s", ignore_errors=True)
        raise AssertionError(f"Ray did not start: {head.log.read_text()}")

    def add(self, cpus: int, **environ: str) -> Node:
        """One more node, once it has joined; on a busy machine Ray gives up after half a minute."""
        for _ in range(3):
            node = self._start([f"--address={self.address}"], cpus, environ)
            if self._runs(node):
                return node
            node.kill()
        raise AssertionError(f"the node did not start: {node.log.read_text()}")

    def _start(self, arguments: list[str], cpus: int, environ: dict[str, str]) -> Node:
        number = len(self.nodes)
        node = Node(self.folder, number, arguments, cpus, self.index,
                    self.folder / f"cache-{number}", environ)
        self.nodes.append(node)
        return node

    def _runs(self, node: Node) -> bool:
        end = time.monotonic() + 120
        while "Ray runtime started" not in node.log.read_text():
            if node.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        if "ray" in sys.modules:  # else this process tells at length that it lost its node
            sys.modules["ray"].shutdown()
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@lru_cache(maxsize=1)
def shared_cluster() -> Nodes:
    """One node, for all tests that only need a cluster; it ends with this process."""
    return Nodes()


@contextlib.contextmanager
def running_cluster(cpus: int = 2, **environ: str) -> Iterator[Nodes]:
    made = Nodes(cpus, **environ)
    try:
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)


def _with_parent() -> None:
    """The node ends when the tests do, however they end."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def _of_session(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(path.parent.name))
    return found

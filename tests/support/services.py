"""What a test needs of this machine: programs, a Docker engine, an MLflow server on loopback.

Where one is missing the test skips with a reason, or fails if TOOLCHAIN_REQUIRE_SERVICES is 1.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest


def may_lack(what: str) -> None:
    """Something is not on this machine without which a test shows less; in CI it fails."""
    if os.environ.get("TOOLCHAIN_REQUIRE_SERVICES") == "1":
        pytest.fail(what)


def lacking(what: str) -> NoReturn:
    """End the test: something that it needs is not on this machine."""
    may_lack(what)
    pytest.skip(what, allow_module_level=True)


def need(program: str) -> str:
    """The program's path; skips (or fails in CI) where there is none."""
    return shutil.which(program) or lacking(f"no {program} on this machine")


def need_module(name: str) -> None:
    """An optional package; skips (or fails in CI) where it is not installed."""
    if importlib.util.find_spec(name) is None:
        lacking(f"{name} is not installed")


def need_root(why: str) -> None:
    """Skips (or fails in CI) for other users."""
    if os.geteuid():
        lacking(f"only root can {why}")


def docker_client() -> Any:
    """A client of the engine that DOCKER_HOST names; skips (or fails in CI) without one."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=300)
        client.ping()
    except DockerException as error:
        lacking(f"no Docker engine: {error}")
    return client


def cluster_config() -> str:
    """The kubeconfig of a real cluster, for tests alone.

    Few machines have one, so that tests skip (also in CI) where none is named. One that is named
    and is not there is as any other service that is missing.
    """
    path = os.environ.get("TOOLCHAIN_TEST_KUBECONFIG", "")
    if not path:
        pytest.skip("no Kubernetes: TOOLCHAIN_TEST_KUBECONFIG names no kubeconfig")
    if not _appears(path):
        lacking(f"no Kubernetes: TOOLCHAIN_TEST_KUBECONFIG names {path}, which is not there")
    need_module("kubernetes")
    return path


@functools.cache
def _appears(path: str) -> bool:
    """Whether the file is there, or comes while the process that makes a cluster is at work."""
    maker = os.environ.get("TOOLCHAIN_TEST_KUBERNETES_BUILD_PID", "")
    end = time.monotonic() + 600
    while not os.path.isfile(path) and maker and os.path.exists(f"/proc/{maker}"):
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return os.path.isfile(path)


def free_port() -> int:
    """A port on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def mlflow_server(folder: Path, *arguments: str, **environ: str) -> Iterator[str]:
    """An MLflow tracking server with its own database; its URL."""
    for _ in range(3):  # another program may take the port before the server does
        port = free_port()
        url, log = f"http://127.0.0.1:{port}", folder / "server.log"
        with open(log, "w") as sink:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                 str(port), "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
                 "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
                 *arguments],
                stdout=sink, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                     **environ},
            )
        try:
            if _answers(f"{url}/health", server, 180):
                yield url
                return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            server.wait(30)
    raise AssertionError(log.read_text())


def _answers(url: str, server: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it does before it ends, or its time is over."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.1)
    return False

"""A copy of an example project to measure in, caches with chosen content, a registry of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from toolchain.adapters.file_places import FilePlaces
from toolchain.adapters.indexes import uv_environment
from toolchain.adapters.uv import uv_program
from toolchain.digest import Digest
from toolchain.journal import Journal
from toolchain.lock.base import BasePins
from toolchain.lock.base import from_text as base_from_text
from toolchain.lock.requirements import FILE_NAME, from_text
from toolchain.store import Store
from toolchain.trace import Trace

REPOSITORY = Path(__file__).resolve().parent.parent
_REGISTRY_IMAGE = "registry:2"
PINS = ("requirements.txt", "requirements.lock")


def copy_settings(folder: Path) -> None:
    """Make a workspace with the settings and pins of this repository; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dodo.py", "pyproject.toml", "base.lock"):
        if not (folder / name).exists():
            shutil.copyfile(REPOSITORY / name, folder / name)


def copy_example(folder: Path, project: str) -> Path:
    """A workspace with the settings and pins of this repository and one of its projects.

    Returns the project's folder. What is there already stays.
    """
    copy_settings(folder)
    target = folder / "projects" / project
    if not target.exists():
        shutil.copytree(REPOSITORY / "projects" / project, target)
    return target


class Cache:
    """The store and traces of a workspace's cache."""

    def __init__(self, folder: Path) -> None:
        journal = Journal(folder)
        self.store = Store(folder / "blobs" / "sha256", folder / "quarantine", journal)
        self.trace = Trace(folder, journal)

    def take(self, digests: Iterable[Digest], other: Cache) -> None:
        """Copy downloaded files (wheels and .debs), and nothing that was made of them.

        They are synced to disk and known to be right, as after a download.
        """
        for digest in digests:
            with other.store.open(digest) as stream, self.store.writer(digest) as blob:
                while piece := stream.read(1 << 20):
                    blob.write(piece)
            place = FilePlaces(other.trace).in_index(digest)
            if place is not None:
                FilePlaces(self.trace).note(digest, place.url, place.filename)


def wheels(project: Path) -> set[Digest]:
    """What a project's lock pins."""
    text = (project / FILE_NAME).read_text(encoding="utf-8")
    return {package.sha256 for package in from_text(text, FILE_NAME).packages}


def debs(folder: Path) -> set[Digest]:
    """What a workspace's base.lock pins for the base; the examples ask for no more packages."""
    text = (folder / "base.lock").read_text(encoding="utf-8")
    return {package.sha256 for pins in base_from_text(text, "base.lock")
            if isinstance(pins, BasePins) for package in pins.packages}


def python_with_doit_alone(folder: Path) -> Path:
    """A virtual environment with doit and nothing else, for baselines.

    Beside mlflow and its packages, and with this package's plugins, doit itself starts slower.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        install = ("pip", "install", "--compile-bytecode", "--python", str(python),
                   f"doit=={version('doit')}")
        for arguments in (("venv", "--python", sys.executable, str(folder)), install):
            subprocess.run([uv_program(), *arguments, "--quiet"], check=True,
                           env=uv_environment(os.environ))
    return python


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """An empty registry on this machine, as `127.0.0.1:port`: the program, else in a container.

    Its data is under `folder` and gone afterwards.
    """
    folder.mkdir(parents=True)
    port = _free_port()
    settings = folder / "config.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n")
    program = shutil.which("docker-registry") or shutil.which("registry")
    running = _process(program, settings) if program else _container(settings)
    try:
        with running:
            _wait_for(f"http://127.0.0.1:{port}/v2/")
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _process(program: str, settings: Path) -> Iterator[None]:
    with settings.with_name("log").open("wb") as log:
        server = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def _container(settings: Path) -> Iterator[None]:
    """The same in Docker, with this machine's network and the folder at its own path."""
    folder, name = settings.parent, f"benchmark-{settings.parent.parent.name}-{os.getpid()}"
    settings.with_name("data").mkdir()  # else the engine makes it, as root
    try:
        done = subprocess.run(
            ["docker", "run", "--detach", "--rm", "--name", name, "--network", "host",
             "--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{folder}:{folder}",
             _REGISTRY_IMAGE, str(settings)], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if line.startswith("docker: ")]
        reason = (said or [f"exit {done.returncode}"])[-1] if done.returncode else ""
    except FileNotFoundError:
        reason = "no program docker"
    if reason:
        raise SystemExit(
            f"no registry to push to: no program docker-registry, and {_REGISTRY_IMAGE} does not "
            f"run in Docker: {reason}\non Debian: apt-get install docker-registry")
    try:
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"the registry does not answer at {url}")

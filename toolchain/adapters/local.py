"""The `local` engine: the project's files and locked packages on this machine, without an image.

The environment is a virtual environment made once for each lock and shared by every project that
pins the same. The job's working folder is a private copy of the project layer, gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from toolchain.adapters.compatible import host_platform
from toolchain.adapters.uv import Uv
from toolchain.errors import EngineError
from toolchain.layer import PROJECT_FOLDER
from toolchain.layer.archive import opened
from toolchain.layer.conda import CondaSource
from toolchain.lock import Lock, to_text
from toolchain.lock.conda import CondaLock
from toolchain.run import Job
from toolchain.spec import Docker
from toolchain.store import Store
from toolchain.trace import Trace

_DONE = "toolchain.json"  # in an environment: it is complete
_GRACE = 10  # seconds between a signal and the next, harder one


class LocalEngine:
    """Runs jobs as child processes. `environ` is what they inherit."""

    def __init__(self, *, cache: Path, store: Store, trace: Trace, uv: Uv,
                 conda: Callable[[], CondaSource], environ: Mapping[str, str]) -> None:
        self._cache = cache
        self._store = store
        self._trace = trace
        self._uv = uv
        self._conda = conda
        self._environ = environ

    def execute(self, job: Job) -> int:
        if job.lock.platform != host_platform():
            raise EngineError(
                f"packages for {job.lock.platform} do not run on this machine "
                f"({host_platform() or sys.platform})", where=f"{job.name}, engine local",
                fix="train where image.platform is at home",
            )
        if job.docker:
            _say_what_is_not_here(job.name, job.docker)
        folder = self._environment(job)
        work = self._cache / "work"
        try:
            work.mkdir(parents=True, exist_ok=True)
            _sweep(work)
            with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=work) as name:
                self._unpack(job, Path(name))
                return self._run(job, folder, Path(name) / PROJECT_FOLDER)
        except OSError as error:
            raise EngineError(f"the job cannot be started: {error}", where=str(work),
                              fix="make the cache folder writable, or free some space") from None

    def _environment(self, job: Job) -> Path:
        """The lock's virtual environment; made if it is not there whole."""
        digest = job.lock.digest
        folder = self._cache / "envs" / digest.hex[:32]
        done = folder / _DONE
        if done.exists():
            return folder
        with self._trace.holding("environment", digest):
            if done.exists():
                return folder
            if folder.exists():  # cut short by a crash
                shutil.rmtree(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            text = to_text(job.lock) if job.lock.packages else ""
            if job.lock.conda is None:
                self._uv.environment(folder, text, self._uv.stored(job.lock), job.lock.python,
                                     job.lock.options)
            else:
                self._conda_environment(folder, job.lock, job.lock.conda)
            done.write_text(json.dumps(job.lock.to_json()))
        return folder

    def _conda_environment(self, folder: Path, lock: Lock, conda: CondaLock) -> None:
        """The same files as in the image's layers, for a prefix on this machine."""
        from toolchain.adapters.folder import Folder
        from toolchain.layer import conda as layer
        from toolchain.layer import packages, wheel

        self._conda().fetch(conda.packages)
        wheels = packages.wheels(lock, self._uv)
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

    def _run(self, job: Job, environment: Path, folder: Path) -> int:
        variables = {
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
            child = subprocess.Popen(
                ["bash", "-c", job.command], cwd=folder, env=variables, text=True,
                errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        except FileNotFoundError:
            raise EngineError("bash is not on this machine", where=job.name,
                              fix="install bash; MLflow's entry points are bash commands") from None
        assert child.stdout is not None
        reader = threading.Thread(target=_copy_output, args=(child.stdout,), daemon=True)
        reader.start()
        with _forwarding_signals(child), _guard(child.pid):
            code = child.wait()
        # What the job left running was killed, so its end of the pipe is closed.
        reader.join(_GRACE)
        return code


def _say_what_is_not_here(name: str, docker: Docker) -> None:
    print(f"warning: {name}: engine local runs without the image {docker.image}; packages that "
          "are only in it are not there", flush=True)
    for volume in docker.volumes:
        print(f"warning: {name}: engine local mounts no volume: {volume}", flush=True)


def _copy_output(stream: IO[str]) -> None:
    for line in stream:
        # If nobody reads any more (`doit train | head`), the job must still be able to write.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line)
            sys.stdout.flush()


def _check_link(member: tarfile.TarInfo) -> None:
    inside = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
    if os.path.isabs(member.linkname) or inside.split("/")[0] != PROJECT_FOLDER:
        raise EngineError("a project layer leaves its folder", where=member.name,
                          fix="delete the cache's blobs; they were tampered with")


@contextlib.contextmanager
def _forwarding_signals(child: subprocess.Popen[str]) -> Iterator[None]:
    """While the child runs, SIGINT and SIGTERM to us reach its whole process group."""
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        yield
    except BaseException as error:
        first = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        for number in (first, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
                break
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what the job left running


@contextlib.contextmanager
def _guard(group: int) -> Iterator[None]:
    """While the block runs, the process group dies with this process, even by `kill -9`.

    The guard is a shell that reads from us until we are gone. (PR_SET_PDEATHSIG would end the
    job's shell, but nothing that the shell has started.)
    """
    guard = subprocess.Popen(
        ["bash", "-c", 'read -r line || kill -KILL -- "-$1"', "guard", str(group)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        assert guard.stdin is not None
        guard.stdin.close()


def _sweep(work: Path) -> None:
    """Remove working folders whose process is gone."""
    for folder in work.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)

"""The `docker` engine: the image in a container of the Docker engine that Docker's settings name.

Rule 1: a container lives as long as we do. Its standard input is ours: when it ends, however we
end, the first process in there kills the job. Containers that then lie about ended are removed at
the next start, found by their label.
Rule 2: the first process is a few lines of bash, since process 1 gets no signal that it has not
asked for and has to reap what others leave. The job is a process group, which signals go to.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from toolchain import load
from toolchain.adapters.docker_engine import DockerEngine
from toolchain.adapters.handed_on import QUIET, Place, binds, places, threads, variables
from toolchain.adapters.log import Log
from toolchain.adapters.owner import Owner
from toolchain.adapters.supervised import (
    CANCELLED,
    GRACE,
    asked_with,
    exit_on_sigterm,
    late,
)
from toolchain.bundle import Fetch
from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.layer import HOME, PROJECT_FOLDER
from toolchain.progress import Progress
from toolchain.run import Job, Outcome

_LABEL = "toolchain.owner"
_HIDDEN = {"size": "4k", "mode": "0555"}
# $1: the job. Its own stdin is empty; ours tells whether whoever started this is alive.
_FIRST = """\
set -m
exec 3<&0 </dev/null
for name in INT TERM HUP QUIT USR1 USR2; do trap "asked=$name; pass" "$name"; done
pass() { [ -z "$job" ] || kill "-$asked" -- "-$job"; }
exec 4>&1 >/dev/null 2>&1
bash -c "$1" >&4 2>&4 4>&- 3<&- & job=$!
exec 4>&-
[ -z "$asked" ] || pass
{ read -r line <&3 || kill -KILL -- "-$job"; } &
while wait "$job"; code=$?; kill -0 "$job"; do :; done
wait "$job"; code=$?
kill -KILL -- "-$job"
exit "$code"
"""
# Files that the job writes into folders of this machine are to be the user's, and the user has
# no part of the image: the folders that its own user may write become this user's.
_AS_USER = """\
import os, sys
uid, gid = int(sys.argv[1]), int(sys.argv[2])
for top in sys.argv[3].split(":"):
    for path, folders, files in os.walk(top):
        for name in (".", *folders, *files):
            os.lchown(os.path.join(path, name), uid, gid)
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
os.execvp(sys.argv[4], sys.argv[4:])
"""


class ContainerEngine:
    """Runs jobs in containers of `engine`.

    fetch: gives the blobs of images; has: whether one is on this machine; registry: whether images
    are in one, rather than in files here.
    """

    name = "docker"

    def __init__(self, *, engine: DockerEngine, fetch: Fetch, has: Callable[[Digest], bool],
                 registry: bool, progress: Progress, environ: Mapping[str, str]) -> None:
        self._engine = engine
        self._fetch = fetch
        self._has = has
        self._registry = registry
        self._progress = progress
        self._environ = environ

    def find(self, key: str) -> tuple[str, ...]:
        return ()  # a job ends with the process that started it

    def prepare(self, job: Job) -> None:
        image, engine = job.image, self._engine
        engine.check(image)
        if engine.find(image) is not None:
            return
        if self._registry and not all(self._has(layer.digest) for layer in image.layers):
            # Else the registry's layers come here, by way of load.
            with contextlib.suppress(EngineError):
                engine.pull(job.pushed.reference)
                if engine.find(image) is not None:
                    return
        name = f"{job.pushed.reference.partition('@')[0]}:{job.pushed.tag}"
        load.make(image, (name,), engine, self._fetch, self._progress)

    def execute(self, job: Job) -> Outcome:
        with self._engine.talking("containers") as api:
            _sweep(api)
            image = self._engine.find(job.image)
            if image is None:
                raise EngineError("the Docker engine lost the image", where=f"{job.name}, "
                                  "engine docker", fix="run the same command again")
            made = api.create_container(**self._described(job, image, api))
            try:
                return self._run(job, made["Id"], api)
            finally:
                _removed(api, made["Id"])

    def _run(self, job: Job, container: str, api: Any) -> Outcome:
        stream = api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        reader = _Reader(stream, Log(job.trial, job.log))
        reason = ""
        with contextlib.closing(stream), exit_on_sigterm():
            try:
                _start(api, container, job)
                reader.start()
                deadline = time.monotonic() + job.timeout if job.timeout else None
                most = 1.0 if job.cancel is None else 0.1
                while not reader.ended(most if deadline is None else
                                       max(0.01, min(most, deadline - time.monotonic()))):
                    if job.cancel is not None and job.cancel.is_set():
                        reason = CANCELLED
                    elif deadline is not None and time.monotonic() > deadline:
                        reason = late(job.timeout)
                    if reason:
                        _end(api, container, "SIGTERM", reader)
                code = int(api.wait(container, timeout=60)["StatusCode"])
            except (KeyboardInterrupt, SystemExit) as error:
                _end(api, container, asked_with(error).name, reader)
                raise
            state = api.inspect_container(container)["State"]
        if reason:
            return Outcome(code=code or 143, reason=reason)
        if state.get("OOMKilled"):
            limit = job.resources.memory
            bound = f" of {limit / 2**20:.0f} MB" if limit else ""
            return Outcome(code=code or 137, reason=f"was killed: out of memory{bound}")
        return Outcome(code=code)

    def _described(self, job: Job, image: str, api: Any) -> dict[str, Any]:
        config = json.loads(job.image.config).get("config") or {}
        seen = places(job, self._environ)
        user, before = self._as_user(seen, config, api)
        wanted = job.resources
        own = {item.partition("=")[0] for item in config.get("Env") or ()}
        return {
            "image": image, "user": user, "labels": {_LABEL: Owner.here().text}, "stdin_open": True,
            "entrypoint": [*before, "bash", "-c", _FIRST, "toolchain", job.command],
            "environment": {
                **{name: value for name, value in {**QUIET, **threads(wanted)}.items()
                   if name not in own},
                **variables(self._environ, job.docker), **job.environment},
            "host_config": api.create_host_config(
                network_mode="host",
                binds=[*_binds(seen), *binds(job.docker, job.name, self._environ)],
                log_config={"Type": "none"},
                tmpfs={place.path: ",".join(f"{name}={value}" for name, value in _HIDDEN.items())
                       + ",ro" for place in seen if place.hidden and place.is_folder},
                mem_limit=wanted.memory or None, memswap_limit=wanted.memory or None,
                nano_cpus=int(wanted.cpus * 1e9) or None, shm_size=wanted.shm or None,
                device_requests=[{"Count": wanted.gpus, "Capabilities": [["gpu"]]}]
                if wanted.gpus else None),
        }

    @staticmethod
    def _as_user(seen: list[Place], config: Mapping[str, Any], api: Any
                 ) -> tuple[str | None, list[str]]:
        """Whom the container starts as, and what makes it the user's."""
        if not any(place.writable for place in seen):
            return None, []  # the image's own
        rootless = any("rootless" in str(option)
                       for option in api.info().get("SecurityOptions") or [])
        uid, gid = (0, 0) if rootless else (os.getuid(), os.getgid())
        program = (config.get("Entrypoint") or [""])[0]
        if "python" not in posixpath.basename(program):
            return f"{uid}:{gid}", []
        return "0:0", [program, "-IS", "-c", _AS_USER, str(uid), str(gid),
                       f"/{PROJECT_FOLDER}:/{HOME}"]


def _binds(seen: list[Place]) -> list[str]:
    found = []
    for place in seen:
        if place.hidden and place.is_folder:
            continue
        source = "/dev/null" if place.hidden else place.path
        found.append(f"{source}:{place.path}:{'rw' if place.writable else 'ro'}")
    return found


def _start(api: Any, container: str, job: Job) -> None:
    from docker.errors import APIError

    try:
        api.start(container)
    except APIError as error:
        reason = str(error.explanation or error)
        what = ("the image has no bash" if '"bash"' in reason and "not found" in reason
                else f"the container cannot be started: {reason}")
        raise EngineError(what, where=f"{job.name}, engine docker",
                          fix="see what the Docker engine says; engine=local needs none") from None


class _Reader:
    """Copies a container's output into a log, until it ends.

    The end is an event: a thread whose `join` was interrupted by a signal passes for ended in
    some versions of Python, though it is not.
    """

    def __init__(self, stream: Any, log: Log) -> None:
        self._stream = stream
        self._log = log
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._copy, daemon=True)

    @property
    def is_started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Whether all was read, which is waited for so long."""
        return self._end.wait(seconds)

    def _copy(self) -> None:
        from docker.utils import socket as frames

        iterate: Any = frames.frames_iter
        try:
            with contextlib.suppress(OSError, ValueError):
                for _, data in iterate(self._stream, tty=False):
                    self._log.write(data)
            self._log.close()
        finally:
            self._end.set()


def _end(api: Any, container: str, first: str, reader: _Reader) -> None:
    from docker.errors import APIError

    for name in dict.fromkeys((first, "SIGTERM", "SIGKILL")):
        with contextlib.suppress(APIError):
            api.kill(container, name)
        if reader.is_started and reader.ended(GRACE):
            return


def _removed(api: Any, container: str) -> None:
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        api.remove_container(container, v=True, force=True)


def _sweep(api: Any) -> None:
    """Remove containers whose process is known to be gone."""
    here = Owner.here()
    for found in api.containers(all=True, filters={"label": _LABEL}):
        owner = Owner.parse(found["Labels"].get(_LABEL, ""))
        if owner is not None and owner.is_alive(here) is False:
            _removed(api, found["Id"])

"""What a job in an image gets from this machine: variables, and files at the same paths.

Rule: a job that runs in an image gets what it needs to reach its data and its tracking store, and
nothing else of the environment; the image decides the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from toolchain.errors import EngineError
from toolchain.run import Job, Resources
from toolchain.shares import THREADS, thread_variables
from toolchain.spec import Docker
from toolchain.values import dataclass

_PREFIXES = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NAMED = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
# MLflow looks for git, which few images have, and says so at length; the run has its commit.
QUIET = {"GIT_PYTHON_REFRESH": "quiet"}
# Where the image's own files are; nothing of this machine may stand in their place.
_OF_THE_IMAGE = ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt/toolchain",
                 "opt/venv", "proc", "project", "sbin", "sys", "usr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A path of this machine, to be had at the same path in the job.

    hidden: there is something, and the job is not to see it. Places are in an order in which they
    can be mounted.
    """

    path: str
    is_folder: bool
    writable: bool = False
    hidden: bool = False


def variables(environ: Mapping[str, str], docker: Docker | None = None) -> dict[str, str]:
    """Of this machine's environment, what a job in an image gets; and what docker_env sets."""
    copied = docker.copied if docker else ()
    return {
        name: value for name, value in environ.items()
        if name in copied or (
            name != "MLFLOW_EXPERIMENT_NAME"  # MLflow takes the name before the run's id
            and (name.startswith(_PREFIXES) or name.upper() in _PROXIES or name in _CERTIFICATES
                 or name in THREADS))
    } | (dict(docker.environment) if docker else {})


def volumes(docker: Docker | None, name: str, environ: Mapping[str, str]
            ) -> Iterator[tuple[str, str, bool]]:
    """Folders of this machine that docker_env mounts: source, place in the job, whether it may
    write. Raises EngineError for one that only a Docker engine has."""
    given = docker.volumes if docker else ()
    for volume, text in zip(given, binds(docker, name, environ), strict=True):
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not source.startswith("/") or not target.startswith("/"):
            raise EngineError(f"only folders of this machine can be mounted: {volume}",
                              where=f"{name}, docker_env.volumes",
                              fix="write /here:/there, or use engine=docker")
        yield source, target, "ro" not in mode.split(",")


def binds(docker: Docker | None, name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """docker_env's volumes with `~`, `$NAME` and `${NAME}` as they are where the run is started.

    MLflow has a shell put them in. Raises EngineError for a variable that is not set, which a shell
    would take as nothing, and for what else only a shell can tell.
    """
    where = f"{name}, docker_env.volumes"
    for volume in docker.volumes if docker else ():
        text = re.sub(r"\A~(?=[/:])", "${HOME}", volume)
        unset = [variable for found in _NAMED.findall(text)
                 if not environ.get(variable := found[0] or found[1])]
        if unset:
            raise EngineError(f"{unset[0]} is not set: {volume}", where=where,
                              fix=f"set {unset[0]} where the run is started, or write the path")
        if re.search(r"[$`]", _NAMED.sub("", text)):
            raise EngineError(f"no shell reads a volume: {volume}", where=where,
                              fix="write a path, $(pwd), $NAME or ~ in its place")
        yield _NAMED.sub(lambda found: environ[found[1] or found[2]], text)


def threads(resources: Resources) -> dict[str, str]:
    """Variables that keep numeric libraries to the processors that were asked for.

    They are defaults: what the user, the image or docker_env sets stands over them.
    """
    count = resources.threads or resources.cpus
    return thread_variables(count) if count else {}


def places(job: Job, environ: Mapping[str, str]) -> list[Place]:
    """What the job sees of this machine's files.

    Beside a database there is its journal, so its folder is writable, and what else lies there is
    hidden: the cache, for one. Raises EngineError for what would cover the image.
    """
    found = list(_around(job.database, job.artifacts)) if job.database else []
    if job.artifacts:
        os.makedirs(job.artifacts, exist_ok=True)
        found.append(Place(path=job.artifacts, is_folder=True, writable=True))
    named = [environ[name] for name in _CERTIFICATES if os.path.isabs(environ.get(name, ""))]
    found += [Place(path=path, is_folder=os.path.isdir(path))
              for path in (*job.readable, *named) if os.path.exists(path)]
    for place in found:
        _check(place, job.name)
    return list({place.path: place for place in found}.values())


def _around(database: str, artifacts: str) -> Iterator[Place]:
    folder = os.path.dirname(database)
    yield Place(path=folder, is_folder=True, writable=True)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        # The database, and what sqlite keeps beside it: -journal, -wal, -shm.
        if (entry.name.startswith(os.path.basename(database)) or entry.is_symlink()
                or entry.path == artifacts):
            continue
        yield Place(path=entry.path, is_folder=entry.is_dir(), hidden=True)


def is_the_images(path: str, *, writable: bool) -> bool:
    """Whether a path of this machine is one at which the image has its own files."""
    inside = path.strip("/")
    return any(not inside or f"{own}/".startswith(f"{inside}/")
               or (writable and f"{inside}/".startswith(f"{own}/")) for own in _OF_THE_IMAGE)


def _check(place: Place, name: str) -> None:
    if not place.hidden and is_the_images(place.path, writable=place.writable):
        raise EngineError(
            f"a path of this machine is one of the image's own: {place.path}",
            where=f"{name}, engine", fix="move it, use a tracking server, or engine=local")


def home(path: Path, uid: str) -> str:
    """The home folder of a user in an image's passwd file; `/` where it has none."""
    for row in _rows(path):
        if len(row) > 5 and uid in (row[2], row[0]):
            return row[5] or "/"
    return "/"


def user(root: Path, text: str) -> tuple[str, str]:
    """uid and gid of the config's `User`: name or number, and group if there is one."""
    name, _, group = (text or "0").partition(":")
    uid, gid = name, group
    for row in _rows(root / "etc/passwd"):
        if len(row) > 3 and name in (row[0], row[2]):
            uid, gid = row[2], group or row[3]
            break
    for row in _rows(root / "etc/group"):
        if len(row) > 2 and gid == row[0]:
            gid = row[2]
    return (uid if uid.isdigit() else "0"), (gid if gid.isdigit() else "0")


def _rows(path: Path) -> list[list[str]]:
    if path.is_symlink() or not path.is_file():
        return []  # a link would lead out of the image
    return [line.split(":") for line in path.read_text(errors="replace").splitlines()]

"""A project -> an image in a registry, by this package and by others, as commands to time.

A builder begins as a machine that has the base image, and wheels within reach, and nothing else.
What others do is an ordinary Dockerfile: the base, the lock, pip, the project's files.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.timing import Command, doit
from benchmarks.workspace import REPOSITORY, Cache, debs
from toolchain.digest import Digest

_DOCKERFILE = """\
FROM {base}
LABEL benchmark={session}
USER root
COPY requirements.lock /tmp/requirements.lock
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \\
    {compile} --require-hashes --no-index --find-links {wheelhouse} -r /tmp/requirements.lock
COPY . /project
USER 1000
WORKDIR /project
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where a session takes place. `base` is in the registry at `host`, with pip on its path."""

    folder: Path
    host: str
    base: str
    wheelhouse: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    def project(self, name: str) -> Path:
        return self.folder / "projects" / name


class Builder(Protocol):
    """What is compared."""

    @property
    def name(self) -> str: ...

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""

    def start(self, around: Surroundings, files: Iterable[Digest]) -> None:
        """Become a machine that has the base; `files` are the wheels that are here."""

    def push(self, project: str, *, bytecode: bool = True) -> Command:
        """Build the image of a project as it is now, and push it."""

    def forget(self) -> None:
        """Become another machine: nothing is here, not even the base."""

    def end(self) -> None:
        """Leave nothing behind."""


class Toolchain:
    """This package. Its base is the layers of system and interpreter, which are in the cache."""

    name = "this package"

    def __init__(self, warm: Path) -> None:
        self._warm = Cache(warm)

    def absent(self) -> str:
        return ""

    def start(self, around: Surroundings, files: Iterable[Digest]) -> None:
        self._around = around
        for name in ("dodo.py", "pyproject.toml", "base.lock"):
            shutil.copyfile(REPOSITORY / name, around.folder / name)
        wanted = {*files} | debs(around.folder)
        Cache(around.folder / "cache").take(sorted(wanted), self._warm)
        base = around.project("base")
        base.mkdir(parents=True)
        (base / "MLproject").write_text("name: base\nentry_points: {main: {command: 'true'}}\n")
        (base / "requirements.txt").write_text("")
        for compiled in ("yes", "no"):
            doit(around.folder, "push", "project=base", f"registry={around.host}",
                 "repository=bench/base", f"image.bytecode={compiled}").run()
        shutil.rmtree(base)

    def push(self, project: str, *, bytecode: bool = True) -> Command:
        extra = () if bytecode else ("image.bytecode=no",)
        return doit(self._around.folder, "push", f"project={project}",
                    f"registry={self._around.host}", *extra)

    def forget(self) -> None:
        shutil.rmtree(self._around.folder / "cache")

    def end(self) -> None:
        shutil.rmtree(self._around.folder / "cache", ignore_errors=True)


class Docker:
    """`docker build` and `docker push`, with the engine that DOCKER_HOST names, if it does."""

    def __init__(self, program: str, *, buildkit: bool, may_prune: bool) -> None:
        self.name = "BuildKit" if buildkit else "docker build"
        self._program = program
        self._buildkit = buildkit
        self._may_prune = may_prune
        self._tags: set[str] = set()
        self._pulled: frozenset[str] = frozenset()

    def absent(self) -> str:
        if shutil.which(self._program) is None:
            return f"no program {self._program}"
        if self._run("version").returncode:
            return "no Docker engine answers"
        if not self._buildkit:
            return ""
        done = self._run("build", "--quiet", "-", text="FROM scratch\nLABEL benchmark=probe\n")
        if done.returncode == 0:
            self._run("rmi", done.stdout.strip())
        return done.stderr.strip().partition("\n")[0] if done.returncode else ""

    def start(self, around: Surroundings, files: Iterable[Digest]) -> None:
        self._around = around
        self._tags = {around.base}
        _succeed(self._run("pull", around.base))

    def push(self, project: str, *, bytecode: bool = True) -> Command:
        tag = f"{self._around.host}/bench/{project}:latest"
        self._tags.add(tag)
        file, context = _dockerfile(self._around, project, bytecode=bytecode)
        known = tag in self._pulled
        options = f"--network host --file {file} --tag {tag}"
        if self._buildkit:
            options += " --build-arg BUILDKIT_INLINE_CACHE=1"
        if known:
            options += f" --cache-from {tag}"
        # Classic builds take over layers of an image that is here; BuildKit asks for it itself.
        pull = f"{self._program} pull {tag} && " if known and not self._buildkit else ""
        return self._command(f"{pull}{self._program} build {options} {context} && "
                             f"{self._program} push {tag}")

    def forget(self) -> None:
        if self._buildkit and not self._may_prune:
            raise NotMeasured("would empty the engine's build cache; give --prune to allow it")
        self._remove()
        self._pulled = frozenset(self._tags)

    def end(self) -> None:
        self._remove()
        self._pulled = frozenset()

    def _remove(self) -> None:
        made = self._run("images", "--quiet", "--no-trunc", "--filter",
                         f"label=benchmark={self._around.session}").stdout.split()
        self._run("rmi", "--force", *sorted(self._tags), *dict.fromkeys(made))
        if self._buildkit and self._may_prune:
            _succeed(self._run("builder", "prune", "--all", "--force"))

    def _command(self, script: str) -> Command:
        return Command(arguments=("sh", "-ec", script), folder=self._around.folder,
                       environment={"DOCKER_BUILDKIT": str(int(self._buildkit)),
                                    "BUILDKIT_PROGRESS": "plain"})

    def _run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["env", f"DOCKER_BUILDKIT={int(self._buildkit)}", self._program, *arguments],
            input=text, text=True, capture_output=True)


class Buildah:
    """`buildah build` and `buildah push`, in a storage folder of their own."""

    name = "buildah"

    def __init__(self, program: str = "buildah") -> None:
        self._program = program

    def absent(self) -> str:
        if shutil.which(self._program) is None:
            return f"no program {self._program}; on Debian: apt-get install buildah"
        return ""

    def start(self, around: Surroundings, files: Iterable[Digest]) -> None:
        self._around = around
        self._storage = around.folder / "storage"
        pull = f"{self._call} pull --tls-verify=false {around.base}"
        _succeed(subprocess.run(["sh", "-ec", pull], text=True, capture_output=True))
        self._pulled = False

    @property
    def _call(self) -> str:
        return f"{self._program} --root {self._storage}/root --runroot {self._storage}/run"

    def push(self, project: str, *, bytecode: bool = True) -> Command:
        tag = f"{self._around.host}/bench/{project}:latest"
        file, context = _dockerfile(self._around, project, bytecode=bytecode)
        reuse = f"{self._call} pull --tls-verify=false {tag} && " if self._pulled else ""
        return Command(arguments=("sh", "-ec",
                                  f"{reuse}{self._call} build --layers --network host "
                                  f"--tls-verify=false --file {file} --tag {tag} {context} && "
                                  f"{self._call} push --tls-verify=false {tag}"),
                       folder=self._around.folder)

    def forget(self) -> None:
        self.end()
        self._pulled = True

    def end(self) -> None:
        subprocess.run(["sh", "-c", f"{self._call} rmi --all --force; umount "
                                    f"{self._storage}/root/overlay"], capture_output=True)
        shutil.rmtree(self._storage, ignore_errors=True)


class NotMeasured(Exception):
    """Why one scenario cannot be measured with one builder."""


def _dockerfile(around: Surroundings, project: str, *, bytecode: bool) -> tuple[str, str]:
    """A Dockerfile and its context, brought up to date; quoted for a shell.

    The lock is copied without its comments, so that equal pins are an equal file.
    """
    source = around.project(project)
    context = around.folder / "contexts" / project
    context.mkdir(parents=True, exist_ok=True)
    for path in filter(Path.is_file, source.iterdir()):
        data = path.read_bytes()
        if path.name == "requirements.lock":
            data = re.sub(rb"(?m)^#.*\n", b"", data)
        if not (context / path.name).exists() or (context / path.name).read_bytes() != data:
            (context / path.name).write_bytes(data)
    file = around.folder / "contexts" / f"{project}.Dockerfile"
    file.write_text(_DOCKERFILE.format(
        base=around.base, session=around.session, wheelhouse=around.wheelhouse,
        compile="--compile" if bytecode else "--no-compile"))
    return shlex.quote(str(file)), shlex.quote(str(context))


def _succeed(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)}: exit {done.returncode}\n{done.stderr}")

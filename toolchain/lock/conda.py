"""What is wanted of conda -> CondaLock: every conda package pinned by its sha256.

What it is as a file, `conda.lock`, is in `condafile`. A channel is known here as conda.yaml names
it: by no host if it has a name, and never with a password. What `pip:` asks for stands in
requirements.lock as ever.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.values import dataclass

_SCHEMA = 1
# What solvers assume of a Linux kernel that they cannot see.
_LINUX = "5.10"
SUBDIRS = {"linux/amd64": ("linux-64", "x86_64"), "linux/arm64": ("linux-aarch64", "aarch64")}
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*(\.conda|\.tar\.bz2)")
_SUBDIR = re.compile(r"noarch|linux-[a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a channel says of a package and nothing here depends on; other tools that read the lock
    install by it.

    noarch: `python`, `generic` or empty. site_packages: of a Python that has them elsewhere.
    """

    build_number: int = 0
    noarch: str = ""
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    site_packages: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CondaPackage:
    """One pinned file of a channel.

    channel: as in the request. subdir: `noarch` or the platform's. python: the Python
    distributions in it as `name==version`; known where a `pip:` section has to be fitted to them.
    described: kept in conda.lock alone, and part of no key.
    """

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    file: str
    size: int
    sha256: Digest
    python: tuple[str, ...] = ()
    described: Described = field(default=Described(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if (not _FILE.fullmatch(self.file) or not _SUBDIR.fullmatch(self.subdir)
                or not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", self.name)):
            raise ValueError(f"no conda package: {self.subdir}/{self.file}")

    @property
    def channel_name(self) -> str:
        """The channel's name alone, as it is shown to people and kept in conda-meta."""
        return self.channel.rstrip("/").rpartition("/")[2] if (
            "://" in self.channel or self.channel.startswith(".")) else self.channel

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "build": self.build,
                "channel": self.channel, "subdir": self.subdir, "file": self.file,
                "size": self.size, "sha256": self.sha256.hex,
                **({"python": list(self.python)} if self.python else {})}

    @classmethod
    def from_json(cls, value: Any) -> CondaPackage:
        """Raises KeyError, TypeError or ValueError for what is no such thing."""
        return cls(**{**value, "sha256": Digest(value["sha256"]),
                      "python": tuple(value.get("python", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaRequest:
    """What is to be pinned. `channels` are in order; `virtual` is (name, version, build) of the
    virtual packages of the place where the image runs, not of this machine.

    pip: whether a `pip:` section has to be fitted to the answer.
    """

    channels: tuple[str, ...]
    packages: tuple[str, ...]
    platform: str
    virtual: tuple[tuple[str, str, str], ...]
    pip: bool

    @property
    def subdir(self) -> str:
        return SUBDIRS[self.platform][0]

    def plan(self) -> dict[str, Any]:
        return {"schema": _SCHEMA, "channels": list(self.channels),
                "packages": list(self.packages), "platform": self.platform,
                "virtual": [list(item) for item in self.virtual], "pip": self.pip}


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaLock:
    """The answer to a CondaRequest: packages sorted by name. `input` is the request's digest."""

    platform: str
    packages: tuple[CondaPackage, ...]
    input: Digest

    @property
    def python(self) -> str:
        """The version of its Python. Raises ResolveError where it has none."""
        for package in self.packages:
            if package.name == "python":
                return package.version
        raise ResolveError("the conda environment has no python", where="conda.lock",
                           fix="add `python` to the dependencies; entry points are run with it")

    @property
    def distributions(self) -> tuple[tuple[str, str], ...]:
        """Name and version of the Python distributions that conda provides, sorted."""
        found = {tuple(item.split("==", 1)) for package in self.packages
                 for item in package.python}
        return tuple(sorted((name, version) for name, version in found))

    def to_json(self) -> dict[str, Any]:
        return {"platform": self.platform,
                "packages": [package.to_json() for package in self.packages]}

    @classmethod
    def from_json(cls, value: Any, input: Digest) -> CondaLock:
        return cls(platform=value["platform"], input=input,
                   packages=tuple(CondaPackage.from_json(item) for item in value["packages"]))


class Unreachable(ResolveError):
    """No channel could be asked."""


class CondaSolver(Protocol):
    """Chooses conda packages."""

    def solve(self, request: CondaRequest,
              preferred: tuple[CondaPackage, ...]) -> tuple[CondaPackage, ...]:
        """Pin everything the request needs, and a Python, sorted by name.

        `preferred` files are kept where the request allows them. Raises ResolveError if the
        request cannot be met, Unreachable if a channel cannot be asked, ConfigError if what
        solves is not installed.
        """


def virtual_packages(platform: str, glibc: str, cuda: str) -> tuple[tuple[str, str, str], ...]:
    """What the place where an image runs has besides packages (conda's CEP 30)."""
    if platform not in SUBDIRS:
        raise ResolveError(f"conda has no packages for {platform!r}", where="image.platform",
                           fix=f"known: {', '.join(SUBDIRS)}")
    if cuda and not re.fullmatch(r"\d+(\.\d+)*", cuda):
        raise ResolveError(f"not a version of CUDA: {cuda[:40]!r}", where="conda.cuda",
                           fix="write it as 12.4, or leave it out")
    return (("__archspec", "1", SUBDIRS[platform][1]),
            *((("__cuda", cuda, "0"),) if cuda else ()),
            ("__glibc", glibc, "0"), ("__linux", _LINUX, "0"), ("__unix", "0", "0"))


def make(wanted: CondaRequest, preferred: tuple[CondaPackage, ...],
         solver: CondaSolver) -> CondaLock:
    """Solve a request. Raises ResolveError."""
    return CondaLock(platform=wanted.platform, input=Digest.of_json(wanted.plan()),
                     packages=tuple(sorted(solver.solve(wanted, preferred))))

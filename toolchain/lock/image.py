"""An image as a base, pinned: its digest, its layers, and what has to be known of its inside.

All of it stands in base.lock, so that the plan of an image, and with it the tag that a registry
is asked for, is known without the base image.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.values import dataclass

_OLDEST = 9  # Python 3.9 is what toolchain.runner needs


# What a reference begins with that is in no registry.
LOCAL = ("oci:", "docker-daemon:", "dockerfile:")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayer:
    """A layer that this tool did not make. `size` is of the blob, in bytes."""

    digest: Digest
    diff_id: Digest
    size: int
    media_type: str

    def to_json(self) -> dict[str, Any]:
        return {"digest": str(self.digest), "diff_id": str(self.diff_id), "size": self.size,
                "media_type": self.media_type}

    @classmethod
    def from_json(cls, value: Any) -> BaseLayer:
        return cls(digest=Digest.parse(value["digest"]), diff_id=Digest.parse(value["diff_id"]),
                   size=value["size"], media_type=value["media_type"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePins:
    """One image for one platform.

    reference: as the setting names it. digest: of its manifest; of its config where it came out
    of a Docker engine. pythons: `X.Y` -> path of the interpreter. glibc: `2.36`. suite:
    Debian's, empty for another system. installed: Debian packages, name -> version.
    alternatives: name -> what update-alternatives has on record. libraries: what is in its
    ld.so.cache, as toolchain.layer.libraries writes it. environment: `NAME=value`.
    homes: of virtual environments, the folder of their programs -> that of the interpreter they
    were made with; `pythons` names what is in the former.
    is_occupied: whether it has anything where this tool's environment goes.
    compilers: `X.Y` -> the `X.Y.Z` that makes byte-code for it, where no embedded base has it.
    system, release: as os-release names them, `ubuntu` and `jammy` or `22.04`, where that is not
    what `suite` says; for people and scanners, so no layer depends on them.
    """

    reference: str
    platform: str
    digest: Digest
    glibc: str
    suite: str
    pythons: dict[str, str]
    environment: tuple[str, ...]
    labels: dict[str, str]
    layers: tuple[BaseLayer, ...]
    installed: dict[str, str]
    alternatives: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    is_occupied: bool = False
    compilers: dict[str, str] = field(default_factory=dict)
    system: str = ""
    release: str = ""

    @property
    def name(self) -> tuple[str, ...]:
        """What these pins answer; base.lock has one entry of a name."""
        return "image", self.reference, self.platform

    def python(self, version: str, where: str) -> str:
        """The path of the interpreter `X.Y[.Z]`. Raises ResolveError where the image has none."""
        minor = ".".join(version.split(".")[:2])
        if minor not in self.pythons:
            have = ", ".join(sorted(self.pythons)) or "none"
            raise ResolveError(
                f"the base image {self.reference} has no Python {minor} (it has: {have})",
                where=where,
                fix="name another image.base, or another Python in the project or as `python`",
            )
        return self._interpreter(minor)

    def _interpreter(self, minor: str) -> str:
        """The interpreter itself, where `X.Y` is a virtual environment's."""
        folder, name = posixpath.split(self.pythons.get(minor, ""))
        return posixpath.join(self.homes.get(folder, folder), name)

    def runnable(self) -> set[str]:
        """Those of its Pythons `X.Y` that run entry points."""
        return {minor for minor in self.pythons if int(minor.partition(".")[2]) >= _OLDEST}

    def own_packages(self, minor: str) -> str:
        """Where the packages are of the virtual environment that has its Python `X.Y`; empty
        where that is no such thing."""
        folder = posixpath.dirname(self.pythons[minor])
        return (f"{posixpath.dirname(folder)}/lib/python{minor}/site-packages"
                if folder in self.homes else "")

    def patch_level(self, minor: str) -> str:
        """Its Python `X.Y.Z`, if it is Debian's or that of one of Docker's `python` images, which
        say so; else empty."""
        for item in self.environment:
            if item.startswith(f"PYTHON_VERSION={minor}."):
                return item.partition("=")[2]
        own = self._interpreter(minor).startswith("/usr/bin/")
        return debian_python(self.installed, minor) if own else ""

    def own_python(self, where: str) -> str:
        """The version, `X.Y`, of what the image itself calls Python: the first on its PATH, and
        there the newest. Raises ResolveError where it has none that runs entry points."""
        search = next((item.removeprefix("PATH=") for item in self.environment
                       if item.startswith("PATH=")), "").split(":")

        def rank(minor: str) -> tuple[int, int]:
            folder = posixpath.dirname(self.pythons[minor])
            place = search.index(folder) if folder in search else len(search)
            return place, -int(minor.partition(".")[2])

        own = min(self.pythons, key=rank, default="")
        if own not in self.runnable():
            raise ResolveError(
                f"the image {self.reference} has " + (f"Python {own} first on its PATH" if own
                                                      else "no Python on its PATH"),
                where=where, fix=f"name one with Python 3.{_OLDEST} or newer; entry points are "
                                 "run by it")
        return own

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference, "platform": self.platform, "digest": str(self.digest),
            "glibc": self.glibc, "suite": self.suite, "pythons": dict(sorted(self.pythons.items())),
            "environment": list(self.environment), "labels": dict(sorted(self.labels.items())),
            "layers": [layer.to_json() for layer in self.layers],
            "installed": dict(sorted(self.installed.items())),
            # An image that was pinned before these were has none.
            **({"alternatives": dict(sorted(self.alternatives.items()))}
               if self.alternatives else {}),
            **({"libraries": self.libraries} if self.libraries else {}),
            **({"homes": dict(sorted(self.homes.items()))} if self.homes else {}),
            **({"is_occupied": True} if self.is_occupied else {}),
            **({"compilers": dict(sorted(self.compilers.items()))} if self.compilers else {}),
            **({"system": self.system} if self.system else {}),
            **({"release": self.release} if self.release else {}),
        }

    @classmethod
    def from_json(cls, value: Any) -> ImagePins:
        """Raises KeyError, TypeError or ValueError for what is no such thing."""
        return cls(
            reference=value["reference"], platform=value["platform"],
            digest=Digest.parse(value["digest"]), glibc=value["glibc"], suite=value["suite"],
            pythons=dict(value["pythons"]), environment=tuple(value["environment"]),
            labels=dict(value["labels"]),
            layers=tuple(BaseLayer.from_json(item) for item in value["layers"]),
            installed=dict(value["installed"]), alternatives=dict(value.get("alternatives", {})),
            libraries=dict(value.get("libraries", {})), homes=dict(value.get("homes", {})),
            is_occupied=bool(value.get("is_occupied", False)),
            compilers=dict(value.get("compilers", {})),
            system=str(value.get("system", "")), release=str(value.get("release", "")),
        )


class Images(Protocol):
    """Images that can be a base: in a registry, in an OCI layout, in a Docker engine."""

    def pin(self, reference: str, platform: str) -> ImagePins:
        """Look the image up and look into it.

        Raises ResolveError for one that is not there, not for that platform, damaged, or that
        nothing can be built on; RegistryError where it cannot be reached.
        """


def debian_python(installed: Mapping[str, str], minor: str) -> str:
    """The upstream version, `X.Y.Z`, of Debian's Python `X.Y`; empty where it is not installed."""
    for name in (f"python{minor}-minimal", f"python{minor}", "python3"):
        version = re.match(r"\d+\.\d+\.\d+", installed.get(name, ""))
        if version and version[0].startswith(f"{minor}."):
            return version[0]
    return ""

"""base.lock: the Debian packages under every image, pinned, shared by the whole workspace.

A mirror moves on; an image must not. So the packages of a suite are chosen once, by name,
version and sha256, and move only with `upgrade=1`. The file is TOML and names no mirror.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError

FILE_NAME = "base.lock"

# The suite whose python3 is that minor version (https://packages.debian.org/python3).
SUITES = {"3.11": "bookworm", "3.13": "trixie"}

_MACHINES = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DebianPackage:
    """One .deb. `path` is its place in the archive's pool; `archive` names the archive
    (`debian` or `debian-security`), since a mirror serves them from different roots."""

    name: str
    version: str
    architecture: str
    archive: str
    path: str
    size: int
    sha256: Digest

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "version": self.version, "architecture": self.architecture,
            "archive": self.archive, "path": self.path, "size": self.size,
            "sha256": self.sha256.hex,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePins:
    """The packages of one suite for one platform, sorted by name."""

    suite: str
    platform: str
    packages: tuple[DebianPackage, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "suite": self.suite, "platform": self.platform,
            "packages": [package.to_json() for package in self.packages],
        }

    def version(self, name: str) -> str:
        return next(package.version for package in self.packages if package.name == name)


class Archive(Protocol):
    """A Debian archive that can be trusted."""

    def pin(self, suite: str, platform: str) -> BasePins:
        """Choose the base's packages: the closure of what an image needs.

        Raises ResolveError: no mirror known, not reachable, signature or hash wrong.
        """


def platform_of(system: str, machine: str) -> str:
    """A machine as OCI names it; empty for one that images are not made for.

    The arguments are as Python's sys.platform and the kernel name them.
    """
    return _MACHINES.get(machine, "") if system == "linux" else ""


def suite_for(python: str, where: str) -> str:
    """The suite that has Python `X.Y`. Raises ResolveError where none has."""
    minor = ".".join(python.split(".")[:2])
    if minor not in SUITES:
        have = ", ".join(f"{version} ({suite})" for version, suite in SUITES.items())
        raise ResolveError(
            f"no embedded base has Python {minor}", where=where,
            fix=f"ask for one of: {have}",
        )
    return SUITES[minor]


def to_text(pins: tuple[BasePins, ...]) -> str:
    """The content of base.lock: a table for each suite and platform, a line for each package."""
    lines = [
        "# Debian packages under every image, pinned by `doit resolve`; commit this file.",
        "# To move the pins: doit resolve upgrade=1",
    ]
    for entry in sorted(pins, key=lambda entry: (entry.suite, entry.platform)):
        lines += ["", "[[base]]", f"suite = {json.dumps(entry.suite)}",
                  f"platform = {json.dumps(entry.platform)}", "packages = ["]
        for package in entry.packages:
            fields = ", ".join(f"{key} = {json.dumps(value)}"
                               for key, value in package.to_json().items())
            lines.append(f"  {{ {fields} }},")
        lines.append("]")
    return "\n".join(lines) + "\n"


def read(path: Path) -> tuple[BasePins, ...]:
    """The pins in a file; none if there is no file. Raises ResolveError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ResolveError(f"cannot be read: {error}", where=FILE_NAME,
                           fix="take it from version control") from None
    return from_text(text, FILE_NAME)


def from_text(text: str, where: str) -> tuple[BasePins, ...]:
    """Read base.lock. Raises ResolveError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tuple(
            BasePins(
                suite=entry["suite"],
                platform=entry["platform"],
                packages=tuple(
                    DebianPackage(**{**package, "sha256": Digest(package["sha256"])})
                    for package in entry["packages"]
                ),
            )
            for entry in tomllib.loads(text).get("base", [])
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ResolveError(
            f"base.lock is damaged: {error}", where=where,
            fix="take it from version control, or delete it and run `doit resolve` to pin anew",
        ) from None

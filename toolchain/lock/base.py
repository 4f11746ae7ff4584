"""base.lock: what is under every image, pinned, shared by the whole workspace.

A mirror moves on and a tag moves; an image must not. So the packages of a suite, the digest of a
base image and further Debian packages (`apt`) are chosen once, and move only with `upgrade=1`.
The file is TOML and names no mirror.
"""

from __future__ import annotations

from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock.image import ImagePins, debian_python
from toolchain.spec import tomltext
from toolchain.values import dataclass

FILE_NAME = "base.lock"

PLATFORMS = ("linux/amd64", "linux/arm64")
# The suite whose python3 is that minor version (https://packages.debian.org/python3).
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
# The C library of each suite, which decides which manylinux wheels fit (PEP 600).
_GLIBC = {"bookworm": "2.36", "trixie": "2.41"}

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

    @property
    def name(self) -> tuple[str, ...]:
        """What these pins answer; base.lock has one entry of a name."""
        return "base", self.suite, self.platform

    @property
    def glibc(self) -> str:
        return _GLIBC[self.suite]

    @property
    def installed(self) -> dict[str, str]:
        """The Debian packages in it: name -> version."""
        return {package.name: package.version for package in self.packages}

    def version(self, name: str) -> str:
        return self.installed[name]

    def patch_level(self, minor: str) -> str:
        """Its Python `X.Y.Z`; empty where that cannot be told."""
        return debian_python(self.installed, minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class AptPins:
    """Further Debian packages on a base: those that are `wanted`, and what they need beyond it.

    `base` is the suite for the embedded base, or the base image's reference; `on` is the digest
    of the base's own pins.
    """

    base: str
    on: Digest
    suite: str
    platform: str
    wanted: tuple[str, ...]
    packages: tuple[DebianPackage, ...]

    @property
    def name(self) -> tuple[str, ...]:
        return "apt", self.base, self.platform, *self.wanted

    def to_json(self) -> dict[str, Any]:
        return {
            "base": self.base, "on": str(self.on), "suite": self.suite,
            "platform": self.platform, "wanted": list(self.wanted),
            "packages": [package.to_json() for package in self.packages],
        }


Pins = BasePins | ImagePins | AptPins


def below_apt(base: BasePins | ImagePins) -> Digest:
    """What the further Debian packages on a base are chosen by: all of it but what compiles."""
    return Digest.of_json({name: value for name, value in base.to_json().items()
                           if name != "compilers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What a project's packages stand on: a base, and further Debian packages."""

    base: BasePins | ImagePins
    apt: AptPins | None
    # What compiles, on the machine that builds: the interpreter of an embedded base, or CPython
    # `X.Y.Z`, wherever it is from; nothing where that is empty.
    compiler: BasePins | str = ""

    def to_json(self) -> dict[str, Any]:
        """What decides the layers under the project's packages, by content."""
        found: dict[str, Any] = {"glibc": self.base.glibc}
        if isinstance(self.base, BasePins):
            found["suite"] = self.base.suite
            found["packages"] = {p.name: p.sha256.hex for p in self.base.packages}
        else:
            found["image"] = self.base.reference
            found["digest"] = str(self.base.digest)
            if self.base.homes:
                found["homes"] = dict(sorted(self.base.homes.items()))
        if self.apt:
            found["apt"] = {p.name: p.sha256.hex for p in self.apt.packages}
            if isinstance(self.base, ImagePins):  # what links and libraries it was found to have
                found["on"] = str(self.apt.on)
        return found


class Archive(Protocol):
    """A Debian archive that can be trusted."""

    def pin(self, suite: str, platform: str) -> BasePins:
        """Choose the base's packages: the closure of what an image needs.

        Raises ResolveError: no mirror known, not reachable, signature or hash wrong.
        """

    def pin_more(self, on: BasePins | ImagePins, wanted: tuple[str, ...]) -> AptPins:
        """Choose further packages for a base: the closure of `wanted`, less what it has.

        Raises ResolveError as `pin`, and for a package that the suite does not have or that
        needs another version of something the base has.
        """


def image_for(setting: str, python: str) -> str:
    """The reference of the base image; empty for the embedded base, which Debian's Python decides.

    `setting` is image.base, where nothing is as `auto`; `python` is `X.Y` or `X.Y.Z`.
    """
    minor = ".".join(python.split(".")[:2])
    if setting not in ("", "auto"):
        return setting
    return "" if minor in SUITES else f"python:{minor}-slim"


def suite_for(python: str) -> str:
    """The suite that has Python `X.Y`."""
    return SUITES[".".join(python.split(".")[:2])]


def apt_name(on: BasePins | ImagePins) -> str:
    """How AptPins name the base that they are for."""
    return on.suite if isinstance(on, BasePins) else on.reference


def to_text(pins: tuple[Pins, ...]) -> str:
    """The content of base.lock: a table for each entry, a line for each package or layer."""
    lines = [
        "# What is under every image, pinned by `doit resolve`; commit this file.",
        "# To move the pins: doit resolve upgrade=1",
    ]
    kinds = ("base", "image", "apt")
    for entry in sorted(pins, key=lambda entry: (kinds.index(entry.name[0]), entry.name)):
        lines += ["", f"[[{entry.name[0]}]]"]
        for field, value in entry.to_json().items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines += [f"{field} = [", *(f"  {_inline(item)}," for item in value), "]"]
            elif isinstance(value, dict):
                lines.append(f"{field} = {_inline(value)}")
            else:
                lines.append(f"{field} = {tomltext.literal(value)}")
    return "\n".join(lines) + "\n"


def _inline(table: dict[str, Any]) -> str:
    fields = ", ".join(f"{tomltext.key(key)} = {tomltext.literal(value)}"
                       for key, value in table.items())
    return f"{{ {fields} }}" if fields else "{}"


def from_text(text: str, where: str) -> tuple[Pins, ...]:
    """Read base.lock. Raises ResolveError."""
    try:
        found = tomltext.parse(text)
        return (
            *(BasePins(suite=entry["suite"], platform=entry["platform"],
                       packages=_packages(entry)) for entry in found.get("base", [])),
            *(ImagePins.from_json(entry) for entry in found.get("image", [])),
            *(AptPins(base=entry["base"], on=Digest.parse(entry["on"]), suite=entry["suite"],
                      platform=entry["platform"], wanted=tuple(entry["wanted"]),
                      packages=_packages(entry))
              for entry in found.get("apt", [])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ResolveError(
            f"base.lock is damaged: {error}", where=where,
            fix="take it from version control, or delete it and run `doit resolve` to pin anew",
        ) from None


def _packages(entry: dict[str, Any]) -> tuple[DebianPackage, ...]:
    return tuple(DebianPackage(**{**package, "sha256": Digest(package["sha256"])})
                 for package in entry["packages"])

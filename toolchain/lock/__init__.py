"""Spec -> Lock: pin every package by version and hash.

The lock is `requirements.lock` beside the project: a pip-compatible requirements file with one
sha256 for each package, the file that is installed on the lock's platform. It names no index.
Its header records the digest of the plan it answers; while that matches, nothing is resolved.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.spec import Spec

FILE_NAME = "requirements.lock"
_FILE_NAMES = re.compile(r"requirements(\.[a-z0-9]+-[a-z0-9]+)?\.lock\Z")
_SCHEMA = 2

_HEADER = re.compile(
    r"^# toolchain: python=(\S+) platform=(\S+) input=(sha256:[0-9a-f]{64})$", re.MULTILINE
)
_PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+) --hash=sha256:([0-9a-f]{64})\Z")


def file_name(platform: str, *, is_first: bool) -> str:
    """The lock's file: one for each platform of a project, the first's without its name."""
    return FILE_NAME if is_first else f"requirements.{platform.replace('/', '-')}.lock"


def is_lock(name: str) -> bool:
    """Whether a file of a project's folder is a lock that this tool writes."""
    return _FILE_NAMES.match(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """One pinned file of a package index: a wheel, or an sdist where no wheel fits."""

    name: str
    version: str
    sha256: Digest

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "version": self.version, "sha256": self.sha256.hex}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be pinned. `python` is `X.Y` or `X.Y.Z`, `platform` as OCI names it.

    `glibc` is the image's C library, as in `2.36`; empty while the base is not pinned.
    """

    python: str
    platform: str
    glibc: str = ""
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    hashes: tuple[tuple[str, tuple[str, ...]], ...]

    def plan(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "python": self.python,
            "platform": self.platform,
            "glibc": self.glibc,
            "requirements": list(self.requirements),
            "constraints": list(self.constraints),
            "hashes": {name: list(values) for name, values in self.hashes},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The answer to a Request. `packages` is sorted by name; `input` is the request's digest."""

    python: str
    platform: str
    packages: tuple[Package, ...]
    input: Digest

    @property
    def python_minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    @property
    def digest(self) -> Digest:
        """What the lock's environment is named by; the same for every project that pins this."""
        return Digest.of_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "platform": self.platform,
            "packages": [package.to_json() for package in self.packages],
        }

    @classmethod
    def from_json(cls, value: Any, input: Digest) -> Lock:
        return cls(
            python=value["python"],
            platform=value["platform"],
            packages=tuple(
                Package(name=item["name"], version=item["version"], sha256=Digest(item["sha256"]))
                for item in value["packages"]
            ),
            input=input,
        )


class Resolver(Protocol):
    """Chooses versions and files."""

    def resolve(
        self, request: Request, preferred: tuple[Package, ...]
    ) -> tuple[Package, ...]:
        """Pin everything the request needs, its dependencies included, sorted by name.

        `preferred` versions are kept where the request allows them. Raises ResolveError if the
        request cannot be met or the index not be reached.
        """


def request(spec: Spec, default_python: str, platform: str) -> Request:
    """What `spec` wants pinned for `platform`."""
    return Request(
        python=spec.python or default_python,
        platform=platform,
        requirements=spec.requirements,
        constraints=spec.constraints,
        hashes=tuple(sorted(spec.hashes.items())),
    )


def make(
    wanted: Request, preferred: tuple[Package, ...], resolver: Resolver
) -> Lock:
    """Resolve a request. Raises ResolveError."""
    packages = resolver.resolve(wanted, preferred) if wanted.requirements else ()
    return Lock(
        python=wanted.python, platform=wanted.platform, packages=tuple(sorted(packages)),
        input=Digest.of_json(wanted.plan()),
    )


def changes(old: Lock | None, new: Lock) -> str:
    """What moved between two locks, in a few words."""
    if old is None:
        return "pinned"
    before = {package.name: package.version for package in old.packages}
    after = {package.name: package.version for package in new.packages}
    moved = sorted(
        [f"+{name}" for name in after.keys() - before.keys()]
        + [f"-{name}" for name in before.keys() - after.keys()]
        + [f"{name} {before[name]} -> {after[name]}" for name in after.keys() & before.keys()
           if before[name] != after[name]])
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    return f"changed: {', '.join(moved[:5])}{more}" if moved else "nothing moved"


def to_text(lock: Lock) -> str:
    """The content of requirements.lock."""
    lines = [
        "# Pinned by `doit resolve`; commit this file. To move the pins: "
        "doit resolve project=NAME upgrade=1",
        f"# toolchain: python={lock.python} platform={lock.platform} input={lock.input}",
    ]
    lines += [
        f"{package.name}=={package.version} \\\n    --hash={package.sha256}"
        for package in lock.packages
    ]
    return "\n".join(lines) + "\n"


def read(path: Path, where: str) -> Lock | None:
    """The lock in a file; None if there is no file. Raises ResolveError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ResolveError(f"cannot be read: {error}", where=where,
                           fix="take it from version control, or delete it") from None
    return from_text(text, where)


def replace_text(path: Path, text: str) -> None:
    """Write a file that people commit, whole or not at all. Raises ResolveError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResolveError(f"cannot be written: {error.strerror}", where=str(path),
                           fix="make the folder writable, or resolve elsewhere and commit "
                               "the file") from None


def from_text(text: str, where: str) -> Lock:
    """Read requirements.lock. Raises ResolveError with the line that is wrong."""
    header = _HEADER.search(text)
    if header is None:
        raise ResolveError(
            "not a lock of this tool: its `# toolchain:` line is missing", where=where,
            fix="delete it and run `doit resolve`; a lock made elsewhere is not read",
        )
    packages: dict[str, Package] = {}
    lines = text.replace("\\\n", " ").splitlines()
    for line in lines:
        entry = " ".join(line.split())
        if not entry or entry.startswith("#"):
            continue
        pin = _PIN.fullmatch(entry)
        if pin is None:
            raise ResolveError(
                f"not a pinned package: {entry[:80]}", where=where,
                fix="each line is name==version --hash=sha256:…; delete the file and run "
                    "`doit resolve` to make it anew",
            )
        if pin[1] in packages:  # left by a merge of two branches
            raise ResolveError(
                f"{pin[1]} is pinned twice", where=where,
                fix="keep one of its two lines, or delete the file and run `doit resolve` to "
                    "make it anew",
            )
        packages[pin[1]] = Package(name=pin[1], version=pin[2], sha256=Digest(pin[3]))
    return Lock(
        python=header[1], platform=header[2], packages=tuple(sorted(packages.values())),
        input=Digest.parse(header[3]),
    )

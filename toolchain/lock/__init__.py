"""Spec -> Lock: pin every package by version and hash.

What a lock is as a file is in `requirements`, `conda` and `base`.
"""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolchain.digest import Digest
from toolchain.spec import Spec
from toolchain.spec.source import FOLDER, GIT, Source, kind_of
from toolchain.values import dataclass

if TYPE_CHECKING:
    from toolchain.lock.conda import CondaLock

_SCHEMA = 2


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """One pinned file of a package index: a wheel, or an sdist where no wheel fits.

    `source` is where else it is from, as a requirements file writes it: `./../lib`,
    `git+https://host/repository@COMMIT`, a URL. `sha256` is then that of the file; of a folder,
    of what its wheel holds; of a commit, of its files.
    """

    name: str
    version: str
    sha256: Digest
    source: str = ""

    @property
    def kind(self) -> str:
        """Of its source, as toolchain.spec.source names kinds; empty for one of an index."""
        return kind_of(self.source) if self.source else ""

    @property
    def is_built_here(self) -> bool:
        """Whether it is made from a folder or a repository, and no file is pinned."""
        return self.kind in (FOLDER, GIT)

    @property
    def is_folder(self) -> bool:
        """Whether it is built from a folder, which the same commit as the lock pins."""
        return self.kind == FOLDER

    def to_json(self) -> dict[str, str]:
        found = {"name": self.name, "version": self.version, "sha256": self.sha256.hex}
        return {**found, "source": self.source} if self.source else found

    @classmethod
    def from_json(cls, value: Any) -> Package:
        return cls(name=value["name"], version=value["version"], sha256=Digest(value["sha256"]),
                   source=value.get("source", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A requirement that names a place, and the wheel that was made of it, in the store."""

    source: Source
    package: Package
    wheel: Digest
    filename: str
    metadata: str = ""  # digest (hex) of what a resolver sees of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a project's relative paths begin, and the folder that they may not leave. Never
    part of a plan."""

    folder: Path
    root: Path
    skipped: tuple[Path, ...] = ()  # folders of the workspace that are in no package


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """Another tool's lock: canonical texts of the file and of the pyproject.toml beside it."""

    path: str
    text: str
    project: str

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "text": Digest.of(self.text.encode()).hex,
                "project": Digest.of(self.project.encode()).hex}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be pinned. `python` is `X.Y` or `X.Y.Z`, `platform` as OCI names it.

    `glibc` is the image's C library, as in `2.36`; empty while the base is not pinned.
    `sources` are requirements that name a place, `settled` what they came to, `options` what an
    index may be asked for. With `existing` nothing is chosen anew.
    `provided` is (name, version) of what the environment has besides: kept, and not pinned.
    """

    python: str
    platform: str
    glibc: str = ""
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    hashes: tuple[tuple[str, tuple[str, ...]], ...]
    sources: tuple[Source, ...] = ()
    settled: tuple[Settled, ...] = ()
    options: tuple[str, ...] = ()
    existing: Existing | None = None
    place: Place | None = field(default=None, compare=False)
    provided: tuple[tuple[str, str], ...] = ()

    def plan(self) -> dict[str, Any]:
        """A folder counts by its wheel's metadata, which may change what else is pinned; a branch
        by its name, so that a lock stands although the branch has moved."""
        folders = {str(item.source): item.metadata for item in self.settled
                   if item.source.kind == FOLDER}
        more = {
            "sources": [[source.to_json(), folders.get(str(source))] for source in self.sources],
            "options": list(self.options),
            "existing": self.existing and self.existing.to_json(),
        }
        return {
            **{name: value for name, value in more.items() if value},
            "schema": _SCHEMA,
            "python": self.python,
            "platform": self.platform,
            "glibc": self.glibc,
            "requirements": list(self.requirements),
            "constraints": list(self.constraints),
            "hashes": {name: list(values) for name, values in self.hashes},
            **({"provided": [list(item) for item in self.provided]} if self.provided else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The answer to a Request. `packages` is sorted by name; `input` is the request's digest.

    conda: the conda environment that the packages are installed into, if it is one.
    """

    python: str
    platform: str
    packages: tuple[Package, ...]
    input: Digest
    options: tuple[str, ...] = field(default=(), compare=False)  # as in Request
    conda: CondaLock | None = None

    @property
    def python_minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    @property
    def names(self) -> frozenset[str]:
        """Of all packages, conda's too."""
        found = {package.name for package in self.packages}
        if self.conda:
            found |= {package.name for package in self.conda.packages}
        return frozenset(found)

    def with_folders(self, settled: tuple[Settled, ...]) -> Lock:
        """The lock with what the folders that it names hold now."""
        now = {item.package.source: item.package for item in settled}
        return replace(self, packages=tuple(
            now.get(package.source, package) if package.is_folder else package
            for package in self.packages))

    @property
    def digest(self) -> Digest:
        """What the lock's environment is named by; the same for every project that pins this."""
        return Digest.of_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "platform": self.platform,
            "packages": [package.to_json() for package in self.packages],
            **({"conda": self.conda.to_json()} if self.conda else {}),
        }

    @classmethod
    def from_json(cls, value: Any, input: Digest) -> Lock:
        conda = None
        if "conda" in value:
            from toolchain.lock.conda import CondaLock

            conda = CondaLock.from_json(value["conda"], input)
        return cls(
            python=value["python"],
            platform=value["platform"],
            packages=tuple(Package.from_json(item) for item in value["packages"]),
            input=input,
            conda=conda,
        )


class Resolver(Protocol):
    """Chooses versions and files."""

    def resolve(
        self, request: Request, preferred: tuple[Package, ...]
    ) -> tuple[Package, ...]:
        """Pin everything the request needs, its dependencies included, sorted by name.

        `preferred` versions are kept where the request allows them. Of a request's `sources` all
        are in `settled`. Raises ResolveError if the request cannot be met or the index not be
        reached.
        """


class Sources(Protocol):
    """Makes wheels of folders, repositories and files."""

    def settle(self, source: Source, request: Request, preferred: tuple[Package, ...]) -> Settled:
        """Bring about the wheel of a requirement that names a place. Twice is as once.

        The commit of a `preferred` package that has the same source is kept. Raises ResolveError
        if it cannot be had or built, SpecError if it leaves the project's root.
        """

    def look(self, source: Source, place: Place) -> Any:
        """What of a folder or file decides its wheel, as JSON, without building it."""


def request(spec: Spec, default_python: str, platform: str,
            place: Place | None = None) -> Request:
    """What `spec` wants pinned for `platform`."""
    existing = None
    if spec.locked:
        project = _beside(spec)
        existing = Existing(path=spec.locked, text=spec.files[spec.locked], project=project)
    return Request(
        python=spec.python or default_python,
        platform=platform,
        requirements=spec.requirements,
        constraints=spec.constraints,
        hashes=tuple(sorted(spec.hashes.items())),
        sources=tuple(sorted(Source.from_json(value) for value in spec.sources)),
        options=spec.options, existing=existing, place=place,
    )


def _beside(spec: Spec) -> str:
    """The pyproject.toml that was read with the lock; the project's own if there are two."""
    found = sorted((path for path in spec.files if path.split("/")[-1] == "pyproject.toml"),
                   key=len)
    return spec.files[found[0]] if found else ""


def make(
    wanted: Request, preferred: tuple[Package, ...], resolver: Resolver
) -> Lock:
    """Resolve a request. Raises ResolveError."""
    asked = wanted.requirements or wanted.sources or wanted.existing
    packages = resolver.resolve(wanted, preferred) if asked else ()
    return Lock(
        python=wanted.python, platform=wanted.platform, packages=tuple(sorted(packages)),
        input=Digest.of_json(wanted.plan()), options=wanted.options,
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

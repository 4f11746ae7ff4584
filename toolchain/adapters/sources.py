"""Folders, repositories and files that requirements name -> wheels, by content.

Building runs the package's build backend, with this machine's rights: as with pip, what a
project requires is trusted (docs/threat-model.md). It runs in a copy that holds exactly the files
that decide the key, so that nothing else can leak into a wheel.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from toolchain.adapters.address import Address
from toolchain.adapters.fetch import Fetcher
from toolchain.adapters.file_places import FilePlaces
from toolchain.adapters.repository import Repositories
from toolchain.adapters.wheel_builds import WheelBuilds, names
from toolchain.digest import Digest
from toolchain.errors import ResolveError, SpecError, without_credentials
from toolchain.journal import Journal
from toolchain.layer.wheel import Wheel
from toolchain.lock import Package, Place, Request, Settled
from toolchain.lock.base import FILE_NAME as BASE_LOCK
from toolchain.lock.file import is_lock
from toolchain.spec.source import FILE, FOLDER, GIT, URL, Source
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.tree import Tree

_LEFT_OVER = re.compile(r"(build|dist|[^/]+\.egg-info)/|(.*/)?[^/]+\.egg-info/")


class Builder(Protocol):
    """Runs a build backend."""

    def build(self, what: Path, python: str, options: tuple[str, ...], title: str) -> Path:
        """Build a source folder or archive; the wheel's path, beside it. Raises ResolveError."""


class WheelsOfSources:
    """Wheels of what is of no index; implements toolchain.lock.Sources.

    `environ` has what `${NAME}` in a URL stands for; `builder` runs build backends.
    """

    def __init__(self, *, store: Store, trace: Trace, journal: Journal, fetcher: Fetcher,
                 repositories: Repositories, environ: Mapping[str, str], builder: Builder,
                 places: FilePlaces) -> None:
        self._store = store
        self._trace = trace
        self._builds = WheelBuilds(store, trace)
        self._journal = journal
        self._fetcher = fetcher
        self._repositories = repositories
        self._environ = environ
        self._builder = builder
        self._places = places

    def look(self, source: Source, place: Place) -> Any:
        path = _within(place, source.location)
        if source.kind == FILE:
            return self._file(path).hex
        tree, files = self._files(path, place)
        found = [tree.file(name).to_json() for name in files]
        tree.remember()
        return Digest.of_json(found).hex

    def settle(self, source: Source, request: Request, preferred: tuple[Package, ...]) -> Settled:
        if source.kind == FOLDER:
            return self._settle_folder(source, request)
        if source.kind == GIT:
            return self._settle_git(source, request, preferred)
        return self._settle_file(source, request)

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...]) -> Wheel:
        """The wheel of a package that is of no index, in the store. Raises ResolveError."""
        found = self.here(package, python, platform)
        if found is not None:
            return found
        if package.kind == GIT:
            return self._build_commit(package, python, platform, options)
        if package.kind == FOLDER:
            raise ResolveError(
                f"the wheel of {package.source} is not in the store any more",
                where="requirements.lock",
                fix="run the command again; if that does not help, `doit forget resolve:NAME`")
        return self._fetch_file(package, python, platform, options)

    def here(self, package: Package, python: str, platform: str) -> Wheel | None:
        """The wheel of such a package if it is in the store; nothing is fetched or built."""
        filename = _filename(package.source)
        if not package.is_built_here and filename.endswith(".whl"):
            return (Wheel(digest=package.sha256, filename=filename)
                    if self._store.has(package.sha256) else None)
        return self._builds.here(package.sha256, python, platform)

    # Folders

    def _settle_folder(self, source: Source, request: Request) -> Settled:
        place = _place(request)
        path = _within(place, source.location)
        tree, files = self._files(path, place)
        key = {"files": self.look(source, place), "subdirectory": source.subdirectory}
        built = self._builds.once(
            key, request.python, request.platform, source.location,
            lambda scratch: self._build_tree(tree, files, source.subdirectory, scratch, request,
                                             source))
        package = Package(name=built["name"], version=built["version"],
                          sha256=Digest(built["content"]), source=_pinned(source, ""))
        self._builds.keep(package.sha256, request.python, request.platform, built)
        return _settled(source, package, built)

    def _files(self, path: Path, place: Place) -> tuple[Tree, list[str]]:
        if not path.is_dir():
            raise ResolveError(f"no such folder: {path.name}", where=str(path),
                               fix="make it, or take the requirement out")
        tree = Tree(path, self._journal, place.skipped)
        files = sorted(name for name in tree.found if not _LEFT_OVER.match(name)
                       and not is_lock(name) and name != BASE_LOCK)
        return tree, files

    def _build_tree(self, tree: Tree, files: list[str], subdirectory: str, scratch: Path,
                    request: Request, source: Source) -> Path:
        copy = scratch / "source"
        for name in files:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file = tree.file(name)
            if file.link is not None:
                target.symlink_to(file.link)
                continue
            with tree.open(name) as stream, open(target, "xb") as sink:
                shutil.copyfileobj(stream, sink)
            target.chmod(0o755 if file.executable else 0o644)
        return self._builder.build(copy / subdirectory if subdirectory else copy, request.python,
                                   request.options, source.location)

    # Repositories

    def _settle_git(self, source: Source, request: Request,
                    preferred: tuple[Package, ...]) -> Settled:
        commit = self._kept(source, preferred)
        if not commit:  # nothing is kept where pins are to move
            commit = self._repositories.pin(source.location, source.revision, anew=True)
        digest, built = self._commit(source.location, commit, source.subdirectory,
                                     request.python, request.platform, request.options)
        package = Package(name=built["name"], version=built["version"], sha256=digest,
                          source=_pinned(source, commit))
        self._builds.keep(package.sha256, request.python, request.platform, built)
        return _settled(source, package, built)

    def _kept(self, source: Source, preferred: tuple[Package, ...]) -> str:
        for package in preferred:
            url, commit, parts = _read_pin(package.source)
            if (commit and url == source.location and parts.get("rev", "") == source.revision
                    and parts.get("subdirectory", "") == source.subdirectory):
                return commit
        return ""

    def _commit(self, url: str, commit: str, subdirectory: str, python: str, platform: str,
                options: tuple[str, ...]) -> tuple[Digest, dict[str, str]]:
        """The digest of a commit's files, and the wheel that is built of them."""
        tree = Tree(self._repositories.files(url, commit), self._journal)
        files = sorted(tree.found)
        content = [tree.file(name).to_json() for name in files]
        tree.remember()
        digest = Digest.of_json({"files": content, "subdirectory": subdirectory})
        request = Request(python=python, platform=platform, requirements=(), constraints=(),
                          hashes=(), options=options)
        source = Source(kind=GIT, location=without_credentials(url), subdirectory=subdirectory)
        built = self._builds.once(
            {"commit files": digest.hex}, python, platform, source.location,
            lambda scratch: self._build_tree(tree, files, subdirectory, scratch, request, source))
        return digest, built

    def _build_commit(self, package: Package, python: str, platform: str,
                      options: tuple[str, ...]) -> Wheel:
        url, commit, parts = _read_pin(package.source)
        digest, built = self._commit(url, commit, parts.get("subdirectory", ""), python, platform,
                                     options)
        if digest != package.sha256:
            raise ResolveError(
                f"the files of {package.name} at {commit} are others: {digest}, expected "
                f"{package.sha256}", where="requirements.lock",
                fix="somebody changed the repository or the lock; pin again with upgrade=1")
        self._builds.keep(package.sha256, python, platform, built)
        return Wheel(digest=Digest(built["wheel"]), filename=built["filename"])

    # Files

    def _settle_file(self, source: Source, request: Request) -> Settled:
        if source.kind == FILE:
            path = _within(_place(request), source.location)
            digest, filename = self._file(path), path.name
            self._fetcher.fetch(path.as_uri(), digest, source.location)
            self._places.note(digest, path.as_uri(), filename)
        else:
            filename = _filename(source.location)
            digest = self._download(source)
        if source.hashes and digest.hex not in source.hashes:
            raise ResolveError(f"{filename} is another file: {digest}",
                               where=without_credentials(source.location),
                               fix="the hash given with it is " + " or ".join(source.hashes))
        if filename.endswith(".whl"):
            name, version = names(filename)
            built = {"name": name, "version": version, "wheel": digest.hex, "filename": filename}
        else:
            if source.subdirectory:
                raise ResolveError("a subdirectory of an archive is not followed", where=filename,
                                   fix="name the repository with git+, or have a wheel of it")
            built = self._build_archive(digest, filename, request.python, request.platform,
                                        request.options)
        package = Package(name=built["name"], version=built["version"], sha256=digest,
                          source=_pinned(source, ""))
        return _settled(source, package, built)

    def _fetch_file(self, package: Package, python: str, platform: str,
                    options: tuple[str, ...]) -> Wheel:
        """The wheel of a file that a lock pins: the file itself, or what is built of it."""
        filename, title = _filename(package.source), f"{package.name} {package.version}"
        with self._trace.holding("fetch", package.sha256):
            self._fetcher.fetch(self._place_of(package), package.sha256, title)
        if filename.endswith(".whl"):
            return Wheel(digest=package.sha256, filename=filename)
        built = self._build_archive(package.sha256, filename, python, platform, options)
        return Wheel(digest=Digest(built["wheel"]), filename=built["filename"])

    def _place_of(self, package: Package) -> str | Address:
        if package.kind == URL:
            return Address.of(package.source.partition("#")[0], self._environ)
        place = self._places.find(package.sha256)
        if place is None:
            raise ResolveError(
                f"{package.source} is another file than the lock pins: not {package.sha256}",
                where="requirements.lock", fix="put that file back, or pin again with upgrade=1")
        return place.url

    def _file(self, path: Path) -> Digest:
        try:
            with open(path, "rb") as stream:
                return Digest.of_stream(stream)
        except OSError as error:
            raise ResolveError(f"cannot be read: {error.strerror}", where=str(path),
                               fix="put the file there, or take the requirement out") from None

    def _download(self, source: Source) -> Digest:
        address = Address.of(source.location, self._environ)
        title = source.name or _filename(source.location)
        for known in source.hashes:
            if self._store.has(Digest(known)):
                return Digest(known)
        if len(source.hashes) == 1:
            digest = Digest(source.hashes[0])
            self._fetcher.fetch(address, digest, title)
            return digest
        return self._fetcher.fetch_any(address, title)

    def _build_archive(self, digest: Digest, filename: str, python: str, platform: str,
                       options: tuple[str, ...]) -> dict[str, str]:
        """The record of the wheel of an sdist that is in the store."""
        def build(scratch: Path) -> Path:
            archive = scratch / filename
            self._store.link(digest, archive)
            return self._builder.build(archive, python, options, filename)

        built = self._builds.once({"archive": digest.hex, "subdirectory": ""}, python, platform,
                                  filename, build)
        self._builds.keep(digest, python, platform, built)
        return built


def _settled(source: Source, package: Package, built: dict[str, str]) -> Settled:
    if source.name and source.name != package.name:
        raise ResolveError(f"{source.location} is {package.name}, not {source.name}",
                           where=str(source), fix=f"write {package.name} before the @")
    return Settled(source=source, package=package, wheel=Digest(built["wheel"]),
                   filename=built["filename"], metadata=built.get("metadata", ""))


def _pinned(source: Source, commit: str) -> str:
    """As it stands in a lock. The revision goes with the commit, to know what it answers."""
    parts = {"subdirectory": source.subdirectory, "rev": source.revision if commit else ""}
    tail = "&".join(f"{name}={value}" for name, value in parts.items() if value)
    place = f"git+{source.location}@{commit}" if commit else source.location
    return f"{place}#{tail}" if tail else place


def _read_pin(text: str) -> tuple[str, str, dict[str, str]]:
    """URL, commit and the rest of what `_pinned` wrote; the commit is empty for another kind."""
    place, _, tail = text.partition("#")
    if not place.startswith("git+"):
        return "", "", {}
    url, _, commit = place.removeprefix("git+").rpartition("@")
    parts = dict(part.partition("=")[::2] for part in tail.split("&") if part)
    if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
        raise ResolveError(f"not a commit: {commit[:60]}", where="requirements.lock",
                           fix="delete the file and run `doit resolve`")
    return url, commit, parts


def _place(request: Request) -> Place:
    assert request.place is not None, "a request with paths has a place"
    return request.place


def _within(place: Place, location: str) -> Path:
    path = Path(os.path.normpath(place.folder / location))
    if not path.resolve().is_relative_to(place.root.resolve()):
        raise SpecError(f"leaves the workspace: {location}", where=str(place.folder),
                        fix="keep what a project reads within the workspace")
    return path


def _filename(place: str) -> str:
    """Of a file's path or URL."""
    place = place.partition("#")[0]
    path = unquote(urlsplit(place).path) if "://" in place else place
    return path.rsplit("/", 1)[-1]

"""Conda packages -> layers: each file where conda would link it, for the prefix of every image.

Rule 1: a conda environment stands where the virtual environment would, at /opt/venv. So what
`pip:` asks for is in the same layers as in any other project, and starts the same way.
Rule 2: no script of a package is run. One that has a post-link script is named.
Rule 3: a layer is a function of the packages' sha256, of the channels' names, which conda-meta
tells, and, for noarch Python packages, of Python's minor version. No host and no path is in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

from toolchain.digest import Digest, canonical_json
from toolchain.layer import (
    HOME,
    LAYOUT_VERSION,
    MOST_LARGE_OF_CONDA,
    PREFIX,
    USER_ID,
    Layer,
    group,
    on_record,
)
from toolchain.layer.archive import Entry, LayerWriter, Sink
from toolchain.layer.bytecode import Batch, Bytecode
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.layer.condapackage import CondaArchive, EntryPoint, PathEntry, bad, opened
from toolchain.layer.environment import hiding
from toolchain.layer.packages import Built
from toolchain.layer.prefix import in_binary, in_text
from toolchain.lock.conda import CondaLock, CondaPackage
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.values import dataclass
from toolchain.workers import Workers

# Raise when the entries of a package change for the same file.
_FORMAT = 1
_STAGE = "conda"
_LARGEST_REPLACED = 2 << 30
_SCRIPTS = re.compile(r"bin/\.[^/]+-(?:pre-link|post-link)\.sh")
_META = ("name", "version", "build", "build_number", "depends", "constrains", "license",
         "license_family", "noarch", "timestamp", "track_features", "features", "arch", "platform")
_DISTRIBUTION = re.compile(
    r"(?:lib/python3\.\d+/)?site-packages/([A-Za-z0-9][\w.]*)-([\w.!+]+?)"
    r"(?:-py3(?:\.\d+)?)?\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")


class CondaSource(Protocol):
    """Where conda packages come from."""

    def fetch(self, packages: tuple[CondaPackage, ...]) -> None:
        """Put every package into the store, checked against the lock. Twice is as once.

        Raises ResolveError.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where packages are installed. `prefix` is absolute; `python` is `X.Y`."""

    prefix: str
    python: str


def base_plan(compression: Compression = LIBDEFLATE, *, hides: bool = False) -> dict[str, Any]:
    """What the layer under the packages is made of; its digest is its key for all projects.

    hides: whatever an image below has in the same place.
    """
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "conda": _FORMAT,
            "prefix": PREFIX, **({"hides": True} if hides else {})}


def make_base(store: Store, pool: ThreadPoolExecutor,
              compression: Compression = LIBDEFLATE, *, hides: bool = False) -> Layer:
    """The empty environment, and a home for the ordinary user."""
    with LayerWriter(store, "conda environment", pool, compression) as writer:
        writer.add(Entry(path=HOME, mode=0o755, kind=tarfile.DIRTYPE, uid=USER_ID, gid=USER_ID))
        for entry in hiding() if hides else ():
            writer.add(entry)
        write_base(writer)
    assert writer.layer is not None
    return writer.layer


def write_base(sink: Sink) -> None:
    """By this file conda knows an environment."""
    sink.add(Entry(path=f"{PREFIX}/conda-meta/history", mode=0o644, data=b""))


def plan(packages: tuple[CondaPackage, ...], python: str, bytecode: str | None = None,
         compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What a layer is made of; its digest is the layer's key for all projects."""
    # A package that is not noarch has its byte-code in it, and its place in its paths.
    noarch = any(package.subdir == "noarch" for package in packages)
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "prefix": PREFIX,
            "conda": _FORMAT, "python": python if noarch else "",
            "bytecode": bytecode if noarch else None,
            "packages": [[package.sha256.hex, package.channel_name] for package in packages]}


def make(lock: CondaLock, source: CondaSource, store: Store, trace: Trace, progress: Progress,
         pool: ThreadPoolExecutor, waiting: Callable[[str], None],
         bytecode: Bytecode | None = None, compression: Compression = LIBDEFLATE) -> Built:
    """Build the layers of a conda lock; each is on record as soon as it is made."""
    python = ".".join(lock.python.split(".")[:2])
    groups = _groups(lock)
    compiler = None if bytecode is None else bytecode.identity
    keys = {label: Digest.of_json(plan(members, python, compiler, compression))
            for label, members in groups}
    missing = tuple(package for label, members in groups for package in members
                    if on_record(_STAGE, keys[label], trace, store) is None)
    source.fetch(missing)
    progress.expect(sum(package.size for package in missing))
    made: set[Digest] = set()
    notes: list[str] = []

    def build(item: tuple[str, tuple[CondaPackage, ...]]) -> Layer:
        label, members = item
        with trace.holding(_STAGE, keys[label], waiting):
            known = on_record(_STAGE, keys[label], trace, store)
            if known is not None:
                return known
            source.fetch(members)  # what another process built is gone
            with LayerWriter(store, label, pool, compression) as writer:
                for package in members:
                    with store.open(package.sha256) as stream:
                        notes.extend(write(package, stream, writer,
                                           Place(prefix=f"/{PREFIX}", python=python), bytecode))
            assert writer.layer is not None
            trace.record(_STAGE, keys[label], plan(members, python, compiler, compression),
                         writer.layer.to_json())
            made.add(writer.layer.digest)
        progress.advance(sum(package.size for package in members))
        return writer.layer

    order = sorted(groups, key=lambda item: -sum(package.size for package in item[1]))
    with Workers(os.cpu_count()) as builders:
        done = dict(zip((label for label, _ in order), builders.each(build, order), strict=True))
    return Built(layers=tuple(done[label] for label, _ in groups), made=frozenset(made),
                 notes=tuple(sorted(notes)))


def _groups(lock: CondaLock) -> list[tuple[str, tuple[CondaPackage, ...]]]:
    return group({package: package.size for package in lock.packages}, MOST_LARGE_OF_CONDA)


def in_order(lock: CondaLock) -> tuple[CondaPackage, ...]:
    """The packages as they follow one another in an image: where two have the same file, the
    later one's is there."""
    return tuple(package for _, members in _groups(lock) for package in members)


def write(package: CondaPackage, stream: IO[bytes], sink: Sink, place: Place,
          bytecode: Bytecode | None = None) -> tuple[str, ...]:
    """Add a package's files, as `conda install` would link them; what people should know of it.

    Entries are below `opt/venv`, their contents are for `place`. Raises ResolveError naming the
    package and the entry for one that is damaged or would write outside.
    """
    with opened(stream, package.file) as archive:
        _check_identity(archive, package)
        batch = bytecode.batch() if bytecode is not None and archive.noarch == "python" else None
        written = []
        for entry in archive.paths:
            path = _target(entry.path, archive.noarch, place.python)
            _add(archive, entry, path, sink, place, batch)
            if entry.kind != "directory":
                written.append((path, entry))
        added = []
        for script in archive.entry_points:
            path = f"bin/{script.name}"
            sink.add(Entry(path=f"{PREFIX}/{path}", mode=0o755, data=_script(script, place)))
            added.append(path)
        for path, data in batch.results() if batch is not None else ():
            sink.add(Entry(path=path, data=data, mode=0o644))
            added.append(path.removeprefix(f"{PREFIX}/"))
        name = f"{package.name}-{package.version}-{package.build}.json"
        sink.add(Entry(path=f"{PREFIX}/conda-meta/{name}", mode=0o644,
                       data=canonical_json(_record(package, archive, written, added))))
        scripts = [path for path, _ in written if _SCRIPTS.fullmatch(path)]
    return tuple(f"{package.name} {package.version} has a script that conda would run after "
                 f"linking, and that is not run: {path}" for path in scripts)


def distributions(stream: IO[bytes], filename: str) -> tuple[str, ...]:
    """The Python distributions in a package, as `name==version`, sorted. Raises ResolveError."""
    found = set()
    with opened(stream, filename) as archive:
        for entry in archive.paths:
            if match := _DISTRIBUTION.fullmatch(entry.path):
                name = re.sub(r"[-_.]+", "-", match[1]).lower()
                found.add(f"{name}=={match[2].replace('_', '-')}")
    return tuple(sorted(found))


def _check_identity(archive: CondaArchive, package: CondaPackage) -> None:
    """A file that says to be another package would shadow that one in conda-meta."""
    index = archive.index
    if (index.get("name"), index.get("version"), index.get("build")) != (
            package.name, package.version, package.build):
        raise bad(package.file, "info/index.json",
                  f"is not of {package.name} {package.version} {package.build}")


def _target(path: str, noarch: str, python: str) -> str:
    if noarch == "python":
        if path.startswith("site-packages/"):
            return f"lib/python{python}/{path}"
        if path.startswith("python-scripts/"):
            return f"bin/{path.removeprefix('python-scripts/')}"
    return path


def _add(archive: CondaArchive, entry: PathEntry, path: str, sink: Sink, place: Place,
         batch: Batch | None) -> None:
    target = f"{PREFIX}/{path}"
    if path.startswith("conda-meta/"):
        raise bad(archive.filename, entry.path, "is in conda's own folder")
    if entry.kind == "directory":
        sink.add(Entry(path=target, mode=0o755, kind=tarfile.DIRTYPE))
        return
    member = archive.members[entry.path]
    if member.issym():
        if path != entry.path:  # a noarch package's files move as a whole
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path),
                                                       member.linkname))
            if inside.split("/")[0] != entry.path.split("/")[0]:
                raise bad(archive.filename, entry.path, "is a link that leads out of the package")
        sink.add(Entry(path=target, mode=0o777, kind=tarfile.SYMTYPE, link=member.linkname))
        return
    member, stream = archive.open(entry)
    header = Entry(path=target, mode=0o755 if member.mode & 0o111 else 0o644)
    if not entry.placeholder and batch is None:
        digest = sink.add_stream(header, stream, member.size)
    else:
        if member.size > _LARGEST_REPLACED:
            raise bad(archive.filename, entry.path, "is too large to hold a prefix")
        data = stream.read()
        digest = Digest.of(data)
        if entry.placeholder and entry.is_binary:
            data = in_binary(data, entry.placeholder, place.prefix,
                             f"{archive.filename}, entry {entry.path}")
        elif entry.placeholder:
            data = in_text(data, entry.placeholder, place.prefix)
        sink.add_stream(header, io.BytesIO(data), len(data))
        if batch is not None and path.startswith("lib/python"):
            batch.add(target, data, hashlib.sha256(data).digest())
    if entry.sha256 and digest.hex != entry.sha256:
        raise bad(archive.filename, entry.path, "is not what its sha256 says")


def _script(script: EntryPoint, place: Place) -> bytes:
    """A console script as conda writes it."""
    first = script.attribute.partition(".")[0]
    return in_text((
        f"#!{place.prefix}/bin/python\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n\n"
        f"from {script.module} import {first}\n\nif __name__ == '__main__':\n"
        "    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n"
        f"    sys.exit({script.attribute}())\n").encode(), place.prefix, place.prefix)


def _record(package: CondaPackage, archive: CondaArchive,
            written: list[tuple[str, PathEntry]], added: list[str]) -> dict[str, Any]:
    """conda-meta/NAME.json. Which host a file came from is no property of it, so its URL has the
    channel's name alone."""
    kept = {key: archive.index[key] for key in _META if archive.index.get(key) is not None}
    return {
        "depends": [], "constrains": [], "build_number": 0, **kept,
        "subdir": package.subdir, "fn": package.file, "sha256": package.sha256.hex,
        "size": package.size, "channel": package.channel_name,
        "url": f"channel://{package.channel_name}/{package.subdir}/{package.file}",
        "files": [*(path for path, _ in written), *added],
        "paths_data": {"paths_version": 1, "paths": [
            *({"_path": path, "path_type": entry.kind,
               **({"sha256": entry.sha256} if entry.sha256 else {}),
               **({"size_in_bytes": entry.size} if entry.size is not None else {}),
               **({"prefix_placeholder": entry.placeholder,
                   "file_mode": "binary" if entry.is_binary else "text"}
                  if entry.placeholder else {})} for path, entry in written),
            *({"_path": path, "path_type": "pyc_file" if path.endswith(".pyc")
               else "unix_python_entry_point"} for path in added)]},
        "link": {"source": "", "type": 3},
    }

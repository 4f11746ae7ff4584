""".conda and .tar.bz2 -> what a package says of itself, and its files.

Nothing is believed: an archive comes from a channel that anybody may run. What it names leaves no
folder, unpacks to no more than it declares, and matches the sha256 that it gives for each file.
Source: conda's documentation of package formats; CEP 34 (contents), CEP 35 (archives).
"""

from __future__ import annotations

import bz2
import contextlib
import json
import posixpath
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from toolchain.digest import Digest
from toolchain.errors import ConfigError, ResolveError
from toolchain.values import dataclass

LARGEST_PACKAGE = 32 << 30
_LARGEST_INFO = 512 << 20
_IN_MEMORY = 32 << 20
_ENTRY_OVERHEAD = 8 << 10  # bytes of tar for an entry beside its content, long names included
_MOST_ENTRIES = 1_000_000
_KINDS = ("hardlink", "softlink", "directory")
_ENTRY_POINT = re.compile(
    r"\s*(?P<name>[^\s=/\0]+)\s*=\s*(?P<module>\w+(?:\.\w+)*)\s*:\s*(?P<attr>\w+(?:\.\w+)*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathEntry:
    """A file as info/paths.json lists it. `placeholder` and `is_binary` say how its prefix is
    replaced; `sha256` and `size` are of the file as it is in the archive, where given."""

    path: str
    kind: str
    placeholder: str = ""
    is_binary: bool = False
    sha256: str = ""
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """A console script of a noarch Python package."""

    name: str
    module: str
    attribute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaArchive:
    """An opened package. `index` is info/index.json; `noarch` is `python`, `generic` or empty."""

    filename: str
    index: dict[str, Any]
    noarch: str
    paths: tuple[PathEntry, ...]
    entry_points: tuple[EntryPoint, ...]
    members: dict[str, tarfile.TarInfo]
    tar: tarfile.TarFile

    def open(self, entry: PathEntry) -> tuple[tarfile.TarInfo, BinaryIO]:
        """The file of an entry, hard links followed within the archive. Raises ResolveError."""
        member = self.members[entry.path]
        for _ in range(8):
            if not member.islnk():
                break
            member = self.members.get(posixpath.normpath(member.linkname), member)
        if not member.isreg():
            raise bad(self.filename, entry.path, "is listed as a file and is none")
        if entry.size is not None and entry.size != member.size:
            raise bad(self.filename, entry.path,
                      f"has {member.size} bytes, not {entry.size} as it declares")
        stream = self.tar.extractfile(member)
        assert stream is not None
        return member, cast("BinaryIO", stream)


@contextlib.contextmanager
def opened(stream: IO[bytes], filename: str) -> Iterator[CondaArchive]:
    """Open a package. Raises ResolveError for one that is damaged or not to be trusted;
    ConfigError if zstandard is missing."""
    try:
        with contextlib.ExitStack() as stack:
            yield _opened(stream, filename, stack)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, ValueError,
            KeyError, TypeError, AttributeError, RecursionError, NotImplementedError,
            RuntimeError, OverflowError) as error:
        raise bad(filename, "", f"not a valid conda package: {error}") from None


def _opened(stream: IO[bytes], filename: str, stack: contextlib.ExitStack) -> CondaArchive:
    if filename.endswith(".conda"):
        archive = stack.enter_context(zipfile.ZipFile(stream))
        with _unpacked(_part(archive, "info-", filename), filename, _LARGEST_INFO) as plain, \
                tarfile.open(fileobj=plain, mode="r:") as inner:
            info = _info(inner, _members(inner, filename))
        paths = _paths(info, filename)
        most = sum(path.size or 0 for path in paths) + _ENTRY_OVERHEAD * (len(paths) + 256)
        sized = all(path.size is not None for path in paths if path.kind == "hardlink")
        spool = stack.enter_context(_unpacked(_part(archive, "pkg-", filename), filename,
                                              most if sized else LARGEST_PACKAGE))
        tar = stack.enter_context(tarfile.TarFile(fileobj=spool))
        members = _members(tar, filename)
    else:
        spool = stack.enter_context(_spooled(bz2.BZ2File(stream), filename, LARGEST_PACKAGE))
        tar = stack.enter_context(tarfile.TarFile(fileobj=spool))
        members = _members(tar, filename)
        info = _info(tar, members)
        paths = _paths(info, filename)
    index = _mapping(info, "info/index.json", filename)
    noarch = index.get("noarch")
    noarch = noarch if noarch in ("python", "generic") else "generic" if noarch else ""
    for entry in paths:
        if entry.kind != "directory" and entry.path not in members:
            raise bad(filename, entry.path, "is listed and not there")
    return CondaArchive(filename=filename, index=index, noarch=noarch, paths=paths,
                        entry_points=_entry_points(info, filename) if noarch == "python" else (),
                        members=members, tar=tar)


def _part(archive: zipfile.ZipFile, prefix: str, filename: str) -> IO[bytes]:
    """One of the two tars within a .conda."""
    found = [item for item in archive.infolist()
             if item.filename.startswith(prefix) and item.filename.endswith(".tar.zst")]
    if len(found) != 1 or found[0].flag_bits & 1:
        raise bad(filename, "", f"it has not one {prefix}*.tar.zst")
    return archive.open(found[0])


def _unpacked(stream: IO[bytes], filename: str, most: int) -> IO[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ConfigError("conda packages need the package `zstandard`, which is not installed",
                          where=filename,
                          fix="pip install 'mlproject-toolchain[conda]'") from None
    # Packages are compressed at level 19 to 22, whose window is up to 128 MiB.
    reader = zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(
        stream, read_across_frames=True)
    try:
        return _spooled(cast("IO[bytes]", reader), filename, most)
    except zstandard.ZstdError as error:
        raise bad(filename, "", f"not a valid conda package: {error}") from None


def _spooled(stream: IO[bytes], filename: str, most: int) -> IO[bytes]:
    """What a compressed stream unpacks to, in memory or in a file if it is large."""
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes
    try:
        size = 0
        while piece := stream.read(1 << 20):
            size += len(piece)
            if size > most:
                raise bad(filename, "", "it unpacks to more than it declares")
            spool.write(piece)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return cast("IO[bytes]", spool)


def _members(tar: tarfile.TarFile, filename: str) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        if len(found) >= _MOST_ENTRIES:
            raise bad(filename, "", "it has too many entries")
        path = member.name.removeprefix("./").rstrip("/")
        if member.isdir() and path in ("", "."):
            continue
        _check_path(path, filename)
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise bad(filename, path, "is a device or pipe, not a file")
        if member.issym():
            check_link(path, member.linkname, filename)
        if member.islnk():
            _check_path(member.linkname.removeprefix("./"), filename)
        if not member.isdir():
            found[path] = member
    return found


def check_link(path: str, target: str, filename: str) -> None:
    """Raise ResolveError for a symbolic link that leads out of its prefix."""
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if not target or target.startswith("/") or inside.split("/")[0] == ".." or "\0" in target:
        raise bad(filename, path, "is a link that leads out of the environment")


def _check_path(path: str, filename: str) -> None:
    if not path or {"", ".", ".."} & {*path.split("/")} or {"\\", "\0"} & {*path}:
        raise bad(filename, path, "leaves the folder that it is unpacked to")


def _info(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> dict[str, bytes]:
    wanted = ("info/index.json", "info/paths.json", "info/link.json", "info/files",
              "info/has_prefix")
    found = {}
    for path in wanted:
        if path in members and members[path].isreg() and members[path].size <= _LARGEST_INFO:
            stream = tar.extractfile(members[path])
            found[path] = stream.read() if stream else b""
    return found


def _mapping(info: dict[str, bytes], path: str, filename: str) -> dict[str, Any]:
    if path not in info:
        raise bad(filename, path, "is missing")
    value = json.loads(info[path])
    if not isinstance(value, dict):
        raise bad(filename, path, "is no JSON object")
    return value


def _paths(info: dict[str, bytes], filename: str) -> tuple[PathEntry, ...]:
    if "info/paths.json" not in info:
        return _old_paths(info, filename)
    found: dict[str, PathEntry] = {}
    for item in _mapping(info, "info/paths.json", filename)["paths"]:
        path, size = item["_path"], item.get("size_in_bytes")
        _check_path(path, filename)
        kind, mode = item.get("path_type", "hardlink"), item.get("file_mode")
        if kind not in _KINDS or path in found or mode not in (None, "text", "binary") \
                or not (size is None or (type(size) is int and 0 <= size <= LARGEST_PACKAGE)):
            raise bad(filename, path, "is not listed rightly in info/paths.json")
        sha256 = item.get("sha256") or ""
        if kind == "softlink":  # of what it points to
            sha256, size = "", None
        found[path] = PathEntry(
            path=path, kind=kind, is_binary=mode == "binary", size=size,
            placeholder=str(item.get("prefix_placeholder") or "") if mode else "",
            sha256=str(Digest(sha256).hex) if sha256 else "")
    return tuple(sorted(found.values(), key=lambda entry: entry.path))


def _old_paths(info: dict[str, bytes], filename: str) -> tuple[PathEntry, ...]:
    """Packages older than info/paths.json: info/files and info/has_prefix."""
    if "info/files" not in info:
        raise bad(filename, "info/paths.json", "is missing")
    prefixes: dict[str, tuple[str, bool]] = {}
    for line in info.get("info/has_prefix", b"").decode().splitlines():
        words = [word.strip("\"'") for word in line.split()]
        if len(words) == 3:
            prefixes[words[2]] = (words[0], words[1] == "binary")
        elif len(words) == 1:
            prefixes[words[0]] = ("/opt/anaconda1anaconda2anaconda3", False)
    found = {}
    for path in filter(None, (line.strip() for line in info["info/files"].decode().splitlines())):
        _check_path(path, filename)
        placeholder, is_binary = prefixes.get(path, ("", False))
        found[path] = PathEntry(path=path, kind="hardlink", placeholder=placeholder,
                                is_binary=is_binary)
    return tuple(found[path] for path in sorted(found))


def _entry_points(info: dict[str, bytes], filename: str) -> tuple[EntryPoint, ...]:
    if "info/link.json" not in info:
        return ()
    noarch = _mapping(info, "info/link.json", filename).get("noarch") or {}
    found = []
    for text in noarch.get("entry_points") or ():
        match = _ENTRY_POINT.fullmatch(text)
        if match is None or match["name"] in (".", ".."):
            raise bad(filename, "info/link.json", f"has no valid entry point: {text[:80]!r}")
        found.append(EntryPoint(name=match["name"], module=match["module"],
                                attribute=match["attr"]))
    return tuple(sorted(found, key=lambda item: item.name))


def bad(filename: str, entry: str, reason: str) -> ResolveError:
    return ResolveError(
        f"refused: {entry!r} {reason}" if entry else f"refused: {reason}",
        where=f"{filename}, entry {entry}" if entry else filename,
        fix="do not use this file; pin another version of the package",
    )

"""Shared libraries -> /etc/ld.so.cache, as `ldconfig` makes it without being run.

The loader finds what is in the system's own folders without it. `ctypes.util.find_library` does
not, nor does the loader in a folder that a package adds in /etc/ld.so.conf.d.
Source: glibc, sysdeps/generic/dl-cache.h and elf/cache.c (the format of 2.2 and later), ld.so(8),
elf(5).
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping

from toolchain.layer.alternatives import Files, inside
from toolchain.layer.archive import Entry
from toolchain.values import dataclass

PATH = "etc/ld.so.cache"
_CONF = "etc/ld.so.conf"
_MAGIC, _OLD_MAGIC = b"glibc-ld.so.cache1.1", b"ld.so-1.7.0\0"
_HEADER = struct.Struct("<20sIIB3xI12x")  # magic, libraries, bytes of texts, flags, extension
_LITTLE_ENDIAN = 2
_ENTRY = struct.Struct("<iIIIQ")  # flags, name, path, a version that is not used, hwcap
# Debian's name of an architecture -> its own for folders, ELF's machine, what the cache calls it.
_MACHINES = {"amd64": ("x86_64-linux-gnu", 62, 0x0303), "arm64": ("aarch64-linux-gnu", 183, 0x0A03)}
_MOST_PROGRAM_HEADERS = 1000
_LOAD, _DYNAMIC = 1, 2  # p_type
_STRTAB, _SONAME = 5, 14  # d_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What is asked for, the file that it is, and its kind as the cache has it."""

    name: str
    path: str
    flags: int


def find(entries: Mapping[str, Entry], architecture: str) -> tuple[Library, ...]:
    """The libraries among the files of an image, or of a layer on top of one. `architecture` is
    Debian's name for it."""
    triplet, machine, flags = _MACHINES[architecture]
    files = Files(entries.values(), is_all=False)
    below: dict[str, list[str]] = {}
    for path in entries:
        folder, _, name = path.rpartition("/")
        if fnmatch.fnmatchcase(name, "lib*.so*") or fnmatch.fnmatchcase(name, "ld-*.so*"):
            below.setdefault(folder, []).append(name)
    found: dict[tuple[str, str], Library] = {}
    for folder in _folders(entries, triplet):
        names = below.pop(files.followed(inside(folder)), [])
        for name in sorted(names):
            path = f"{inside(folder)}/{name}"
            real = entries.get(files.followed(path))
            if real is not None and real.kind == tarfile.LNKTYPE:
                real = entries.get(real.link)
            soname = _soname(real.data, machine) if real is not None else None
            if soname is None:
                continue
            known = [soname or name] if (soname or name) in names else []
            if entries[path] is not real and name.endswith(".so") and soname.startswith(name):
                known.append(name)  # the link that is for linkers
            for each in known:
                found.setdefault((folder, each), Library(
                    name=each, path=f"{folder}/{each}", flags=flags))
    return tuple(found.values())


def _folders(entries: Mapping[str, Entry], triplet: str) -> Iterator[str]:
    """Where libraries are looked for, in that order."""
    if _CONF in entries:
        yield from _configured(entries, _CONF, frozenset())
    else:  # a layer on top of an image that has it
        yield from ("/usr/local/lib", f"/usr/local/lib/{triplet}")
        for path in _matching(entries, f"{_CONF}.d/*.conf"):
            yield from _configured(entries, path, frozenset())
    yield from (f"/lib/{triplet}", f"/usr/lib/{triplet}", "/lib", "/usr/lib")


def _configured(entries: Mapping[str, Entry], path: str, above: frozenset[str]) -> Iterator[str]:
    """The folders that a file of ld.so.conf's kind names. One that includes itself ends there."""
    for line in entries[path].data.decode("utf-8", "replace").splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for other in _matching(entries, posixpath.join("/etc", pattern).lstrip("/")):
                    if other not in above | {path}:
                        yield from _configured(entries, other, above | {path})
        elif words[:1] != ["hwcap"]:
            for word in filter(None, re.split("[:,]", " ".join(words))):
                yield posixpath.normpath(word.strip().partition("=")[0])


def _matching(entries: Mapping[str, Entry], pattern: str) -> list[str]:
    return sorted(path for path in entries if fnmatch.fnmatchcase(path, pattern)
                  and path.count("/") == pattern.count("/"))


def _soname(data: bytes, machine: int) -> str | None:
    """What a library is called by those that are linked with it, empty if it does not say; None
    for what is no shared library of that machine."""
    try:
        if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            return None
        kind, this = struct.unpack_from("<HH", data, 16)
        (offset,), (size, count) = (struct.unpack_from("<Q", data, 32),
                                    struct.unpack_from("<HH", data, 54))
        if kind != 3 or this != machine or count > _MOST_PROGRAM_HEADERS:  # ET_DYN
            return None
        headers = [struct.unpack_from("<IIQQQQ", data, offset + size * number)
                   for number in range(count)]
        # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz
        start, length = next((header[2], header[5]) for header in headers if header[0] == _DYNAMIC)
        tags = dict(reversed([*struct.iter_unpack("<qQ", data[start:start + length // 16 * 16])]))
        if _SONAME not in tags:
            return ""
        place = next(header[2] + tags[_STRTAB] - header[3] for header in headers
                     if header[0] == _LOAD and 0 <= tags[_STRTAB] - header[3] < header[5])
        begin = place + tags[_SONAME]
        return data[begin:data.index(b"\0", begin)].decode("ascii")
    except (struct.error, StopIteration, KeyError, ValueError, OverflowError):
        return None


def cache(libraries: Iterable[Library]) -> bytes:
    """The file. Of two libraries of one name the first is found."""
    # The loader looks for a name by halves, in this order.
    ordered = sorted(libraries, key=lambda item: (_order(item.name), item.flags), reverse=True)
    texts, rows = bytearray(), []
    places: dict[bytes, int] = {}
    first = _HEADER.size + _ENTRY.size * len(ordered)
    for item in ordered:
        path, name = (text.encode("utf-8", "surrogateescape") for text in (item.path, item.name))
        if path not in places:
            places[path] = first + len(texts)
            texts += path + b"\0"
        if path.endswith(b"/" + name):  # the end of one text is another
            places[name] = places[path] + len(path) - len(name)
        elif name not in places:
            places[name] = first + len(texts)
            texts += name + b"\0"
        rows.append(_ENTRY.pack(item.flags, places[name], places[path], 0, 0))
    return b"".join((_HEADER.pack(_MAGIC, len(rows), len(texts), _LITTLE_ENDIAN, 0), *rows, texts))


def read(data: bytes) -> tuple[Library, ...]:
    """What a cache names, in its order, but for those of some processors alone. Raises ValueError
    for what is no cache."""
    try:
        if data.startswith(_OLD_MAGIC):  # before glibc 2.32 the one in front of the other
            (count,) = struct.unpack_from("<I", data, 12)
            data = data[-(-(16 + 12 * count) // 8) * 8:]
        magic, count, _, _, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("it is no ld.so.cache")
        rows = [_ENTRY.unpack_from(data, _HEADER.size + _ENTRY.size * number)
                for number in range(count)]
    except struct.error as error:
        raise ValueError(str(error)) from None
    return tuple(Library(name=_text(data, name), path=_text(data, path), flags=flags)
                 for flags, name, path, _, hwcap in rows if not hwcap)


def _text(data: bytes, place: int) -> str:
    return data[place:data.index(b"\0", place)].decode("utf-8", "surrogateescape")


def to_json(libraries: Iterable[Library]) -> dict[str, str]:
    """Kind and folder -> names. What is never found is left out, for there is another of its name;
    so is one whose file is called otherwise."""
    found: dict[str, list[str]] = {}
    seen: set[tuple[str, int]] = set()
    for item in libraries:
        folder, _, file = item.path.rpartition("/")
        if file == item.name and " " not in file and (file, item.flags) not in seen:
            seen.add((file, item.flags))
            found.setdefault(f"{item.flags:04x} {folder}", []).append(file)
    return {place: " ".join(names) for place, names in found.items()}


def from_json(value: Mapping[str, str]) -> tuple[Library, ...]:
    """Raises ValueError."""
    found = []
    for place, names in value.items():
        flags, _, folder = place.partition(" ")
        found += [Library(name=name, path=f"{folder}/{name}", flags=int(flags, 16))
                  for name in names.split(" ")]
    return tuple(found)


def _order(name: str) -> list[tuple[int, int]]:
    """glibc's _dl_cache_libcmp: numbers by value, and after all else."""
    return [(1, int(part)) if part.isdigit() else (0, ord(part))
            for part in re.findall("[0-9]+|[^0-9]", name, re.DOTALL)]

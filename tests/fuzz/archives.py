"""`python -m tests.fuzz.archives --runs 1000000`: wheels, .deb, layers and conda packages.

Archives that are nearly right: made of odd members, then damaged. Only a ToolchainError may come
out, no entry may lead out of its folder, and no file may be larger than its archive declares.
Nothing is written to a disk but by the reader that does so itself, layers; give it a TMPDIR in
memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from tests.fuzz.mutation import main
from toolchain.adapters.folder import Folder
from toolchain.adapters.unpacked import UnpackedLayers
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import GZIP, PREFIX, ZSTD, Layer, conda, deb, wheel
from toolchain.layer.archive import Entry, Sink, plain
from toolchain.layer.gunzip import Gunzip
from toolchain.lock.conda import CondaPackage
from toolchain.trace import Trace

_GOOD = ("lib/a", "lib/b", "lib", "lib/a/b", "bin/x", "bin", "site-packages/a.py",
         "python-scripts/s", "usr/lib/x", "usr/share/doc/a/copyright", "usr/share/man/x",
         "a/b/c/d", "opt", "etc/passwd", "a.dist-info/x", "a-1.data/scripts/s",
         "a-1.data/purelib/m.py")
_BAD = (
    "a-1.data/", "a-1.data/odd/x", "../x", "/x", "a/../../x", "..", "", ".", "./", "a//b", "a/./b",
    "conda-meta/x.json", "info/index.json", "info/paths.json", "é", "a\\b", "x" * 300, ".wh.a",
    ".wh..wh..opq", "\udc80")
_KINDS = (*(tarfile.REGTYPE,) * 6, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
          tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"9", tarfile.CONTTYPE)
_LINKS = ("a", "lib/a", "../lib/a", "/etc/passwd", "../../..", "", ".", "usr/lib/x", "bin")
_SCALARS: tuple[Any, ...] = (
    None, True, 0, -2, 3, 1 << 70, "", "a", "text", "binary", "softlink", "directory", "hardlink",
    [], {}, [1], {"a": 1}, 0.5)
_ENTRY_POINTS = ("x = a:b", "x=a", "../x = a:b", "x = a:b [c]", "=", "x = a:b\n[gui_scripts]\n",
                 "", "[", "/ = a:b", ".. = a:b", "é = a:b")
_METADATA = ("Wheel-Version: 1.0\n", "Root-Is-Purelib: true\n", "Wheel-Version: 9.9\n", "Tag: x\n",
             "Root-Is-Purelib: perhaps\n", ":", "\n\n", "é", "\udc80", "Name: a\n", "Version: 1\n")
_CONTROL = ("Package: a\n", "Version: 1\n", "Architecture: all\n", " more\n", "\n", ":", "é")
_MOST = 1 << 22  # bytes that any of these may come to


class Memory:
    """A toolchain.layer.archive.Sink that keeps nothing, and checks what it is given."""

    def add(self, entry: Entry) -> None:
        _check(entry.path)
        if entry.kind == tarfile.SYMTYPE:
            assert "\0" not in entry.link

    def add_stream(self, entry: Entry, stream: BinaryIO, size: int) -> Digest:
        _check(entry.path)
        data = stream.read(size + 1)
        assert len(data) <= _MOST
        if len(data) != size:
            raise ResolveError("refused: has not the size that it declares", where=entry.path,
                               fix="do not use this file")
        return Digest.of(data)


def _check(path: str) -> None:
    parts = path.split("/")
    assert path.startswith(f"{PREFIX}/"), path
    assert not {"", ".", ".."} & {*parts}, path
    assert "\0" not in path


def _name(chance: random.Random) -> str:
    return chance.choice(_GOOD if chance.random() < 0.85 else _BAD)


def _data(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 7, 40, 600))) if chance.random() < 0.5 else (
        b"#!/usr/bin/python\n/opt/placeholder/x\0\n")


def _tar(chance: random.Random, first: dict[str, bytes]) -> bytes:
    """A tar with these files, and with odd members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=chance.choice((0, 1, 2)),
                      errors="surrogateescape") as archive:
        members = [(name, tarfile.REGTYPE, "", data) for name, data in first.items()]
        for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
            kind = chance.choice(_KINDS)
            data = _data(chance) if kind in (tarfile.REGTYPE, b"9", tarfile.CONTTYPE) else b""
            members.append((_name(chance), kind, chance.choice(_LINKS), data))
        for name, kind, link, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            member.mode = chance.choice((0o644, 0o755, 0o4755, 0, 0o7777))
            try:
                archive.addfile(member, io.BytesIO(data))
            except (ValueError, UnicodeError):
                continue  # no tar of that format holds it
    return stream.getvalue()


def _zip(chance: random.Random, files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            item = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            item.external_attr = (0o100644 if chance.random() < 0.9 else chance.choice(
            (0, 0o100755, 0o120777, 0o040755))) << 16
            item.compress_type = chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED,
                                                zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
            archive.writestr(item, data)
    return stream.getvalue()


def _damaged(chance: random.Random, data: bytes) -> bytes:
    """The same bytes nine times in ten; else with a few that are others, or cut."""
    if chance.random() < 0.9 or not data:
        return data
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(found))
        found[place] = chance.choice((0, 1, 0x7f, 0xff, chance.getrandbits(8)))
    if chance.random() < 0.2:
        del found[chance.randrange(len(found)):]
    return bytes(found)


def _text(chance: random.Random, words: tuple[str, ...]) -> bytes:
    return "".join(chance.choices(words, k=chance.randrange(6))).encode("utf-8", "surrogateescape")


def attempt_wheel(chance: random.Random) -> None:
    info = chance.choice(("a-1.dist-info",) * 9 + ("b-1.dist-info", "a-2.dist-info"))
    files = {_name(chance): _data(chance) for _ in range(chance.choice((0, 1, 2, 4)))}
    metadata = {"METADATA": b"Metadata-Version: 2.1\nName: a\nVersion: 1\n",
                "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    if chance.random() < 0.3:
        metadata[chance.choice(("METADATA", "WHEEL"))] = _text(chance, _METADATA)
    if chance.random() < 0.3:
        metadata["entry_points.txt"] = b"[console_scripts]\n" + chance.choice(
            _ENTRY_POINTS).encode()
    record = "".join(f"{name},,\n" for name in (*files, *(f"{info}/{n}" for n in metadata)))
    files |= {f"{info}/{name}": data for name, data in metadata.items()}
    files[f"{info}/RECORD"] = _damaged(chance, record.encode("utf-8", "replace"))
    if chance.random() < 0.03:
        del files[chance.choice(list(files))]
    data = _damaged(chance, _zip(chance, files))
    wheel.write(wheel.Wheel(digest=Digest.of(data), filename="a-1-py3-none-any.whl"),
                io.BytesIO(data), "3.11", Memory())


def attempt_deb(chance: random.Random) -> None:
    control = b"Package: a\nVersion: 1\n" if chance.random() < 0.7 else _text(chance, _CONTROL)
    press = chance.choice((("gz", lambda data: gzip.compress(data, 1)), ("", bytes),
                           ("xz", lambda data: lzma.compress(data, preset=0)),
                           ("bz2", lambda data: bz2.compress(data, 1))))
    parts = [("debian-binary", b"2.0\n")]
    for name, first in (("control", {"./control": control}), ("data", {})):
        inner = _damaged(chance, _tar(chance, first))
        parts.append((f"{name}.tar{'.' if press[0] else ''}{press[0]}",
                      _damaged(chance, press[1](inner))))
    if chance.random() < 0.1:
        parts.pop(chance.randrange(len(parts)))
    data = b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode() + part
        + b"\n" * (len(part) % 2) for name, part in parts)
    for entry in deb.unpack("a_1_all.deb", io.BytesIO(_damaged(chance, data))).entries:
        assert not {"", ".", ".."} & {*entry.path.split("/")}, entry.path
        assert len(entry.data) <= _MOST


def attempt_layer(chance: random.Random) -> None:
    """Every way in which a layer's blob is read: as a tar, and into a folder."""
    inner = _damaged(chance, _tar(chance, {}))
    kind = chance.choice((GZIP, ZSTD, GZIP.removesuffix("+gzip")))
    packed = (gzip.compress(inner, 1) if kind == GZIP else
              zstandard.ZstdCompressor(level=1).compress(inner) if kind == ZSTD else inner)
    packed = _damaged(chance, packed)
    if kind == GZIP:
        unpacked = cast("BinaryIO", Gunzip(io.BytesIO(packed)))
        stream = plain(unpacked, GZIP.removesuffix("+gzip"), _MOST)
        while stream.read(1 << 16):
            pass
    layer = Layer(digest=Digest.of(packed), diff_id=Digest.of(inner), size=len(packed),
                  media_type=kind, label="layer")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "deep", "layer")
        folder.mkdir(parents=True)
        layers = UnpackedLayers(folder.parent, lambda *_: iter((packed,)), cast(Trace, None))
        try:
            layers._write(layer, folder)
        finally:
            outside = {path.name for path in Path(scratch).iterdir()} - {"deep"}
            assert not outside, outside
            assert [path.name for path in folder.parent.iterdir()] == ["layer"]


def _odd(chance: random.Random, usual: Any) -> Any:
    return usual if chance.random() < 0.96 else chance.choice(_SCALARS)


def _paths(chance: random.Random, files: dict[str, bytes]) -> Any:
    listed = [{"_path": _odd(chance, name), **({} if chance.random() < 0.3 else {
        "path_type": _odd(chance, "hardlink"), "size_in_bytes": _odd(chance, len(data)),
        "sha256": _odd(chance, Digest.of(data).hex)}), **({} if chance.random() < 0.6 else {
            "prefix_placeholder": _odd(chance, "/opt/placeholder"),
            "file_mode": _odd(chance, chance.choice(("text", "binary")))})}
        for name, data in files.items()]
    return {"paths": _odd(chance, [*listed, *([_odd(chance, {"_path": _name(chance)})]
                                              if chance.random() < 0.2 else [])])}


def conda_package(chance: random.Random, *, new: bool) -> bytes:
    """The bytes of a package: .conda if it is `new`, else .tar.bz2."""
    files = {name: _data(chance) for name in chance.sample(
        _GOOD, chance.choice((0, 1, 2, 3)))}
    info = {"index": _odd(chance, {"name": "a", "version": "1", "build": "0",
                                   "noarch": chance.choice((None, "python", "generic", 3))}),
            "paths": _odd(chance, _paths(chance, files)),
            "link": _odd(chance, {"noarch": {"entry_points": [chance.choice(_ENTRY_POINTS)]}})}
    if chance.random() < 0.2:
        del info[chance.choice(list(info))]
    told = {f"info/{name}.json": json.dumps(value).encode() for name, value in info.items()}
    if "paths" not in info and chance.random() < 0.5:
        told["info/files"] = "\n".join(files).encode()
        told["info/has_prefix"] = b"/opt/placeholder text lib/a\n'"
    if not new:
        return bz2.compress(_damaged(chance, _tar(chance, {**told, **files})), 1)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for part, content in (("pkg", files), ("info", told)):
            inner = _damaged(chance, _tar(chance, content))
            made.writestr(f"{part}-a-1-0.tar.zst",
                          _damaged(chance, zstandard.ZstdCompressor(level=1).compress(inner)))
    return stream.getvalue()


def attempt_conda(chance: random.Random) -> None:
    """Install a package into memory; now and then below a folder."""
    if chance.random() > 0.02:
        return _install(chance, Memory())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root", "deep", "deeper")
        try:
            return _install(chance, Folder(root))
        finally:
            outside = [path for path in Path(scratch).rglob("*")
                       if root not in path.parents and path not in (root, *root.parents)]
            assert not outside, outside


def _install(chance: random.Random, sink: Sink) -> None:
    new = chance.random() < 0.5
    data = _damaged(chance, conda_package(chance, new=new))
    name = f"a-1-0.{'conda' if new else 'tar.bz2'}"
    package = CondaPackage(name="a", version="1", build="0", channel="c", subdir="noarch",
                           file=name, size=len(data), sha256=Digest.of(data))
    conda.distributions(io.BytesIO(data), name)
    conda.write(package, io.BytesIO(data), sink, conda.Place(prefix="/opt/venv", python="3.11"))


_ATTEMPTS: tuple[Callable[[random.Random], None], ...] = (
    attempt_wheel, attempt_deb, attempt_layer, attempt_conda)


def attempt(chance: random.Random) -> None:
    """One archive of one kind."""
    chance.choice(_ATTEMPTS)(chance)


if __name__ == "__main__":
    main(attempt)

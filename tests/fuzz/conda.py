"""Feed the reader of conda archives with packages that are nearly right.

`python -m tests.fuzz.conda [NUMBER]`: so many inputs (10,000). Nothing but a ResolveError may come
out, nothing may be written outside, and no file may be larger than its package declares.
"""

from __future__ import annotations

import bz2
import io
import json
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from toolchain.adapters.folder import Folder
from toolchain.digest import Digest
from toolchain.errors import ToolchainError
from toolchain.layer import conda
from toolchain.lock.conda import CondaPackage

_PLACE = conda.Place(prefix="/opt/venv", python="3.11")
_NAMES = st.sampled_from([
    "lib/a", "lib/b", "lib", "bin/x", "site-packages/a.py", "python-scripts/s", "../x", "/x",
    "a/../../x", "", ".", "conda-meta/x.json", "info/index.json", "info/paths.json",
    "lib/a/b", "é", "a\\b", "a\0b", "x" * 300]) | st.text(max_size=12)
_KINDS = st.sampled_from([tarfile.REGTYPE] * 4 + [
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"9"])
_LINKS = st.sampled_from(["a", "lib/a", "../lib/a", "/etc/passwd", "../../..", "", "."])
_MEMBERS = st.lists(st.tuples(_NAMES, _KINDS, _LINKS, st.binary(max_size=40)), max_size=6)
_SCALARS = (st.none() | st.booleans() | st.integers(-2, 50) | st.text(max_size=6)
            | st.sampled_from(["text", "binary", "softlink", "directory", "hardlink", "a"]))
_ENTRY = st.fixed_dictionaries({"_path": _NAMES | _SCALARS}, optional={
    "path_type": st.sampled_from(["hardlink", "softlink", "directory"]) | _SCALARS,
    "sha256": _SCALARS, "size_in_bytes": st.integers(0, 40) | _SCALARS,
    "prefix_placeholder": st.sampled_from(["a", "", "/opt/placeholder"]) | _SCALARS,
    "file_mode": st.sampled_from(["text", "binary"]) | _SCALARS})
_JSON = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3)
                     | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)
_PATHS = st.fixed_dictionaries({"paths": st.lists(_ENTRY, max_size=6)}) | _JSON | st.none()
_INDEX = st.fixed_dictionaries(
    {"name": st.just("a"), "version": st.just("1"), "build": st.just("0")},
    optional={"noarch": st.sampled_from(["python", "generic", True, 3])}) | _JSON
_LINK = st.fixed_dictionaries({"noarch": st.fixed_dictionaries(
    {"entry_points": st.lists(st.sampled_from(["x = a:b", "x=a", "../x = a:b"])
                              | st.text(max_size=9), max_size=3) | _JSON})}) | _JSON
_DAMAGE = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3)


def _tar(members: list[tuple[str, bytes, str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, link, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = len(data) if kind in (tarfile.REGTYPE, b"9") else 0
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def archive(members: list[tuple[str, bytes, str, bytes]], index: Any, paths: Any, link: Any,
            damage: list[tuple[int, int]], *, new: bool) -> bytes:
    """The bytes of a package; each of `damage` is a byte that is written over."""
    info = [(f"info/{name}.json", tarfile.REGTYPE, "", json.dumps(value).encode())
            for name, value in (("index", index), ("paths", paths), ("link", link))
            if value is not None]
    if new:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as made:
            for part, content in (("pkg", members), ("info", info)):
                made.writestr(f"{part}-a-1-0.tar.zst",
                              zstandard.ZstdCompressor(level=1).compress(_tar(content)))
        data = bytearray(stream.getvalue())
    else:
        data = bytearray(_tar([*info, *members]))
        for place, value in damage:  # within, where a checksum of bzip2 does not see it
            data[place % len(data)] = value
        return bz2.compress(bytes(data), 1)
    for place, value in damage:
        data[place % len(data)] = value
    return bytes(data)


def check(data: bytes, folder: Path, *, new: bool) -> bool:
    """Install what it is; whether it was taken. Raises AssertionError for what must not be."""
    name = f"a-1-0.{'conda' if new else 'tar.bz2'}"
    package = CondaPackage(name="a", version="1", build="0", channel="c", subdir="noarch",
                           file=name, size=len(data), sha256=Digest.of(data))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        root = Path(scratch, "root", "deep", "deeper")
        error: ToolchainError | None = None
        try:
            conda.distributions(io.BytesIO(data), name)
            conda.write(package, io.BytesIO(data), Folder(root), _PLACE)
        except ToolchainError as found:
            error = found
        assert error is None or (error.where and error.fix)
        outside = [path for path in Path(scratch).rglob("*")
                   if root not in path.parents and path not in (root, *root.parents)]
        assert not outside, outside
    return error is None


def main(number: int) -> None:
    counts = {True: 0, False: 0}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        @settings(max_examples=number, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))
        @given(_MEMBERS, _INDEX, _PATHS, _LINK | st.none(), _DAMAGE, st.booleans())
        def run(members: list[tuple[str, bytes, str, bytes]], index: Any, paths: Any, link: Any,
                damage: list[tuple[int, int]], new: bool) -> None:
            try:
                data = archive(members, index, paths, link, damage, new=new)
            except (ValueError, UnicodeError, tarfile.TarError):
                return  # no tar can hold it
            counts[check(data, Path(name), new=new)] += 1

        run()
    print(f"{counts[True]} taken, {counts[False]} refused, "
          f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)

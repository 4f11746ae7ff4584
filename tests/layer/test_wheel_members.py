"""A large file of a wheel is in the layer as the wheel compressed it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import Layer
from toolchain.layer.archive import LayerWriter
from toolchain.layer.compression import LIBDEFLATE, Compression, compression
from toolchain.layer.wheel import Wheel, write
from toolchain.store import Store

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
Build = Callable[..., Layer]
_LARGE = bytes(random.Random(1).choices(b"abcdefgh", k=300_000))
_SMALL = _LARGE[:60_000]
_SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.fixture
def build(store: Store, pool: ThreadPoolExecutor) -> Build:
    def build(path: Path, compression: Compression = LIBDEFLATE) -> Layer:
        with (LayerWriter(store, "wheels", pool, compression) as writer,
              open(path, "rb") as stream):
            write(Wheel(digest=Digest.of(path.read_bytes()), filename=path.name), stream, "3.11",
                  writer)
        assert writer.layer is not None
        return writer.layer

    return build


def _large(folder: Path, last: bytes = b"") -> tuple[Path, bytes]:
    """A wheel with a large file, and its deflate stream there, followed by `last`."""
    path = wheel(folder, "alpha", files={
        "alpha.py": b"", "a.bin": _LARGE, "b.bin": _SMALL, "c.bin": _LARGE[::-1]})
    with zipfile.ZipFile(path) as archive:
        entries = [(item.filename, archive.read(item)) for item in archive.infolist()]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(_LARGE) + packer.flush()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            if name != "a.bin":
                archive.writestr(name, data, zipfile.ZIP_DEFLATED)
                continue
            archive.writestr(name, packed + last, zipfile.ZIP_STORED)
            item = archive.getinfo(name)  # the central directory is written at the end
            item.compress_type = zipfile.ZIP_DEFLATED
            item.file_size, item.CRC = len(data), zlib.crc32(data)
    return path, packed


def test_its_bytes_are_those_of_the_wheel(
    build: Build, store: Store, members: Members, tmp_path: Path
) -> None:
    path, packed = _large(tmp_path)
    layer = build(path)
    blob = store.read(layer.digest)
    assert packed in blob
    # What is small is compressed with its neighbours.
    small = zlib.compress(_SMALL, 9)[2:-4]
    assert small not in blob
    tar = subprocess.run(["gzip", "-dc"], input=blob, capture_output=True, check=True).stdout
    assert layer.diff_id.hex == hashlib.sha256(tar).hexdigest()
    found = {name: data for name, (_, data) in members(layer).items()}
    assert found[f"{_SITE}/a.bin"] == _LARGE
    assert found[f"{_SITE}/b.bin"] == _SMALL
    assert found[f"{_SITE}/c.bin"] == _LARGE[::-1]


def test_zstd_layers_hold_no_gzip(build: Build, members: Members, tmp_path: Path) -> None:
    path, _ = _large(tmp_path)
    layer = build(path, compression("zstd"))
    assert members(layer)[f"{_SITE}/a.bin"][1] == _LARGE
    assert layer.diff_id == build(path).diff_id


@pytest.mark.parametrize("last", [
    b"x",
    # What ends a gzip member, and nothing more.
    zlib.crc32(_LARGE).to_bytes(4, "little") + len(_LARGE).to_bytes(4, "little"),
    # What would end a gzip member, and another member after it: more than the tar has.
    zlib.crc32(_LARGE).to_bytes(4, "little") + len(_LARGE).to_bytes(4, "little")
    + b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x03\0",
], ids=["byte", "trailer", "member"])
def test_what_follows_the_stream_stays_out(
    build: Build, store: Store, tmp_path: Path, last: bytes
) -> None:
    path, packed = _large(tmp_path, last)
    layer = build(path)
    blob = store.read(layer.digest)
    assert packed not in blob
    tar = subprocess.run(["gzip", "-dc"], input=blob, capture_output=True, check=True).stdout
    assert layer.diff_id.hex == hashlib.sha256(tar).hexdigest()
    clean = tmp_path / "clean"
    assert layer.diff_id == build(_large(clean)[0]).diff_id


@pytest.mark.parametrize("change", [
    lambda data: data[:1000] + b"\0\0\0\0" + data[1004:], lambda data: data[:-9]],
    ids=["changed", "short"])
def test_a_damaged_large_file_is_refused(
    build: Build, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path, packed = _large(tmp_path)
    data = path.read_bytes()
    changed = change(packed).ljust(len(packed), b"\xff")
    path.write_bytes(data.replace(packed, changed))
    with pytest.raises(ResolveError, match=r"a\.bin.*damaged"):
        build(path)

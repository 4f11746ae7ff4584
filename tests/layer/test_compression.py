"""gzip or zstd: the same tar, pieces that all cores press, and nothing unpacks without bounds."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from toolchain.errors import ConfigError, StoreError
from toolchain.layer import GZIP, ZSTD, Layer
from toolchain.layer.archive import Entry, LayerWriter, opened
from toolchain.layer.compression import compression
from toolchain.store import Store

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
_MIB = 1 << 20
_TEXT = b"".join(b"line %d\n" % number for number in range(900_000))


def _write(store: Store, how: str, threads: int = 2) -> Layer:
    with ThreadPoolExecutor(threads) as pool, \
            LayerWriter(store, "a label", pool, compression(how)) as writer:
        writer.add(Entry(path="a/text", mode=0o644, data=_TEXT))
        writer.add(Entry(path="a/link", mode=0o777, kind=tarfile.SYMTYPE, link="text"))
        writer.add(Entry(path="b", mode=0o755, data=b"end"))
    assert writer.layer is not None
    return writer.layer


def test_both_hold_the_same_tar_and_say_what_they_are(store: Store, members: Members) -> None:
    first, second = _write(store, "gzip"), _write(store, "zstd")
    assert (first.media_type, second.media_type) == (GZIP, ZSTD)
    assert first.diff_id == second.diff_id
    assert second.size < first.size
    assert members(second)["a/text"][1] == _TEXT


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_zstd_layers(store: Store, threads: int) -> None:
    assert _write(store, "zstd", threads) == _write(store, "zstd")


def test_a_zstd_layer_is_a_frame_for_every_four_mebibytes(store: Store) -> None:
    rest, sizes = store.read(_write(store, "zstd").digest), []
    while rest:
        frame = zstandard.ZstdDecompressor().decompressobj()
        sizes.append(len(frame.decompress(rest)))
        rest = frame.unused_data
    assert len(sizes) >= 2
    assert set(sizes[:-1]) == {4 * _MIB}


def test_the_tar_program_unpacks_zstd(store: Store, tmp_path: Path) -> None:
    layer = _write(store, "zstd")
    done = subprocess.run(["tar", "--extract", "--zstd", "--file", store.path(layer.digest),
                           "--directory", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a/link").read_bytes() == _TEXT


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_layer_is_opened_by_its_media_type(store: Store, how: str) -> None:
    layer = _write(store, how)
    with store.open(layer.digest) as stream, opened(stream, layer.media_type) as archive:
        found = {}
        for member in archive:
            data = archive.extractfile(member) if member.isreg() else None
            found[member.name] = data.read() if data else b""
    assert found == {"a": b"", "a/text": _TEXT, "a/link": b"", "b": b"end"}


def _read(blob: bytes, media_type: str, most: int = 1 << 40) -> None:
    with opened(io.BytesIO(blob), media_type, most) as archive:
        for member in archive:
            if member.isreg():
                data = archive.extractfile(member)
                assert data is not None
                while data.read(_MIB):
                    pass


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_layer_that_unpacks_to_too_much_is_refused(store: Store, how: str) -> None:
    layer = _write(store, how)
    blob = store.read(layer.digest)
    _read(blob, layer.media_type, 16 * _MIB)
    with pytest.raises(StoreError, match="more than it may"):
        _read(blob, layer.media_type, 4 * _MIB)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "rubbish", "another format"])
def test_a_damaged_layer_is_refused(store: Store, how: str, harm: str) -> None:
    layer = _write(store, how)
    blob = bytearray(store.read(layer.digest))
    if harm == "cut":
        del blob[len(blob) // 2:]
    elif harm == "flipped":
        blob[len(blob) // 2] ^= 0xFF
    elif harm == "rubbish":
        blob[:] = b"rubbish " * 200
    else:
        blob[:] = gzip.compress(b"x" * 2000) if how == "zstd" else zstandard.compress(b"x" * 2000)
    with pytest.raises(StoreError, match="not a valid layer"):
        _read(bytes(blob), layer.media_type)


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(StoreError, match="not a layer"):
        _read(b"", "application/vnd.oci.image.config.v1+json")


def test_a_zstd_frame_cannot_ask_for_any_memory() -> None:
    """A window of 1 GiB, in a frame of a few bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = made.compress(bytes(10_000)) + made.flush()
    with pytest.raises(StoreError, match="not a valid layer"):
        _read(blob, ZSTD)


def test_an_unknown_compression_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'zst'.*did you mean 'zstd'") as caught:
        compression("zst")
    assert caught.value.where == "image.compression"
    assert "gzip or zstd" in caught.value.fix


def test_a_missing_zstandard_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="zstandard") as caught:
        compression("zstd")
    assert "pip install 'mlproject-toolchain[zstd]'" in caught.value.fix
    with pytest.raises(ConfigError, match="zstandard"):
        _read(b"", ZSTD)


def test_a_plan_names_the_library_whose_version_decides_the_bytes() -> None:
    version = ".".join(map(str, zstandard.ZSTD_VERSION))
    assert version in compression("zstd").identity
    assert compression("gzip").identity == "libdeflate-1"

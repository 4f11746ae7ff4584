"""Whatever gzip it is, the bytes are zlib's."""

from __future__ import annotations

import gzip
import io
import os
import zlib

import deflate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.layer.gunzip import Gunzip

_RANDOM = os.urandom(6 << 20)
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def _ours(data: bytes) -> bytes:
    return bytes(deflate.gzip_compress(data, 1))


def _read(blob: bytes, size: int = -1) -> bytes:
    stream, pieces = Gunzip(io.BytesIO(blob)), []
    while piece := stream.read(size):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("parts", [
    [_ours(b"")], [_ours(b"one")], [_ours(b"one"), _ours(b"two"), _ours(b"")],
    [_ours(_RANDOM[:4 << 20]), _ours(bytes(4 << 20)), _ours(b"rest")],
    [_ours(_RANDOM)],  # larger than a piece
    [gzip.compress(_RANDOM)], [gzip.compress(b"a", mtime=7), _ours(b"b"), gzip.compress(b"c")],
    [_ours(b"x" + _HEADER * 50 + _RANDOM[:99]), _ours(b"y")],
    [bytes(deflate.gzip_compress(_HEADER * 9 + _RANDOM[:999], 0)), _ours(b"stored")],
], ids=range(9))
@pytest.mark.parametrize("size", [-1, 1 << 18])
def test_the_bytes_are_zlibs(parts: list[bytes], size: int) -> None:
    blob = b"".join(parts)
    assert _read(blob, size) == gzip.decompress(blob)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3000), st.booleans()), max_size=6))
def test_any_mixture(parts: list[tuple[bytes, bool]]) -> None:
    blob = b"".join(_ours(data) if own else gzip.compress(data, mtime=5) for data, own in parts)
    assert _read(blob) == b"".join(data for data, _ in parts)


@pytest.mark.parametrize("blob", [
    b"not gzip at all", _ours(_RANDOM[:9999])[:-1], _ours(b"abc")[:12],
    _ours(b"abc") + b"rubbish after it", _ours(bytes(99))[:-8] + bytes(8),
    _ours(bytes(99))[:-8] + b"\1" + bytes(3) + (99).to_bytes(4, "little")])
def test_damage_is_noticed(blob: bytes) -> None:
    with pytest.raises((OSError, EOFError, zlib.error)):
        _read(blob)

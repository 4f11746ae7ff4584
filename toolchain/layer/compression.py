"""How a layer's tar becomes a blob: gzip or zstd, each pinned so that equal tars give equal blobs.

Rule: a compressor's `identity` is part of every plan, and names all that decides its output.
libdeflate's level 1 does not depend on the processor (docs/decisions/0002). libzstd's output is
the same on every processor too, but not in every version, so its version is part of the name.
"""

from __future__ import annotations

from collections.abc import Callable

from toolchain.errors import ConfigError, nearest
from toolchain.layer import GZIP, ZSTD
from toolchain.values import dataclass

_GZIP_LEVEL = 1
_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """`press` makes one piece of a tar a gzip member or zstd frame of its own. Both formats let
    such pieces follow one another (RFC 1952, 2.2; RFC 8878, 3.1)."""

    identity: str
    media_type: str
    press: Callable[[bytes | memoryview], bytes | bytearray]


def compression(name: str) -> Compression:
    """The compressor of the setting image.compression. Raises ConfigError."""
    if name == "gzip":
        return LIBDEFLATE
    if name == "zstd":
        return _zstandard()
    raise ConfigError(f"unknown compression {name!r}{nearest(name, ('gzip', 'zstd'))}",
                      where="image.compression", fix="gzip or zstd")


def _gzip(piece: bytes | memoryview) -> bytes | bytearray:
    import deflate

    return deflate.gzip_compress(piece, _GZIP_LEVEL)


LIBDEFLATE = Compression(identity=f"libdeflate-{_GZIP_LEVEL}", media_type=GZIP, press=_gzip)


def _zstandard() -> Compression:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ConfigError(
            "zstd layers need the package `zstandard`, which is not installed",
            where="image.compression",
            fix="pip install 'mlproject-toolchain[zstd]', or image.compression=gzip",
        ) from None
    version = ".".join(map(str, zstandard.ZSTD_VERSION))

    def press(piece: bytes | memoryview) -> bytes:
        # A compressor may not be shared by threads; making one costs little beside a piece.
        made = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
        return bytes(made.compress(piece))

    return Compression(identity=f"zstd-{version}-{_ZSTD_LEVEL}", media_type=ZSTD, press=press)

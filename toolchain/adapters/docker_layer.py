"""A layer in what `docker save` writes -> its tar: uncompressed while it is read, and hashed."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from toolchain.digest import Digest
from toolchain.errors import EngineError

_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Whole(Protocol):
    """The image that a layer is read out of."""

    def count(self, size: int) -> None:
        """So many bytes more were unpacked. Raises EngineError if that is too much."""

    def done(self, diff_id: Digest) -> None:
        """The layer was read to its end. Raises EngineError if it is none of the image's."""

    def bad(self, reason: str) -> EngineError:
        """The error for an archive that is not as it should be."""


class LayerStream:
    """One layer's uncompressed tar, to be read once. `diff_id` is known at its end, verified."""

    def __init__(self, image: Whole, file: IO[bytes], start: bytes,
                 claimed: Digest | None) -> None:
        self._image = image
        self._sha = hashlib.sha256()
        self._stored = hashlib.sha256()
        self._claimed = claimed
        self._pieces = self._uncompressed(file, start)
        self._rest = b""
        self._ended = False

    @property
    def diff_id(self) -> Digest:
        """The digest of the whole tar; there once all of it was read."""
        if not self._ended:
            raise ValueError("the layer was not read to its end yet")
        return Digest(self._sha.hexdigest())

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`, all that is left if it is negative; b"" at the end."""
        parts = []
        while size and not self._ended:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    self._end()
                    break
            part = self._rest if size < 0 else self._rest[:size]
            self._rest = self._rest[len(part):]
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def finish(self) -> None:
        """Read and check whatever is left."""
        while self.read(_CHUNK):
            pass

    def _end(self) -> None:
        stored = Digest(self._stored.hexdigest())
        if self._claimed is not None and stored != self._claimed:
            raise self._image.bad(f"has a file that is not what its name says: {self._claimed}")
        self._ended = True
        self._image.done(self.diff_id)

    def _uncompressed(self, file: IO[bytes], start: bytes) -> Iterator[bytes]:
        start = start or self._read(file, 512)
        if start.startswith(_ZSTD):
            raise self._image.bad("has layers compressed with zstd, which are not read from an "
                                   "engine")
        source = self._counted(file, start)
        for piece in _gunzip(source, self._image.bad) if start.startswith(_GZIP) else source:
            self._image.count(len(piece))
            self._sha.update(piece)
            yield piece

    def _counted(self, file: IO[bytes], start: bytes) -> Iterator[bytes]:
        piece = start
        while piece:
            self._stored.update(piece)
            yield piece
            piece = self._read(file, _CHUNK)

    def _read(self, file: IO[bytes], size: int) -> bytes:
        try:
            return file.read(size)
        except tarfile.TarError as error:  # here, as the reader is not within `layers`
            raise self._image.bad(f"is not an archive of an image: {error}") from None


def _gunzip(source: Iterator[bytes], bad: Callable[[str], EngineError]) -> Iterator[bytes]:
    """Members of gzip one after another (RFC 1952, 2.2), in pieces of bounded size."""
    engine = zlib.decompressobj(31)
    try:
        for piece in source:
            while piece:
                if engine.eof:
                    engine = zlib.decompressobj(31)
                found = engine.decompress(piece, _CHUNK)
                if found:
                    yield found
                piece = engine.unused_data if engine.eof else engine.unconsumed_tail
    except zlib.error as error:
        raise bad(f"has a damaged layer: {error}") from None
    if not engine.eof:
        raise bad("has a layer that is cut short")


def is_layer(start: bytes) -> bool:
    """Whether a blob begins as a layer does; what else there is are documents, in JSON."""
    return start.startswith((_GZIP, _ZSTD)) or start[257:262] == b"ustar"

"""A stream -> the same stream, hashed while it is read."""

from __future__ import annotations

import hashlib
import io
from typing import Protocol

from toolchain.digest import Digest

_PIECE = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class Hashed(io.RawIOBase):
    """`digest` and `size` are those of what was read up to now."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._sha = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size if size >= 0 else _PIECE) or b""
        self._sha.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what is left: a tar can go on behind its end."""
        while self.read(_PIECE):
            pass

    @property
    def digest(self) -> Digest:
        return Digest(self._sha.hexdigest())

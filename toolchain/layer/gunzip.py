"""A gzip blob -> its bytes, several times as fast as zlib where the blob is of our own making.

Our layers are gzip members, one for each 4 MiB or large file (toolchain.layer.archive), which
libdeflate unpacks whole. It does not tell where a member ends, so that is guessed from the next
one's header. The guess is right if no other header can be within and the sum in the trailer is that
of the data; everything else goes to zlib.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import IO, cast

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # deflate, no name, no time
_ANY_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")  # RFC 1952, 2.3.1
_LONGEST = 64 << 20  # bytes of a member, and of what is in it, that are held in memory
_PIECE = 4 << 20
_CHUNK = 1 << 20


class Gunzip(io.RawIOBase):
    """Reads a stream of gzip members. `read` may give less than asked for.

    Raises OSError for what is no gzip, and EOFError for a cut one.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = bytearray()  # compressed
        self._ready = memoryview(b"")
        self._zlib: zlib._Decompress | None = None  # in the middle of a member
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ready:
            piece = self._slow() if self._zlib is not None else self._member()
            if piece is None:
                return b""
            self._ready = memoryview(piece)
        whole = self._ready
        if size < 0 or size >= len(whole):
            self._ready = memoryview(b"")
            source = whole.obj
            # A piece that nothing was taken of is handed on as it is.
            if isinstance(source, (bytes, bytearray)) and len(source) == len(whole):
                return cast(bytes, source)
            return bytes(whole)
        data, self._ready = bytes(whole[:size]), whole[size:]
        return data

    def _member(self) -> bytes | None:
        end = self._end()
        if not self._left:
            return None
        if end:
            member = bytes(self._left[:end])
            size = int.from_bytes(member[-4:], "little")
            if (member.startswith(_HEADER) and 0 < size <= _LONGEST
                    and not _ANY_HEADER.search(member, 1)):
                data = _whole(member, size)
                if data is not None:
                    del self._left[:end]
                    return data
        self._zlib = zlib.decompressobj(31)
        return self._slow()

    def _end(self) -> int:
        """Where the first member in the buffer seems to end; zero for one that is too long."""
        start = len(_HEADER)
        while True:
            found = self._left.find(_HEADER, start)
            if found > 0:
                return found
            if len(self._left) > _LONGEST + _CHUNK:
                return 0
            start = max(len(_HEADER), len(self._left) - len(_HEADER))
            if not self._fill():
                return len(self._left)

    def _slow(self) -> bytes:
        assert self._zlib is not None
        if not self._left and not self._fill():
            raise EOFError("the end is missing")
        given = bytes(self._left[:_CHUNK])
        try:
            data = self._zlib.decompress(given, _PIECE)
        except zlib.error as error:
            raise OSError(str(error)) from None
        rest = self._zlib.unconsumed_tail or self._zlib.unused_data
        del self._left[:len(given) - len(rest)]
        if self._zlib.eof:
            self._zlib = None
        return data

    def _fill(self) -> bool:
        data = b"" if self._is_at_end else self._stream.read(_CHUNK)
        self._is_at_end = not data
        self._left += data
        return bool(data)


def _whole(member: bytes, size: int) -> bytes | None:
    """The member's data if that has the size and the sum that its trailer says."""
    import deflate

    try:
        data = cast(bytes, deflate.gzip_decompress(member, size))  # a copy would cost a third
    except deflate.DeflateError:
        return None
    total = int.from_bytes(member[-8:-4], "little")
    return data if len(data) == size and deflate.crc32(data) == total else None

"""A tar that others made -> its entries, by tarfile, within bounded memory.

tarfile takes a header's own word for how much memory to fill (pax records, GNU's long names and
sparse maps), and keeps every header that it has read.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Protocol, cast

_MOST_HEADERS = 1 << 20  # bytes between two entries; more than any name needs


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class ForeignTar:
    """The entries of a stream, in order. Raises tarfile.TarError, and what the stream raises.

    buffer: bytes that are read at once. tarfile copies what is left of them for each entry.
    """

    def __init__(self, stream: Readable, buffer: int = 1 << 15) -> None:
        self._source = _Source(stream, buffer)
        self._buffer = buffer
        self._archive: tarfile.TarFile | None = None

    def __enter__(self) -> ForeignTar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if self._archive is not None:
            self._archive.close()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            yield member

    def content(self, member: tarfile.TarInfo) -> IO[bytes]:
        """Of the entry that came last, which is a file. A sparse one's can be larger than the
        whole stream."""
        assert self._archive is not None
        file = self._archive.extractfile(member)
        assert file is not None
        return file

    def _next(self) -> tarfile.TarInfo | None:
        try:
            if self._archive is None:
                self._source.most = _MOST_HEADERS
                self._archive = tarfile.open(  # noqa: SIM115
                    fileobj=cast("IO[bytes]", self._source), mode="r|", bufsize=self._buffer)
            # What is left of the last entry is passed over first, piece by piece.
            self._source.most = self._archive.offset + _MOST_HEADERS
            return self._archive.next()
        except RecursionError:
            raise tarfile.ReadError("too many headers for one entry") from None
        except (EOFError, OverflowError, ValueError) as error:
            raise tarfile.ReadError(str(error)) from None
        finally:
            self._source.most = None
            if self._archive is not None:
                self._archive.members = []  # type: ignore[attr-defined]


class _Source:
    """The stream as tarfile reads it: up to `most` bytes from its beginning, while that is set."""

    def __init__(self, stream: Readable, ahead: int) -> None:
        self._stream = stream
        self._ahead = ahead
        self._position = 0
        self.most: int | None = None

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        if self.most is not None and self._position > self.most + self._ahead:
            raise tarfile.ReadError("headers that are too large")
        return data

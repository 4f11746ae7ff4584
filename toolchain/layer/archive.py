"""entries -> a layer blob: a deterministic tar, compressed on all cores.

Rule 1: the same entries give the same bytes on every machine. Times are fixed, owners are given,
headers are POSIX (pax only where a name needs it), and the compressor is libdeflate at level 1:
unlike the faster ISA-L, its output does not depend on the processor (docs/decisions/0002).
Rule 2: the tar is cut into pieces of 4 MiB, each a gzip member of its own (RFC 1952, 2.2: members
simply follow each other), so that one large layer is compressed by all cores.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.layer import GZIP, Layer
from toolchain.store import Store

COMPRESSOR = "libdeflate-1"
_PIECE = 4 << 20
_BLOCK = 512
_LEVEL = 1
# 1980-01-02: zip files cannot hold an earlier time, and programs in the image may zip its files.
TIME = 315_619_200


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tar entry. `path` is relative, without `./`. A link has a `link` target."""

    path: str
    mode: int
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    uid: int = 0
    gid: int = 0


class LayerWriter:
    """Writes entries into a layer; `layer` is there once the block ended well.

    Directories above an entry are added by themselves, once, owned as the entry.
    """

    def __init__(self, store: Store, label: str, pool: ThreadPoolExecutor) -> None:
        self._label = label
        self._pool = pool
        self._context = store.writer()
        self._blob = self._context.__enter__()
        self._diff = hashlib.sha256()
        self._pending = bytearray()
        self._members: deque[Future[bytes]] = deque()
        self._folders: set[str] = set()
        self.layer: Layer | None = None

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if error is None:
            try:
                self._feed(bytes(2 * _BLOCK))  # end of archive: two blocks of zeros
                self._cut(everything=True)
                while self._members:
                    self._blob.write(self._members.popleft().result())
            except BaseException as failure:  # a full disk: the blob is given up and explained
                self._context.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._context.__exit__(kind, error, traceback)
        if error is None:
            self.layer = Layer(digest=self._blob.digest, diff_id=Digest(self._diff.hexdigest()),
                               size=self._blob.size, media_type=GZIP, label=self._label)

    def add(self, entry: Entry) -> None:
        """Add an entry; a directory that is there already is not added again."""
        self._add_folders(entry)
        if entry.kind == tarfile.DIRTYPE:
            if entry.path in self._folders:
                return
            self._folders.add(entry.path)
        self._header(entry, len(entry.data))
        self._feed(entry.data)
        self._pad(len(entry.data))

    def add_stream(self, entry: Entry, stream: BinaryIO, size: int) -> Digest:
        """Add a file of `size` bytes from a stream, however large; the digest of what was read.

        Raises SpecError if the stream is longer or shorter.
        """
        self._add_folders(entry)
        self._header(entry, size)
        sha = hashlib.sha256()
        left = size
        while piece := stream.read(min(_PIECE, left + 1)):
            sha.update(piece)
            left -= len(piece)
            if left < 0:
                break
            self._feed(piece)
        if left != 0:
            raise SpecError("changed while it was being read", where=entry.path,
                            fix="run the command again when nothing writes there")
        self._pad(size)
        return Digest(sha.hexdigest())

    def _header(self, entry: Entry, size: int) -> None:
        info = tarfile.TarInfo(entry.path)
        info.type = entry.kind
        info.mode = entry.mode
        info.uid, info.gid = entry.uid, entry.gid
        info.linkname = entry.link
        info.mtime = TIME
        info.size = size
        self._feed(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _pad(self, size: int) -> None:
        if rest := size % _BLOCK:
            self._feed(bytes(_BLOCK - rest))

    def _add_folders(self, entry: Entry) -> None:
        folder = entry.path.rpartition("/")[0]
        if folder and folder not in self._folders:
            self.add(Entry(path=folder, mode=0o755, kind=tarfile.DIRTYPE,
                           uid=entry.uid, gid=entry.gid))

    def _feed(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _PIECE:
            self._cut(everything=False)

    def _cut(self, *, everything: bool) -> None:
        while len(self._pending) >= _PIECE or (everything and self._pending):
            piece = bytes(self._pending[:_PIECE])
            del self._pending[:_PIECE]
            self._diff.update(piece)
            self._members.append(self._pool.submit(_compress, piece))
            while len(self._members) > 2 * (os.cpu_count() or 1):
                self._blob.write(self._members.popleft().result())


def _compress(piece: bytes) -> bytes:
    import deflate

    return bytes(deflate.gzip_compress(piece, _LEVEL))

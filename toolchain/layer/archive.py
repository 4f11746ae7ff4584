"""entries -> a layer blob: a deterministic tar, compressed on all cores.

Rule 1: the same entries give the same bytes on every machine. Times are fixed, owners are given,
headers are POSIX (pax only where a name needs it), and the compressor is pinned
(toolchain.layer.compression).
Rule 2: the tar is cut into pieces of 4 MiB, each a gzip member or zstd frame of its own, so that
one large layer is compressed by all cores. A large file that came as deflate is such a piece
already, and is not compressed anew.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, BinaryIO, Protocol

from toolchain.digest import Digest
from toolchain.errors import SpecError, StoreError
from toolchain.layer import GZIP, ZSTD, Layer
from toolchain.layer.compression import LIBDEFLATE, Compression, compression
from toolchain.store import Store
from toolchain.values import dataclass

_PIECE = 4 << 20
_BLOCK = 512
_LARGEST_OCTAL = 1 << 33  # a size of eleven octal digits
_MAGIC = b"ustar\00000".ljust(_BLOCK - 257, b"\0")  # what follows the link's name
_MAGIC_SUM = sum(_MAGIC)
# Bytes that tarfile reads at once. It copies what is left of them for each entry.
_BUFFER = 1 << 15
LARGEST_TAR = 64 << 30  # bytes of a layer, uncompressed
_LARGEST_WINDOW = 128 << 20  # bytes of memory that a zstd frame may ask for
# 1980-01-02: zip files cannot hold an earlier time, and programs in the image may zip its files.
TIME = 315_619_200


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tar entry. `path` is relative, without `./`. A link has a `link` target.

    member: `data` as a gzip member, if there is one already; a gzip layer takes it as it is.
    """

    path: str
    mode: int
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    member: bytes = b""
    link: str = ""
    uid: int = 0
    gid: int = 0


class Sink(Protocol):
    """What entries go into: a layer, or a folder."""

    def add(self, entry: Entry) -> None: ...
    def add_stream(self, entry: Entry, stream: BinaryIO, size: int) -> Digest: ...


class LayerWriter:
    """Writes entries into a layer; `layer` is there once the block ended well.

    Directories above an entry are added by themselves, once, owned as the entry.
    """

    def __init__(self, store: Store, label: str, pool: ThreadPoolExecutor,
                 compression: Compression = LIBDEFLATE) -> None:
        self._label = label
        self._compression = compression
        self._pool = pool
        self._context = store.writer()
        self._blob = self._context.__enter__()
        self._diff = hashlib.sha256()
        self._pending: list[bytes] = []  # what was fed and not cut yet, `_size` bytes in all
        self._size = 0
        self._members: deque[Future[bytes | bytearray]] = deque()
        self._folders: set[str] = set()
        self._is_copy = False
        self.layer: Layer | None = None

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if error is None:
            try:
                if not self._is_copy:
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
                               size=self._blob.size, media_type=self._compression.media_type,
                               label=self._label)

    def add(self, entry: Entry) -> None:
        """Add an entry; a directory that is there already is not added again."""
        self._add_folders(entry)
        if entry.kind == tarfile.DIRTYPE:
            if entry.path in self._folders:
                return
            self._folders.add(entry.path)
        self._header(entry, len(entry.data))
        if entry.member and self._compression.media_type == GZIP:
            self._take(entry.data, entry.member)
        else:
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

    def copy(self, tar: IO[bytes]) -> None:
        """Take a whole tar as it is, in place of entries."""
        self._is_copy = True
        while piece := tar.read(_PIECE):
            self._feed(piece)

    def _header(self, entry: Entry, size: int) -> None:
        self._feed(header(entry, size))

    def _pad(self, size: int) -> None:
        if rest := size % _BLOCK:
            self._feed(bytes(_BLOCK - rest))

    def _add_folders(self, entry: Entry) -> None:
        folder = entry.path.rpartition("/")[0]
        if folder and folder not in self._folders:
            self.add(Entry(path=folder, mode=0o755, kind=tarfile.DIRTYPE,
                           uid=entry.uid, gid=entry.gid))

    def _feed(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _PIECE:
            self._cut(everything=False)

    def _take(self, data: bytes, member: bytes) -> None:
        self._cut(everything=True)
        self._diff.update(data)
        taken: Future[bytes | bytearray] = Future()
        taken.set_result(member)
        self._members.append(taken)

    def _cut(self, *, everything: bool) -> None:
        view = memoryview(b"".join(self._pending))
        whole = len(view) if everything else len(view) - len(view) % _PIECE
        self._diff.update(view[:whole])
        for start in range(0, whole, _PIECE):
            piece = view[start:min(start + _PIECE, whole)]
            self._members.append(self._pool.submit(self._compression.press, piece))
            while len(self._members) > 2 * (os.cpu_count() or 1):
                self._blob.write(self._members.popleft().result())
        self._size = len(view) - whole
        self._pending = [bytes(view[whole:])] if self._size else []


def header(entry: Entry, size: int) -> bytes:
    """The tar header of an entry whose content has `size` bytes.

    Most entries need no pax record and go the short way, which gives the bytes that tarfile gives;
    tarfile takes ten times as long.
    """
    name = entry.path + "/" if entry.kind == tarfile.DIRTYPE else entry.path
    if (len(name) > 100 or len(entry.link) > 100 or entry.path.endswith("/")
            or not (name.isascii() and entry.link.isascii())
            or size >= _LARGEST_OCTAL or entry.uid > 0o7777777 or entry.gid > 0o7777777):
        return _pax_header(entry, size)
    front = b"%b\0%07o\0%07o\0%011o\0%011o\0" % (
        b"%07o" % (entry.mode & 0o7777), entry.uid, entry.gid, size, TIME)
    head = b"%b%b        %b%b" % (name.encode().ljust(100, b"\0"), front, entry.kind,
                                 entry.link.encode().ljust(100, b"\0"))
    checksum = sum(head) + _MAGIC_SUM  # of all bytes, with blanks in its own place
    return b"%b%06o\0 %b%b" % (head[:148], checksum, head[156:], _MAGIC)


def _pax_header(entry: Entry, size: int) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.type = entry.kind
    info.mode = entry.mode
    info.uid, info.gid = entry.uid, entry.gid
    info.linkname = entry.link
    info.mtime = TIME
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@contextlib.contextmanager
def opened(stream: IO[bytes], media_type: str, most: int = LARGEST_TAR
           ) -> Iterator[tarfile.TarFile]:
    """A layer's tar, to be read from its beginning to its end.

    Raises StoreError for a media type that is no layer's, for bytes that are not what it says,
    and for a layer that unpacks to more than `most` bytes; ConfigError if zstandard is missing.
    """
    try:
        with tarfile.open(fileobj=plain(stream, media_type, most), mode="r|",
                          bufsize=_BUFFER) as archive:
            yield archive
    except tarfile.TarError as error:
        raise _refused(f"not a valid layer: {error}", media_type) from None


def plain(stream: IO[bytes], media_type: str, most: int = LARGEST_TAR) -> _Bounded:
    """A layer's bytes, uncompressed. Raises as `opened`."""
    if media_type == GZIP:
        return _Bounded(gzip.GzipFile(fileobj=stream), most, (EOFError, OSError, zlib.error))
    if media_type == ZSTD:
        compression("zstd")  # says what to install if it is missing
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).stream_reader(
            stream, read_across_frames=True, closefd=False)
        return _Bounded(reader, most, (EOFError, OSError, zstandard.ZstdError))
    if media_type == GZIP.removesuffix("+gzip"):
        return _Bounded(stream, most, (EOFError, OSError))
    raise _refused("not a layer", media_type)


class _Bounded(io.RawIOBase):
    """Reads until too much has come, since a small blob may unpack to any size. `damage` is what
    the stream raises for bytes that are not what they should be."""

    def __init__(self, stream: Any, most: int, damage: tuple[type[Exception], ...]) -> None:
        self._stream = stream
        self._left = most
        self._damage = damage

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except self._damage as error:
            raise _refused("not a valid layer", str(error)) from None
        self._left -= len(data)
        if self._left < 0:
            raise _refused("a layer unpacks to more than it may", "its tar")
        return data


def _refused(what: str, where: str) -> StoreError:
    return StoreError(f"refused: {what}", where=where,
                      fix="delete the cache's blobs; they were tampered with")

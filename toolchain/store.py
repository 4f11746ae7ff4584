"""Digest -> bytes: content-addressed blobs, under cache/blobs/ and in image layouts.

Rule 1: a blob appears under its digest whole or not at all: written beside its place, hashed
while written, synced, renamed.
Rule 2: a blob is believed only while its size, times and inode are those it was last verified
with; otherwise it is hashed again, and one that does not match is moved to quarantine/.
Rule 3: storing what is there already is a success and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from toolchain.digest import Digest
from toolchain.errors import StoreError
from toolchain.journal import Journal
from toolchain.tree import Stamp, stamp

_CHUNK = 1 << 20


class BlobWriter:
    """A blob being written: `write` bytes, then `commit`. Abandoned, it leaves nothing."""

    def __init__(self, stream: IO[bytes], explain: Callable[[OSError], StoreError]) -> None:
        self._stream = stream
        self._explain = explain
        self._sha = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray) -> int:
        self._sha.update(data)
        self.size += len(data)
        try:
            return self._stream.write(data)
        except OSError as error:  # said here, lest a caller takes it for its source's
            raise self._explain(error) from None

    @property
    def digest(self) -> Digest:
        return Digest(self._sha.hexdigest())


class Store:
    """A folder of blobs, shared by threads and processes.

    `folder` holds them by digest in hexadecimal; damaged ones go to `quarantine`.
    """

    def __init__(self, folder: Path, quarantine: Path, journal: Journal) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._journal = journal
        self._verified: dict[Digest, Stamp] = {}

    def path(self, digest: Digest) -> Path:
        return self._folder / digest.hex

    @contextlib.contextmanager
    def writer(self, expect: Digest | None = None) -> Iterator[BlobWriter]:
        """Write a blob; when the block ends well it is stored at `writer.digest`.

        With `expect`, bytes with another digest are an error and are not stored.
        Raises StoreError for a full disk, an unwritable cache or a wrong digest.
        """
        import tempfile

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="tmp-", dir=self._folder)
        except OSError as error:
            raise self._explain(error) from None
        temporary = Path(name)
        stream = os.fdopen(handle, "wb")
        try:
            blob = BlobWriter(stream, self._explain)
            yield blob  # an OSError of the block itself is not the cache's
            if expect is not None and blob.digest != expect:
                raise StoreError(
                    f"content does not match its digest: expected {expect}, got {blob.digest}",
                    where=str(self.path(expect)),
                    fix="try again; if it stays so, the source of these bytes is damaged",
                )
            self._commit(stream, temporary, blob.digest)
        finally:
            with contextlib.suppress(OSError):
                stream.close()
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def _commit(self, stream: IO[bytes], temporary: Path, digest: Digest) -> None:
        try:
            stream.flush()
            os.fchmod(stream.fileno(), 0o444)
            os.fsync(stream.fileno())
            stream.close()
            target = self.path(digest)
            os.replace(temporary, target)
            self._remember(digest, stamp(os.stat(target)))
        except OSError as error:
            raise self._explain(error) from None

    def put(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        if not self.has(digest):
            with self.writer(digest) as blob:
                blob.write(data)
        return digest

    def put_file(self, path: Path) -> Digest:
        """Store a file's content, however large. Raises OSError where it cannot be read."""
        with open(path, "rb") as source, self.writer() as blob:
            while chunk := source.read(_CHUNK):
                blob.write(chunk)
        return blob.digest

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here and right. One that is not right is put into quarantine."""
        path = self.path(digest)
        try:
            seen = stamp(os.stat(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._explain(error) from None
        if self._verified.get(digest) == seen or self._recorded(digest) == seen:
            self._verified[digest] = seen
            return True
        try:
            with open(path, "rb") as stream:
                matches = Digest.of_stream(stream) == digest
                unchanged = stamp(os.fstat(stream.fileno())) == seen
            if matches and unchanged:
                self._remember(digest, seen)
            elif not matches:
                self._quarantine.mkdir(exist_ok=True)
                os.replace(path, self._quarantine / digest.hex)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._explain(error) from None
        return matches

    def open(self, digest: Digest) -> IO[bytes]:
        """A verified blob, open for reading. Raises StoreError where it is missing or damaged."""
        if not self.has(digest):
            raise StoreError(
                f"blob is missing or damaged: {digest}", where=str(self.path(digest)),
                fix="run the same command again; it will be made anew",
            )
        return open(self.path(digest), "rb")

    def read(self, digest: Digest) -> bytes:
        with self.open(digest) as stream:
            return stream.read()

    def link(self, digest: Digest, target: Path) -> None:
        """Make `target` the verified blob's content, by hard link where the disk allows it."""
        with self.open(digest) as source:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(
                    f"tmp-{os.getpid()}-{threading.get_ident()}-{target.name}")
                try:
                    try:
                        os.link(self.path(digest), temporary)
                    except OSError:  # another file system, or one without hard links
                        # "x", as a leftover of that name may be a link to the blob itself.
                        with open(temporary, "xb") as sink:
                            while chunk := source.read(_CHUNK):
                                sink.write(chunk)
                            os.fsync(sink.fileno())
                    os.replace(temporary, target)
                finally:
                    # rename(2) leaves the old name where both are one file already.
                    temporary.unlink(missing_ok=True)
                # A new link changes the inode's ctime; without this the blob would be hashed
                # again at its next use.
                self._remember(digest, stamp(os.stat(self.path(digest))))
            except OSError as error:
                raise self._explain(error) from None

    def _recorded(self, digest: Digest) -> Stamp | None:
        rows = self._journal.rows(
            "select size, mtime_ns, ctime_ns, inode from blob where path=?",
            (str(self.path(digest)),)
        )
        return rows[0] if rows else None

    def _remember(self, digest: Digest, seen: Stamp) -> None:
        self._verified[digest] = seen
        self._journal.write(
            "insert or replace into blob values (?,?,?,?,?)", (str(self.path(digest)), *seen)
        )

    def _explain(self, error: OSError) -> StoreError:
        return StoreError(
            f"the cache cannot be used: {error.strerror}", where=str(self._folder),
            fix="make the cache folder writable, or free some space, or set `cache` elsewhere",
        )

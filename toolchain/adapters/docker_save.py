"""What `docker save` writes -> layers: streamed once, distrusted.

Rule 1: nothing is believed by name. Every layer is hashed, uncompressed, while it is read, and
must be one of the image's diff_ids; the config is hashed and must lead back to the image's ID.
Rule 2: nothing is unpacked. Members are read in order and only files count; names that leave the
archive, and links out of it, are refused; links within it are passed over, as they bring nothing.
Rule 3: what is held in memory, and what a layer may come to, is bounded.

Two forms are known: Docker's own (`<id>/layer.tar`, `<config>.json`) and the OCI layout of Docker
25 and later (`blobs/sha256/…`), whose layers may be compressed.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from toolchain.adapters.docker_layer import LayerStream, is_layer
from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.layer.foreign_tar import ForeignTar

LARGEST_IMAGE = 64 << 30  # bytes of all layers, uncompressed
_LARGEST_DOCUMENT = 8 << 20
_ALL_DOCUMENTS = 32 << 20
_CHUNK = 1 << 20
_BLOBS = "blobs/sha256/"


class SavedImage:
    """One image out of an engine. Every method raises EngineError for what is not as it should be.

    `archive` are the bytes of `docker save`; `image_id` and `diff_ids` are what was asked for.
    """

    def __init__(self, archive: Iterator[bytes], image_id: Digest, diff_ids: tuple[Digest, ...],
                 where: str, *, largest: int = LARGEST_IMAGE) -> None:
        self._source = _Source(archive)
        self._image_id = image_id
        self._diff_ids = diff_ids
        self._where = where
        self._left = largest
        self._seen: set[Digest] = set()
        self._documents: dict[Digest, bytes] = {}
        self._config: bytes | None = None

    @property
    def config(self) -> bytes:
        """The image's config, verified; there once all layers were gone through."""
        if self._config is None:
            raise ValueError("the layers were not gone through yet")
        return self._config

    def layers(self) -> Iterator[LayerStream]:
        """Every layer once, in the archive's order, which is not the image's.

        A stream is good until the next one is asked for; what was not read of it is then read.
        When the last is done, every diff_id of the image was seen and the config is verified.
        """
        try:
            with ForeignTar(self._source, _CHUNK) as outer:
                for member in outer:
                    self._check_name(member)
                    stream = self._layer(outer, member)
                    if stream is not None:
                        yield stream
                        stream.finish()
        except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
            raise self.bad(f"is not an archive of an image: {error}") from None
        finally:
            self._source.close()
        missing = set(self._diff_ids) - self._seen
        if missing:
            raise self.bad(f"lacks {len(missing)} layers, the first of them {min(missing)}")
        self._config = self._find_config()

    def _check_name(self, member: tarfile.TarInfo) -> None:
        names = [member.name]
        if member.issym():
            names.append(posixpath.join(posixpath.dirname(member.name), member.linkname))
        elif member.islnk():
            names.append(member.linkname)
        for name in names:
            if name.startswith("/") or posixpath.normpath(name).split("/")[0] == "..":
                raise self.bad(f"has a member that leaves it: {member.name!r}")
        if ".." in member.name.split("/"):
            raise self.bad(f"has a member that leaves it: {member.name!r}")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise self.bad(f"has a member that is no file: {member.name!r}")

    def _layer(self, outer: ForeignTar, member: tarfile.TarInfo) -> LayerStream | None:
        """The stream of a member that is a layer; other members are dealt with here."""
        if not member.isreg():
            return None
        name = posixpath.normpath(member.name)
        file = outer.content(member)
        if name.endswith("/layer.tar"):
            return LayerStream(self, file, b"", None)
        claimed = _claimed(name)
        if claimed is None:
            self._read_document(file, member)  # manifest.json and such: nothing rests on it
            return None
        start = file.read(512)
        if claimed in self._diff_ids or is_layer(start):
            return LayerStream(self, file, start, claimed)
        data = start + self._read_document(file, member, len(start))
        if Digest.of(data) != claimed:
            raise self.bad(f"has a file that is not what its name says: {member.name}")
        if sum(map(len, self._documents.values())) + len(data) > _ALL_DOCUMENTS:
            raise self.bad("has too many documents")
        self._documents[claimed] = data
        return None

    def _read_document(self, file: IO[bytes], member: tarfile.TarInfo, before: int = 0) -> bytes:
        if member.size > _LARGEST_DOCUMENT:
            raise self.bad(f"has a document that is too large: {member.name!r}")
        return file.read(member.size - before)

    def _find_config(self) -> bytes:
        """From the image's ID to its config: the very one, or by manifest and index."""
        wanted = [str(diff_id) for diff_id in self._diff_ids]
        ids = [self._image_id]
        for digest in ids:
            data = self._documents.get(digest)
            parsed = _parsed(data)
            if data is None or parsed is None:
                continue
            if (parsed.get("rootfs") or {}).get("diff_ids") == wanted:
                return data
            below = [parsed.get("config"), *(parsed.get("manifests") or [])]
            ids += [found for found in map(_digest_of, below)
                    if found is not None and found not in ids]
        raise self.bad("has no config that fits its ID and its layers")

    # What a layer has to say while it is read; implements docker_layer.Whole.

    def count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self.bad("is larger than an image may be")

    def done(self, diff_id: Digest) -> None:
        if diff_id not in self._diff_ids:
            raise self.bad(f"has a layer that is not the image's: {diff_id}")
        self._seen.add(diff_id)

    def bad(self, reason: str) -> EngineError:
        return EngineError(f"what the Docker engine sent {reason}", where=self._where,
                           fix="do not trust this image; pull or build it again")


class _Source:
    """The archive's bytes as a tar is read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """As much as is at hand, at most `size`."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        data = bytes(self._rest[:size])
        self._rest = self._rest[len(data):]
        return data

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def _claimed(name: str) -> Digest | None:
    """The digest that a member's name claims, if it is named by one."""
    text = name.removeprefix(_BLOBS) if name.startswith(_BLOBS) else name.removesuffix(".json")
    try:
        return Digest(text)
    except ValueError:
        return None


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        parsed = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _digest_of(descriptor: Any) -> Digest | None:
    try:
        return Digest.parse(descriptor["digest"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None

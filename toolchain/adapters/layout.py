"""An OCI image layout as a registry: the embedded default, no server needed.

Source: OCI image-spec 1.1, image-layout.md. Blobs are hard links to the store's where the disk
allows it. index.json names every tag; it is replaced as a whole, by one writer at a time. What
refers to an image is listed by an index under the tag `sha256-…`, as in a registry without a
list of its own, where other tools for layouts find it too.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolchain.adapters import referrers
from toolchain.digest import Digest, canonical_json
from toolchain.errors import RegistryError, StoreError
from toolchain.image import INDEX, media_type
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.prune import Freed, last_used, removed
from toolchain.push import BlobSource
from toolchain.store import Store

_REF_NAME = "org.opencontainers.image.ref.name"
_PIECE = 1 << 20
_LIST = re.compile(r"sha256-[0-9a-f]{64}")  # the tag of a list of what refers to a manifest


class Layout:
    """The layout in `folder`, for one repository; a push.Registry and a push.BlobSource.

    `name` is what references begin with.
    """

    def __init__(self, folder: Path, name: str, quarantine: Path, journal: Journal) -> None:
        self._folder = folder
        self._name = name
        self._blobs = Store(folder / "blobs" / "sha256", quarantine, journal)

    @property
    def name(self) -> str:
        return self._name

    @property
    def location(self) -> tuple[str, str] | None:
        return None

    def manifest(self, reference: str) -> bytes | None:
        if reference.startswith("sha256:"):
            digest = Digest.parse(reference)
        else:
            named = [item for item in self._index()["manifests"]
                     if _tag(item) == reference]
            if not named:
                return None
            digest = Digest.parse(named[0]["digest"])
        return self._blobs.read(digest) if self._blobs.has(digest) else None

    def still_has(self, digest: Digest) -> bool:
        # Without its index the folder is no layout: nobody finds the manifest there.
        if not (self._folder / "index.json").exists() or not self._blobs.has(digest):
            return False
        manifest = json.loads(self._blobs.read(digest))
        if "manifests" in manifest:  # an index
            return all(self.still_has(Digest.parse(item["digest"]))
                       for item in manifest["manifests"])
        return all(self._blobs.has(Digest.parse(item["digest"]))
                   for item in [manifest["config"], *manifest["layers"]])

    def config(self, digest: Digest) -> bytes:
        try:
            return self._blobs.read(digest)
        except StoreError as error:
            raise RegistryError(error.what, where=error.where, fix=error.fix) from None

    def has_blob(self, digest: Digest) -> bool:
        return self._blobs.has(digest)

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        store.link(digest, self._blobs.path(digest))
        if not self._blobs.has(digest):
            raise RegistryError("the layout lost a blob while it was written",
                                where=str(self._blobs.path(digest)), fix="run it again")
        progress.advance(size)

    def copy_blob(self, digest: Digest, size: int, source: BlobSource,
                  progress: Progress) -> None:
        if self._blobs.has(digest):
            progress.advance(size)
            return
        with self._blobs.writer(digest) as blob:
            for piece in source.stream(digest, size):
                blob.write(piece)
                progress.advance(len(piece))

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        try:
            with self._blobs.open(digest) as stream:  # verified
                if os.fstat(stream.fileno()).st_size != size:
                    raise RegistryError(f"a blob has another size than the {size} bytes expected",
                                        where=str(self._blobs.path(digest)),
                                        fix="do not use the manifest that names it")
                while piece := stream.read(_PIECE):
                    yield piece
        except StoreError as error:
            raise RegistryError(error.what, where=error.where, fix=error.fix) from None

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        kind = media_type(manifest)
        digest = self._blobs.put(manifest)
        if tag is None:
            return

        def tagged(index: dict[str, Any]) -> list[Any]:
            return [*(item for item in index["manifests"] if _tag(item) != tag),
                    _entry(kind, digest, len(manifest), tag)]

        self._change(tagged)

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        new = [referrers.descriptor(manifest, subject) for manifest in manifests]
        for manifest in manifests:
            self._blobs.put(manifest)
        tag = referrers.fallback_tag(subject)

        def listed(index: dict[str, Any]) -> list[Any] | None:
            more = referrers.added(self._list_of(tag), new)
            if more is None:
                return None
            return [*(item for item in index["manifests"] if _tag(item) != tag),
                    _entry(INDEX, self._blobs.put(more), len(more), tag)]

        self._change(listed)

    def referrers(self, digest: Digest, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
        found = referrers.listed(self._list_of(referrers.fallback_tag(digest)))
        return referrers.of_type(found, artifact_type)

    def prune(self, needs: Collection[str], since: float) -> Freed:
        def stays(item: dict[str, Any]) -> bool:
            digest = Digest.parse(item["digest"])
            return digest.hex in needs or last_used(self._blobs.path(digest)) >= since

        def remaining(index: dict[str, Any]) -> list[Any] | None:
            entries = index["manifests"]
            lists = {_tag(item) for item in entries if _LIST.fullmatch(_tag(item) or "")}
            theirs = {referrers.fallback_tag(Digest.parse(item["digest"])) for item in entries
                      if _tag(item) not in lists and stays(item)}
            left = [item for item in entries
                    if (_tag(item) in theirs if _tag(item) in lists else stays(item))]
            return left if len(left) < len(entries) else None

        freed = Freed()
        if not (self._folder / "index.json").exists():
            return freed
        self._change(remaining)
        named = self._reached()
        for path in sorted((self._folder / "blobs" / "sha256").iterdir()):
            # Nobody writes now: what was begun was left by a process that is gone.
            if path.name.startswith("tmp-") or (path.name not in named and last_used(path) < since):
                freed += removed(path)
        return freed

    def _reached(self) -> set[str]:
        """The blobs, in hexadecimal, that the index names, itself or through manifests."""
        found: set[str] = set()
        left = [Digest.parse(item["digest"]) for item in self._index()["manifests"]]
        while left:
            digest = left.pop()
            if digest.hex in found or not self._blobs.has(digest):
                continue
            found.add(digest.hex)
            manifest = json.loads(self._blobs.read(digest))
            left += [Digest.parse(item["digest"]) for item in manifest.get("manifests", ())]
            found |= {Digest.parse(item["digest"]).hex
                      for item in (*manifest.get("layers", ()), manifest.get("config")) if item}
        return found

    def _list_of(self, tag: str) -> bytes | None:
        """The index under that tag, if there is one. Raises RegistryError if it is none."""
        index = self.manifest(tag)
        try:
            referrers.listed(index)
        except (ValueError, RecursionError):
            raise RegistryError(f"the index under the tag {tag} is none", where=str(self._folder),
                                fix="take that tag out of index.json") from None
        return index

    def _change(self, entries: Callable[[dict[str, Any]], list[Any] | None]) -> None:
        """Replace the index's entries by others, unless those are None; one writer at a time."""
        try:
            with open(self._folder / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                index = self._index()
                changed = entries(index)
                if changed is None:
                    return
                if not (self._folder / "oci-layout").exists():
                    self._replace("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))
                self._replace("index.json", canonical_json({**index, "manifests": changed}))
        except OSError as error:
            raise RegistryError(f"the image layout cannot be written: {error.strerror}",
                                where=str(self._folder),
                                fix="make it writable, or free some space") from None

    def _index(self) -> dict[str, Any]:
        path = self._folder / "index.json"
        try:
            index: dict[str, Any] = json.loads(path.read_bytes())
            for item in index["manifests"]:
                Digest.parse(item["digest"])
                _tag(item)
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RegistryError("not an image layout", where=str(path),
                                fix="delete the file; `doit push` writes it anew") from None
        except OSError as error:
            raise RegistryError(f"the image layout's index cannot be read: {error.strerror}",
                                where=str(path),
                                fix="make it a file that you can read, or delete it; `doit push` "
                                    "writes it anew") from None
        return index

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self._folder / f"tmp-{os.getpid()}-{name}"
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._folder / name)


def _tag(item: dict[str, Any]) -> str | None:
    """The tag of an index's entry, if it has one."""
    tag: str | None = (item.get("annotations") or {}).get(_REF_NAME)
    return tag


def _entry(kind: str, digest: Digest, size: int, tag: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": str(digest), "size": size,
            "annotations": {_REF_NAME: tag}}

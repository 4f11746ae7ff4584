"""An OCI image layout as a registry: the embedded default, no server needed.

Source: OCI image-spec 1.1, image-layout.md. Blobs are hard links to the store's where the disk
allows it. index.json names every tag; it is replaced as a whole, by one writer at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.errors import RegistryError, StoreError
from toolchain.image import MANIFEST
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.store import Store

_INDEX = "application/vnd.oci.image.index.v1+json"
_CHUNK = 1 << 20
_REF_NAME = "org.opencontainers.image.ref.name"


class Layout:
    """The layout in `folder`, for one repository; `name` is what references begin with."""

    def __init__(self, folder: Path, name: str, quarantine: Path, journal: Journal) -> None:
        self._folder = folder
        self._name = name
        self._blobs = Store(folder / "blobs" / "sha256", quarantine, journal)

    @property
    def name(self) -> str:
        return self._name

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
        if not self._blobs.has(digest):
            return False
        manifest = json.loads(self._blobs.read(digest))
        return all(self._blobs.has(Digest.parse(item["digest"]))
                   for item in [manifest["config"], *manifest["layers"]])

    def config(self, digest: Digest) -> bytes:
        try:
            return self._blobs.read(digest)
        except StoreError as error:
            raise RegistryError(error.what, where=error.where, fix=error.fix) from None

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        try:
            with self._blobs.open(digest) as stream:
                while piece := stream.read(_CHUNK):
                    yield piece
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

    def put_manifest(self, manifest: bytes, tag: str) -> None:
        digest = self._blobs.put(manifest)
        try:
            with open(self._folder / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                index = self._index()
                index["manifests"] = [
                    item for item in index["manifests"]
                    if _tag(item) != tag
                ]
                index["manifests"].append({
                    "mediaType": MANIFEST, "digest": str(digest), "size": len(manifest),
                    "annotations": {_REF_NAME: tag},
                })
                self._replace("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))
                self._replace("index.json", canonical_json(index))
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
            return {"schemaVersion": 2, "mediaType": _INDEX, "manifests": []}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RegistryError("not an image layout", where=str(path),
                                fix="delete the file; `doit push` writes it anew") from None
        except OSError as error:
            raise RegistryError(f"cannot be read: {error.strerror}", where=str(path)) from None
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

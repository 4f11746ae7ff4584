"""An OCI image layout that others made. Source: OCI image-spec 1.1, image-layout.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from toolchain.adapters.documents import (
    LARGEST,
    digest_of,
    kind_of,
    manifests_of,
    parsed,
    unusable,
)
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.image import INDEX

_REF_NAME = "org.opencontainers.image.ref.name"


class ForeignLayout:
    """The layout in a folder. Implements toolchain.adapters.documents.Home."""

    location: tuple[str, str] | None = None

    def __init__(self, folder: Path, shown: str) -> None:
        self._folder = folder
        self._shown = shown

    def document(self, reference: str) -> tuple[str, bytes] | None:
        if reference.startswith("sha256:"):
            digest = digest_of({"digest": reference}, self._shown)
            with self._blob(digest) as stream:
                data = stream.read(LARGEST)
            if Digest.of(data) != digest:
                raise unusable(self._shown, f"blob {digest} is damaged")
            return kind_of(parsed(data, self._shown)), data
        try:
            index = parsed((self._folder / "index.json").read_bytes(), self._shown)
        except OSError as error:
            raise ResolveError(f"not an OCI image layout: {error.strerror}",
                               where=f"image.base = {self._shown}",
                               fix="write it as oci:PATH[:TAG], relative to the workspace"
                               ) from None
        found = manifests_of(index, self._shown)
        if not reference and len(found) > 1:
            index["mediaType"] = INDEX
            return INDEX, json.dumps(index).encode()
        for item in found:
            name = (item.get("annotations") or {}).get(_REF_NAME, "")
            if not reference or name == reference or name.endswith(f":{reference}"):
                return self.document(str(digest_of(item, self._shown)))
        return None

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        sha, left = hashlib.sha256(), size
        with self._blob(digest) as stream:
            while piece := stream.read(1 << 20):
                sha.update(piece)
                left -= len(piece)
                last = left == 0
                if left < 0 or (last and Digest(sha.hexdigest()) != digest):
                    raise unusable(self._shown, f"blob {digest} is damaged")
                yield piece
        if left:
            raise unusable(self._shown, f"blob {digest} is cut short")

    def _blob(self, digest: Digest) -> IO[bytes]:
        try:
            return open(self._folder / "blobs" / "sha256" / digest.hex, "rb")
        except OSError as error:
            raise unusable(self._shown, f"blob {digest} cannot be read: {error.strerror}") from None

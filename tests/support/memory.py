"""A repository of a registry, in memory: it holds nothing and takes nothing, unless told so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.progress import Progress
from toolchain.push import BlobSource
from toolchain.store import Store


class EmptyRegistry:
    """Implements push.Registry. A test overrides what it is about."""

    name = "host.invalid/one"

    @property
    def location(self) -> tuple[str, str] | None:
        return None

    def manifest(self, reference: str) -> bytes | None:
        return None

    def still_has(self, digest: Digest) -> bool:
        return False

    def config(self, digest: Digest) -> bytes:
        raise RegistryError("not there")

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        raise RegistryError("not there")

    def has_blob(self, digest: Digest) -> bool:
        return False

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        raise RegistryError("no blob is to be put here")

    def copy_blob(self, digest: Digest, size: int, source: BlobSource,
                  progress: Progress) -> None:
        raise RegistryError("nothing is to be copied here")

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        raise RegistryError("no manifest is to be put here")

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        raise RegistryError("nothing is to be attached here")

    def referrers(self, digest: Digest, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
        return ()

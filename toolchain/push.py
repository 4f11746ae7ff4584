"""Image -> Pushed: blobs, then config, then manifest, then tag, so that a reader never sees half.

The tag is the digest of the image's plan. Whoever can compute the plan, from the lock and the
project's files alone, can see in the registry that there is nothing to build.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import Image, from_bytes
from toolchain.layer import Layer
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.values import dataclass
from toolchain.workers import Workers

_UPLOADS = 4
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Where an image can be pulled: `reference` is `name@sha256:…`.

    digest: of the manifest; config: of the image's config, which names its content alone.
    """

    reference: str
    tag: str
    digest: Digest
    config: Digest

    def to_json(self) -> dict[str, Any]:
        return {"reference": self.reference, "tag": self.tag, "digest": str(self.digest),
                "config": str(self.config)}

    @classmethod
    def from_json(cls, value: Any) -> Pushed:
        return cls(reference=value["reference"], tag=value["tag"],
                   digest=Digest.parse(value["digest"]),
                   config=Digest.parse(value["config"]))


class BlobSource(Protocol):
    """Where blobs can be had that are not in the store."""

    @property
    def location(self) -> tuple[str, str] | None:
        """The registry's `host[:port]` and the repository, for a registry that can be asked to
        take a blob over from another of its repositories; None for anything else."""

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The blob's bytes, verified while they are read; asked again, from the start again.

        Raises RegistryError for another digest or size before the last piece is handed out, and
        never hands out more than `size` bytes.
        """


class Registry(Protocol):
    """One repository of a registry or image layout. Every method raises RegistryError."""

    @property
    def name(self) -> str:
        """What a reference begins with, as the place that runs images sees it."""

    @property
    def location(self) -> tuple[str, str] | None:
        """As that of a BlobSource."""

    def manifest(self, reference: str) -> bytes | None:
        """The manifest with that tag or digest, verified if it is a digest; None if not there."""

    def still_has(self, digest: Digest) -> bool:
        """Whether a manifest pushed earlier is still there with its blobs, as far as can be told
        without the network."""

    def config(self, digest: Digest) -> bytes:
        """A small blob, verified."""

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        """A blob of that size, in pieces. The last piece comes only if all of them are right."""

    def has_blob(self, digest: Digest) -> bool:
        """Whether the blob is there. Never true for one that cannot be pulled."""

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        """Copy a blob from the store. Success means it can be pulled; twice is as once."""

    def copy_blob(self, digest: Digest, size: int, source: BlobSource,
                  progress: Progress) -> None:
        """Copy a blob from elsewhere, without the store: taken over by the registry itself where
        the source is another of its repositories, else streamed. As `put_blob` otherwise."""

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        """Publish a manifest or index under its digest, and under a tag if one is given.

        What it names is all there. Its own `mediaType` says what it is.
        """

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        """Publish manifests with that `subject`, so that `referrers` lists them; twice is as once.

        Their blobs are all there; the subject need not be.
        """

    def referrers(self, digest: Digest, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
        """Descriptors of the manifests whose subject this is, of one artifact type or of all."""


def find(registry: Registry, tag: str) -> Image | None:
    """The image of that tag, if it is there and was made by this tool."""
    import json

    manifest = registry.manifest(tag)
    if manifest is None:
        return None
    try:
        config = Digest.parse(json.loads(manifest)["config"]["digest"])
        return from_bytes(manifest, registry.config(config)) if registry.has_blob(config) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # somebody else's tag of that name


def fetcher(registry: Registry, store: Store) -> Callable[[Digest, int], Iterator[bytes]]:
    """Reads blobs from the store where they are there, else from the registry."""
    return lambda digest, size: (_stored(store, digest) if store.has(digest)
                                 else registry.stream(digest, size))


def _stored(store: Store, digest: Digest) -> Iterator[bytes]:
    with store.open(digest) as stream:
        while piece := stream.read(_CHUNK):
            yield piece


class _AtHand:
    """A source whose blobs are read from the store where they are there. Implements BlobSource."""

    def __init__(self, store: Store, source: BlobSource) -> None:
        self._store = store
        self._source = source
        self.location = source.location

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        if self._store.has(digest):
            return _stored(self._store, digest)
        return self._source.stream(digest, size)


def manifest_of(registry: Registry, digest: Digest) -> bytes:
    """A manifest that is there. Raises RegistryError if it is not."""
    manifest = registry.manifest(str(digest))
    if manifest is None:
        raise RegistryError("the registry lost a manifest that was pushed",
                            where=f"{registry.name}@{digest}", fix="run it again")
    return manifest


def make(image: Image, tag: str, registry: Registry, store: Store, progress: Progress,
         lent: Container[Digest] = (), source: BlobSource | None = None,
         beside: Callable[[], None] = lambda: None,
         before: Digest | None = None) -> tuple[Pushed, int, int]:
    """Push what is not there. Returns the result, how many blobs were sent, and their bytes.

    `lent` layers come from `source`, the base image's home, where the registry can take them over
    from there or the store does not have them. `beside` is called meanwhile, in a thread, and has
    ended before the manifest is put. `before` is a manifest that was pushed earlier: if it is still
    there, so are its blobs. Raises what `beside` does, RegistryError, and StoreError for a blob
    that the store lost.
    """
    def send(digest: Digest, size: int) -> None:
        if source is not None and digest in lent and (is_near or not store.has(digest)):
            registry.copy_blob(digest, size, _AtHand(store, source), progress)
        else:
            registry.put_blob(digest, size, store, progress)
        progress.advance(0, layers=1)

    def send_missing(layers: Sequence[Layer]) -> dict[Digest, int]:
        there = pool.map(lambda layer: registry.has_blob(layer.digest), layers)
        missing = {layer.digest: layer.size
                   for layer, present in zip(layers, there, strict=True) if not present}
        progress.expect(sum(missing.values()), layers=len(missing))
        # Not `submit`: where one fails, or Ctrl-C comes, those that have not begun are given up.
        for _ in pool.map(send, missing, missing.values()):
            pass
        return missing

    here, home = registry.location, source.location if source is not None else None
    is_near = here is not None and home is not None and here[0] == home[0]
    known = _blobs(registry, before)
    store.put(image.config)
    with Workers(_UPLOADS + 1) as pool:
        other = pool.submit(beside)
        sent = send_missing([layer for layer in image.layers if layer.digest not in known])
        # Where a layer was missing there was no image with this config.
        if sent or not registry.has_blob(image.config_digest):
            progress.expect(len(image.config))
            registry.put_blob(image.config_digest, len(image.config), store, progress)
        other.result()
        try:
            registry.put_manifest(image.manifest, tag)
        except RegistryError:
            if not known:
                raise
            # Perhaps a blob was deleted from under the earlier manifest.
            sent |= send_missing([layer for layer in image.layers if layer.digest in known])
            registry.put_manifest(image.manifest, tag)
    return pushed(image, tag, registry), len(sent), sum(sent.values())


def _blobs(registry: Registry, manifest: Digest | None) -> frozenset[Digest]:
    """The digests of the layers that a manifest names, if it is there with them."""
    import json

    if manifest is None or not registry.still_has(manifest):
        return frozenset()
    data = json.loads(registry.manifest(str(manifest)) or b"{}")
    return frozenset(Digest.parse(layer["digest"]) for layer in data.get("layers", ()))


def pushed(image: Image, tag: str, registry: Registry) -> Pushed:
    """Where an image is that the registry has."""
    return Pushed(reference=f"{registry.name}@{image.digest}", tag=tag, digest=image.digest,
                  config=image.config_digest)

"""Images that others made, as bases: out of a registry, an OCI layout or a Docker engine.

Source: OCI image-spec 1.1 (image-index.md, manifest.md, config.md); Docker's image manifest v2,
schema 2, which differs in its media types alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from toolchain.digest import Digest
from toolchain.errors import ConfigError, ResolveError, StoreError, without_credentials
from toolchain.image import INDEX, MANIFEST
from toolchain.layer.archive import LayerWriter, plain
from toolchain.layer.survey import Survey
from toolchain.lock.image import BaseLayer, ImagePins
from toolchain.progress import Progress
from toolchain.push import BlobSource
from toolchain.reference import DOCKER_HUB, parse_reference
from toolchain.store import Store

if TYPE_CHECKING:
    from toolchain.adapters.docker_engine import DockerEngine
    from toolchain.adapters.registry import HttpRegistry

_DOWNLOADS = 4
_ENGINE = "docker-daemon:"
_HIGHEST_RATIO = 1040  # deflate cannot do better than 1032:1
_SLACK = 1 << 20
_LARGEST_DOCUMENT = 8 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REF_NAME = "org.opencontainers.image.ref.name"
_MANIFESTS = {MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"}
_INDEXES = {INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"}
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# Docker's names of layers -> OCI's, for the same bytes.
_LAYERS = {
    f"{_OCI_LAYER}+gzip": f"{_OCI_LAYER}+gzip", f"{_DOCKER_LAYER}.gzip": f"{_OCI_LAYER}+gzip",
    f"{_OCI_LAYER}+zstd": f"{_OCI_LAYER}+zstd", f"{_DOCKER_LAYER}.zstd": f"{_OCI_LAYER}+zstd",
    _OCI_LAYER: _OCI_LAYER, _DOCKER_LAYER: _OCI_LAYER,
}


class Home(BlobSource, Protocol):
    """Where an image is: a repository of a registry, or an OCI layout."""

    def document(self, reference: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a manifest or index by tag or digest; None if not there."""


class BaseImages:
    """Implements toolchain.lock.image.Images, and gives the layers of what was pinned.

    `repository(host, name)` is a repository of a registry, `engine()` the Docker engine. `hub` is
    the registry of names without a host; Docker Hub if it is empty. Paths of layouts are relative
    to `root`.
    """

    def __init__(self, *, root: Path, hub: str, store: Store, progress: Progress,
                 repository: Callable[[str, str], HttpRegistry],
                 engine: Callable[[], DockerEngine]) -> None:
        self._root = root
        self._hub = hub
        self._store = store
        self._progress = progress
        self._repository = repository
        self._engine = engine

    def pin(self, reference: str, platform: str) -> ImagePins:
        if reference.startswith(_ENGINE):
            return self._pin_engine(reference, platform)
        home, wanted = self._home(reference)
        manifest, digest = _manifest(home, wanted, reference, platform)
        descriptor = manifest["config"]
        config = _json(_small(home, descriptor, reference), reference)
        _check_platform(config, platform, reference)
        layers = _layers(manifest, config, reference)
        self._fetch(home, layers)
        return _pins(reference, platform, digest, config, layers,
                     self._survey(layers, reference))

    def source(self, pins: ImagePins) -> BlobSource:
        """Where the layers of a pinned image can be had."""
        if pins.reference.startswith(_ENGINE):
            return _Stored(self._store, lambda: self._take(pins.reference, pins.digest))
        return self._home(pins.reference)[0]

    def _pin_engine(self, reference: str, platform: str) -> ImagePins:
        if reference == _ENGINE:
            raise ResolveError("no image of the Docker engine is named",
                               where=f"image.base = {reference}",
                               fix=f"write it as {_ENGINE}NAME[:TAG]; `docker images` lists them")
        image = self._engine().inspect(reference.removeprefix(_ENGINE))
        if image.platform != platform:
            raise _other_platform(image.platform, platform, reference)
        taken = self._take(reference, image.id)
        layers = tuple(taken[diff_id] for diff_id in image.diff_ids)
        return _pins(reference, platform, image.id, {"config": image.config}, layers,
                     self._survey(layers, reference))

    def _take(self, reference: str, pinned: Digest) -> dict[Digest, BaseLayer]:
        """Put an image's layers into the store, out of the engine: by diff_id."""
        engine = self._engine()
        image = engine.inspect(reference.removeprefix(_ENGINE))
        if image.id != pinned:
            raise ResolveError(
                f"the Docker engine's image is another now: {image.id}, not {pinned}",
                where=f"image.base = {reference}",
                fix="pin it anew with upgrade=1, or bring the pinned one back")
        saved, found = engine.saved(image), {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for stream in saved.layers():
                with LayerWriter(self._store, reference, pool) as writer:
                    writer.copy(cast("IO[bytes]", stream))
                made = writer.layer
                assert made is not None
                found[made.diff_id] = BaseLayer(digest=made.digest, diff_id=made.diff_id,
                                                size=made.size, media_type=made.media_type)
        return found

    def _home(self, reference: str) -> tuple[Home, str]:
        """Where a reference points, and the tag or digest to ask for there."""
        if reference.startswith("oci:"):
            folder, _, tag = reference.removeprefix("oci:").partition(":")
            return Layout(self._root / folder, reference), tag
        try:
            found = parse_reference(reference)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"image.base = {error.where}",
                              fix=error.fix) from None
        host = self._hub if self._hub and found.host == DOCKER_HUB else found.host
        return self._repository(host, found.repository), found.wanted

    def _fetch(self, home: Home, layers: tuple[BaseLayer, ...]) -> None:
        """Put the layers into the store."""
        missing = [layer for layer in layers if not self._store.has(layer.digest)]
        self._progress.expect(sum(layer.size for layer in missing))

        def fetch(layer: BaseLayer) -> None:
            with self._store.writer(layer.digest) as blob:
                for piece in home.stream(layer.digest, layer.size):
                    blob.write(piece)
                    self._progress.advance(len(piece))

        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            list(pool.map(fetch, missing))

    def _survey(self, layers: tuple[BaseLayer, ...], reference: str) -> Survey:
        survey = Survey()
        for layer in layers:
            with self._store.open(layer.digest) as blob:
                most = _SLACK + _HIGHEST_RATIO * layer.size
                try:
                    unpacked = _Hashed(plain(blob, layer.media_type, most))
                    survey.layer(cast("IO[bytes]", unpacked))
                    unpacked.drain()
                except (tarfile.TarError, ValueError, StoreError) as error:
                    raise _bad(reference, f"layer {layer.digest} is damaged: {error}") from None
                if unpacked.digest != layer.diff_id:
                    raise _bad(reference, f"layer {layer.digest} does not hold what the image's "
                                          "config names")
        return survey


class _Stored:
    """Blobs that are put into the store before they are read. Implements BlobSource."""

    location: tuple[str, str] | None = None

    def __init__(self, store: Store, fill: Callable[[], object]) -> None:
        self._store = store
        self._fill = fill
        self._lock = threading.Lock()

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        with self._lock:  # filled once for all that are missing
            if not self._store.has(digest):
                self._fill()
        with self._store.open(digest) as stream:
            while piece := stream.read(1 << 20):
                yield piece


class Layout:
    """An OCI image layout that others made (image-layout.md). Implements Home."""

    location: tuple[str, str] | None = None

    def __init__(self, folder: Path, shown: str) -> None:
        self._folder = folder
        self._shown = shown

    def document(self, reference: str) -> tuple[str, bytes] | None:
        if reference.startswith("sha256:"):
            data = self._blob(Digest.parse(reference)).read(_LARGEST_DOCUMENT)
            return str(_json(data, self._shown).get("mediaType", "")), data
        try:
            index = _json((self._folder / "index.json").read_bytes(), self._shown)
        except OSError as error:
            raise ResolveError(f"not an OCI image layout: {error.strerror}",
                               where=f"image.base = {self._shown}",
                               fix="write it as oci:PATH[:TAG], relative to the workspace"
                               ) from None
        found = index.get("manifests")
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise _bad(self._shown, "its index.json names no manifests")
        if not reference and len(found) > 1:
            index["mediaType"] = INDEX
            return INDEX, json.dumps(index).encode()
        for item in found:
            name = (item.get("annotations") or {}).get(_REF_NAME, "")
            if not reference or name == reference or name.endswith(f":{reference}"):
                return self.document(str(_digest(item, self._shown)))
        return None

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        sha, left = hashlib.sha256(), size
        with self._blob(digest) as stream:
            while piece := stream.read(1 << 20):
                sha.update(piece)
                left -= len(piece)
                last = left == 0
                if left < 0 or (last and Digest(sha.hexdigest()) != digest):
                    raise _bad(self._shown, f"blob {digest} is damaged")
                yield piece
        if left:
            raise _bad(self._shown, f"blob {digest} is cut short")

    def _blob(self, digest: Digest) -> IO[bytes]:
        try:
            return open(self._folder / "blobs" / "sha256" / digest.hex, "rb")
        except OSError as error:
            raise _bad(self._shown, f"blob {digest} cannot be read: {error.strerror}") from None


class _Hashed(io.RawIOBase):
    """A layer's tar, hashed while it is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size if size >= 0 else 1 << 20)
        self._sha.update(data)
        return data

    def drain(self) -> None:
        """Read what follows the archive's end."""
        while self.read(1 << 20):
            pass

    @property
    def digest(self) -> Digest:
        return Digest(self._sha.hexdigest())


def _manifest(home: Home, wanted: str, reference: str,
              platform: str) -> tuple[dict[str, Any], Digest]:
    """The manifest for a platform, and its digest."""
    found = home.document(wanted)
    if found is None:
        raise ResolveError("there is no such base image", where=f"image.base = {reference}",
                           fix="check its name and tag")
    kind, data = found
    if kind in _INDEXES:
        digest = _chosen(_json(data, reference), reference, platform)
        found = home.document(str(digest))
        if found is None:
            raise _bad(reference, f"its index names {digest}, which is not there")
        kind, data = found
    manifest = _json(data, reference)
    if (kind or manifest.get("mediaType")) not in _MANIFESTS:
        raise _bad(reference, f"its manifest is of a kind that is not known: {kind[:100]!r}")
    return manifest, Digest.of(data)


def _chosen(index: dict[str, Any], reference: str, platform: str) -> Digest:
    """The entry of an index for a platform. A variant counts only if it is asked for."""
    offered = []
    for item in index.get("manifests", []):
        entry = item.get("platform") or {}
        name = f"{entry.get('os')}/{entry.get('architecture')}"
        if platform in (name, f"{name}/{entry.get('variant')}"):
            return _digest(item, reference)
        offered.append(name)
    known = ", ".join(sorted({name for name in offered if "unknown" not in name})) or "none"
    raise ResolveError(f"the base image is not for {platform}, only for: {known}",
                       where=f"image.base = {reference}",
                       fix="name another base image, or another image.platform")


def _check_platform(config: dict[str, Any], platform: str, reference: str) -> None:
    found = f"{config.get('os')}/{config.get('architecture')}"
    if found != "/".join(platform.split("/")[:2]):
        raise _other_platform(found, platform, reference)


def _other_platform(found: str, wanted: str, reference: str) -> ResolveError:
    return ResolveError(f"the base image is for {found}, not for {wanted}",
                        where=f"image.base = {reference}",
                        fix="name another base image, or another image.platform")


def _layers(manifest: dict[str, Any], config: dict[str, Any],
            reference: str) -> tuple[BaseLayer, ...]:
    layers = []
    try:
        pairs = list(zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True))
        for item, diff_id in pairs:
            if item["mediaType"] not in _LAYERS:
                raise _bad(reference, f"a layer is of a kind that cannot be copied: "
                                      f"{item['mediaType']!r}")
            layers.append(BaseLayer(digest=_digest(item, reference),
                                    diff_id=Digest.parse(diff_id), size=int(item["size"]),
                                    media_type=_LAYERS[item["mediaType"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(reference, f"manifest and config do not fit: {error}") from None
    return tuple(layers)


def _pins(reference: str, platform: str, digest: Digest, config: dict[str, Any],
          layers: tuple[BaseLayer, ...], survey: Survey) -> ImagePins:
    runtime = config.get("config") or {}
    environment = tuple(str(item) for item in runtime.get("Env") or ())
    search = next((item.removeprefix("PATH=") for item in environment
                   if item.startswith("PATH=")), _PATH)
    glibc = survey.glibc()
    if not glibc:
        system = "musl (Alpine)" if survey.is_musl() else "no known C library"
        raise ResolveError(f"the base image has {system}, and wheels for Linux need glibc",
                           where=f"image.base = {reference}",
                           fix="name one that is based on Debian, such as python:3.11-slim")
    return ImagePins(
        reference=reference, platform=platform, digest=digest, glibc=glibc,
        suite=survey.suite(), pythons=survey.pythons(search), environment=environment,
        labels={str(k): str(v) for k, v in (runtime.get("Labels") or {}).items()},
        layers=layers, installed=survey.installed(),
    )


def _small(home: Home, descriptor: dict[str, Any], reference: str) -> bytes:
    size = descriptor.get("size")
    if not isinstance(size, int) or not 0 <= size <= _LARGEST_DOCUMENT:
        raise _bad(reference, "its config has no sensible size")
    return b"".join(home.stream(_digest(descriptor, reference), size))


def _digest(descriptor: Any, reference: str) -> Digest:
    try:
        return Digest.parse(descriptor["digest"])
    except (KeyError, TypeError, ValueError):
        raise _bad(reference, "it names a blob by something that is no sha256") from None


def _json(data: bytes, reference: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _bad(reference, "a document of it is not JSON")
    return value


def _bad(reference: str, reason: str) -> ResolveError:
    return ResolveError(f"the base image cannot be used: {reason}",
                        where=f"image.base = {without_credentials(reference)}",
                        fix="name another image, or another tag of it")

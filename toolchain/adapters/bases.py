"""Images that others made, as bases: out of a registry, an OCI layout or a Docker engine."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from toolchain.adapters.docker_save import LARGEST_IMAGE
from toolchain.adapters.documents import (
    Home,
    check_platform,
    layers_of,
    manifest,
    other_platform,
    parsed,
    runtime_of,
    small,
    unusable,
)
from toolchain.adapters.foreign_layout import ForeignLayout
from toolchain.adapters.hashed import Hashed
from toolchain.digest import Digest
from toolchain.errors import ConfigError, ResolveError, StoreError, without_credentials
from toolchain.layer.archive import LayerWriter, plain
from toolchain.layer.survey import Survey
from toolchain.lock.image import BaseLayer, ImagePins
from toolchain.progress import Progress
from toolchain.push import BlobSource
from toolchain.reference import DOCKER_HUB, parse_reference
from toolchain.store import Store
from toolchain.workers import Workers

if TYPE_CHECKING:
    from toolchain.adapters.docker_engine import DockerEngine
    from toolchain.adapters.registry import HttpRegistry

_DOWNLOADS = 4
_ENGINE = "docker-daemon:"
_DOCKERFILE = "dockerfile:"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
        if reference.startswith(_DOCKERFILE):
            return self._pin_engine(reference, self._build(reference, platform), platform)
        if reference.startswith(_ENGINE):
            return self._pin_engine(reference, reference.removeprefix(_ENGINE), platform)
        home, wanted = self._home(reference)
        document, digest = manifest(home, wanted, reference, platform)
        config = parsed(small(home, document.get("config"), reference), reference)
        check_platform(config, platform, reference)
        layers = layers_of(document, config, reference)
        self._fetch(home, layers)
        return _pins(reference, platform, digest, config, layers,
                     self._survey(layers, reference))

    def source(self, pins: ImagePins) -> BlobSource:
        """Where the layers of a pinned image can be had."""
        if pins.reference.startswith((_ENGINE, _DOCKERFILE)):
            # What was built is found by its ID; it has no name.
            name = (str(pins.digest) if pins.reference.startswith(_DOCKERFILE)
                    else pins.reference.removeprefix(_ENGINE))
            return _Stored(self._store, lambda: self._take(pins.reference, name, pins.digest))
        return self._home(pins.reference)[0]

    def _build(self, reference: str, platform: str) -> str:
        """Have the engine build a Dockerfile, alone; the image's ID."""
        place, _, digest = reference.removeprefix(_DOCKERFILE).rpartition("@")
        try:
            data = (self._root / place).read_bytes()
        except OSError as error:
            raise ResolveError(f"cannot be read: {error.strerror}", where=place,
                               fix="name another file as image.base") from None
        if str(Digest.of(data)) != digest:
            raise ResolveError("changed while it was being read", where=place,
                               fix="run the command again when nothing writes there")
        return self._engine().build(data, platform, place)

    def _pin_engine(self, reference: str, name: str, platform: str) -> ImagePins:
        if not name:
            raise ResolveError("no image of the Docker engine is named",
                               where=f"image.base = {reference}",
                               fix=f"write it as {_ENGINE}NAME[:TAG]; `docker images` lists them")
        image = self._engine().inspect(name)
        if image.platform != platform:
            raise other_platform(image.platform, platform, reference)
        taken = self._take(reference, name, image.id)
        layers = tuple(taken[diff_id] for diff_id in image.diff_ids)
        return _pins(reference, platform, image.id, {"config": image.config}, layers,
                     self._survey(layers, reference))

    def _take(self, reference: str, name: str, pinned: Digest) -> dict[Digest, BaseLayer]:
        """Put an image's layers into the store, out of the engine: by diff_id."""
        engine = self._engine()
        image = engine.inspect(name)
        if image.id != pinned:
            raise ResolveError(
                f"the Docker engine's image is another now: {image.id}, not {pinned}",
                where=f"image.base = {reference}",
                fix="pin it anew with upgrade=1, or bring the pinned one back")
        saved, found = engine.saved(image), {}
        with Workers(os.cpu_count()) as pool:
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
            return ForeignLayout(self._root / folder, reference), tag
        try:
            found = parse_reference(reference)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"image.base = {error.where}",
                              fix=error.fix) from None
        host = self._hub if self._hub and found.host == DOCKER_HUB else found.host
        try:
            return self._repository(host, found.repository), found.wanted
        except ConfigError as error:  # the other names have been looked at
            raise ConfigError(
                error.what, where=f"image.hub = {without_credentials(host)}",
                fix="use https, or name it in image.insecure as well") from None

    def _fetch(self, home: Home, layers: tuple[BaseLayer, ...]) -> None:
        """Put the layers into the store."""
        missing = [layer for layer in layers if not self._store.has(layer.digest)]
        self._progress.expect(sum(layer.size for layer in missing))

        def fetch(layer: BaseLayer) -> None:
            with self._store.writer(layer.digest) as blob:
                for piece in home.stream(layer.digest, layer.size):
                    blob.write(piece)
                    self._progress.advance(len(piece))

        with Workers(_DOWNLOADS) as pool:
            list(pool.map(fetch, missing))

    def _survey(self, layers: tuple[BaseLayer, ...], reference: str) -> Survey:
        survey, left = Survey(), LARGEST_IMAGE
        for layer in layers:
            with self._store.open(layer.digest) as blob:
                try:
                    unpacked = Hashed(plain(blob, layer.media_type, left))
                    survey.layer(unpacked)
                    unpacked.drain()
                except ValueError as error:
                    raise unusable(reference, f"layer {layer.digest}: {error}") from None
                except (tarfile.TarError, StoreError) as error:
                    reason = error.what if isinstance(error, StoreError) else error
                    raise unusable(reference,
                                   f"layer {layer.digest} is damaged: {reason}") from None
                left -= unpacked.size
                if unpacked.digest != layer.diff_id:
                    raise unusable(reference, f"layer {layer.digest} does not hold what the "
                                              "image's config names")
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


def _pins(reference: str, platform: str, digest: Digest, config: dict[str, Any],
          layers: tuple[BaseLayer, ...], survey: Survey) -> ImagePins:
    environment, labels = runtime_of(config, reference)
    search = next((item.removeprefix("PATH=") for item in environment
                   if item.startswith("PATH=")), _PATH)
    glibc = survey.glibc()
    if not glibc:
        system = "musl (Alpine)" if survey.is_musl() else "no known C library"
        raise ResolveError(f"the base image has {system}, and wheels for Linux need glibc",
                           where=f"image.base = {reference}",
                           fix="name one that is based on Debian, such as python:3.11-slim")
    system, release = survey.system()
    return ImagePins(
        reference=reference, platform=platform, digest=digest, glibc=glibc,
        suite=survey.suite(), pythons=survey.pythons(search), environment=environment,
        labels=labels, layers=layers, installed=survey.installed(),
        alternatives=survey.alternatives() if survey.suite() else {},
        libraries=survey.libraries() if survey.suite() else {},
        homes=survey.homes(search), is_occupied=survey.is_occupied, system=system, release=release,
    )

"""Image -> a container engine on this machine; only the layers that it lacks move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from toolchain import bundle
from toolchain.errors import EngineError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What loading came to. `names` are what the engine calls the image now."""

    names: tuple[str, ...]
    layers: int  # that were sent
    size: int  # of these, in bytes
    there: bool  # whether the engine had the image already


class ImageEngine(Protocol):
    """A container engine that keeps images. Every method raises EngineError."""

    def check(self, image: Image) -> None:
        """Raise for an image that this engine cannot run."""

    def find(self, image: Image) -> str | None:
        """The engine's ID of the very image; None if it does not have it."""

    def shared(self, image: Image) -> int:
        """How many of the image's first layers the engine has, so that they need not be sent."""

    def load(self, archive: Iterator[bytes]) -> None:
        """Read a bundle. Success means that the engine took it in whole; twice is as once."""

    def tag(self, image_id: str, names: tuple[str, ...]) -> None:
        """Make `names` mean this image, whatever they meant before."""


def make(image: Image, names: tuple[str, ...], engine: ImageEngine, fetch: bundle.Fetch,
         progress: Progress) -> Loaded:
    """Bring the image into the engine under `names`."""
    engine.check(image)
    there = engine.find(image)
    if there is not None:
        engine.tag(there, names)
        return Loaded(names=names, layers=0, size=0, there=True)
    sent = _send(image, names, engine, fetch, progress)
    found = engine.find(image)
    if found is None:
        raise EngineError("the engine took the archive, but does not have the image",
                          where=f"image {image.config_digest}",
                          fix="see the engine's log; try again")
    engine.tag(found, names)
    return Loaded(names=names, layers=len(sent.blobs), size=sent.size, there=False)


def _send(image: Image, names: tuple[str, ...], engine: ImageEngine, fetch: bundle.Fetch,
          progress: Progress) -> bundle.Bundle:
    number = engine.shared(image)
    needed = bundle.make(image, names, without=frozenset(
        layer.digest for layer in image.layers[:number]
    ) - {layer.digest for layer in image.layers[number:]})
    try:
        _carry(needed, engine, fetch, progress)
    except EngineError:
        if not number:
            raise
        # An image was removed there in the meantime, and with it layers that were not sent; or
        # the engine is one that wants every layer's file.
        needed = bundle.make(image, names)
        _carry(needed, engine, fetch, progress)
    return needed


def _carry(what: bundle.Bundle, engine: ImageEngine, fetch: bundle.Fetch,
           progress: Progress) -> None:
    progress.expect(what.size)
    engine.load(bundle.pieces(what, fetch))

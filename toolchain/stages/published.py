"""What a project's image would be made of, and whether a registry has it already.

Both are known before a layer is built: from the locks and the project's files alone.
"""

from __future__ import annotations

import shlex
from typing import Any

from toolchain import image, layer, push
from toolchain.chain import Chain, once
from toolchain.digest import Digest
from toolchain.errors import ConfigError
from toolchain.layer import runner
from toolchain.lock.image import ImagePins
from toolchain.stages import parse, resolve

USER = str(layer.USER_ID)


@once
def base_plan(chain: Chain) -> Any:
    from toolchain.layer.compression import compression

    how = compression(chain.config.image_compression)
    return {**layer.base_plan(resolve.result(chain), resolve.base(chain), how.identity),
            "runner": runner.key(how).hex, **_on_image(chain)}


def _on_image(chain: Chain) -> dict[str, Any]:
    """What an image below decides of the layers above it, where that is not what it is without."""
    pins, lock = base_image(chain), resolve.result(chain)
    if pins is None:
        return {}
    large = layer.most_large(lock, len(pins.layers))
    return {**({"large": large} if large != layer.most_large(lock, 0) else {}),
            **({"hides": True} if hides(chain) else {})}


@once
def layer_plan(chain: Chain) -> Any:
    from toolchain.layer.compression import compression
    from toolchain.layer.project import plan

    def memo(question: Any, answer: Any) -> Any:
        key = Digest.of_json(question)
        known = chain.session.trace.get("ignore", key)
        if known is None:
            known = answer()
            chain.session.trace.note("ignore", key, known)
        return known

    planned = plan(chain.tree, parse.result(chain), memo,
                   compression(chain.config.image_compression))
    chain.tree.remember()
    return planned


def image_plan(chain: Chain) -> Any:
    return image.plan(base_plan(chain), layer_plan(chain), USER, chain.config.image_platform,
                      variables(chain), command(chain))


def command(chain: Chain) -> tuple[str, ...]:
    """What the image runs instead of an entry point; empty where it runs those."""
    try:
        return tuple(shlex.split(chain.config.image_command))
    except ValueError as error:
        raise ConfigError(f"not a command: {error}", where=f"{chain.name}: image.command",
                          fix="write it as in a shell, with quotes in pairs") from None


def variables(chain: Chain) -> dict[str, str]:
    """What the project sets in the environment of its entry points, here and in the image."""
    where = {"CONDA_PREFIX": f"/{layer.PREFIX}"} if resolve.result(chain).conda else {}
    return {**where, **parse.result(chain).variables}


def tag(chain: Chain) -> str:
    return Digest.of_json(image_plan(chain)).hex


def published(chain: Chain) -> image.Image | None:
    """The image, if the registry has it whole; then its layers need not be here.

    Of a project for several platforms, the image for the first.
    """
    chain = chain.on(chain.platforms[0])
    registry = chain.session.tools.registry(chain.config)
    found = push.find(registry, tag(chain))
    return found if found is not None and registry.still_has(found.digest) else None


def are_here(chain: Chain, layers: tuple[layer.Layer, ...]) -> bool:
    """Whether the layers can be had without building: in the store, or out of the base image."""
    lent = {item.digest for item in base_image_layers(chain)}
    return all(item.digest in lent or chain.session.store.has(item.digest) for item in layers)


def base_image(chain: Chain) -> ImagePins | None:
    """The image that somebody else made and this one stands on, if it does."""
    if "image" not in resolve.base(chain):
        return None
    pins = resolve.foundation(chain).base
    assert isinstance(pins, ImagePins)
    return pins


def hides(chain: Chain) -> bool:
    """Whether what the image below has in the place of this tool's environment is not seen: it is
    where it is the environment of a project's own image."""
    pins = base_image(chain)
    if pins is None or not pins.is_occupied:
        return False
    return not own_packages(chain, pins).startswith(f"/{layer.PREFIX}/")


def own_packages(chain: Chain, pins: ImagePins) -> str:
    """Where a project's own image has packages besides those of its interpreter; empty if it does
    not, or the image is not the project's own."""
    return (pins.own_packages(resolve.result(chain).python_minor)
            if "own packages" in resolve.base(chain) else "")


def base_image_layers(chain: Chain) -> tuple[layer.Layer, ...]:
    """The layers of the base image, if it is one; they are never built here."""
    pins = base_image(chain)
    return () if pins is None else tuple(
        layer.Layer(digest=item.digest, diff_id=item.diff_id, size=item.size,
                    media_type=item.media_type,
                    label=f"{pins.reference} {number}/{len(pins.layers)}")
        for number, item in enumerate(pins.layers, 1))

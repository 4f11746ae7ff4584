"""Layers -> Image -> Pushed."""

from __future__ import annotations

from typing import Any

from toolchain import image, push
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.layer import HOME, USER_NAME, Layer, from_json
from toolchain.lock.image import ImagePins
from toolchain.stages import base, layer, resolve, size
from toolchain.stages.published import USER, are_here, base_image_layers, image_plan, tag

NAME = "push"


def plan(chain: Chain) -> Any:
    return {"image": image_plan(chain),
            "to": chain.session.tools.registry_name(chain.config)}


def stands(chain: Chain, value: Any) -> bool:
    pushed = push.Pushed.from_json(value)
    return chain.session.tools.registry(chain.config).still_has(pushed.digest)


def make(chain: Chain) -> Made:
    registry = chain.session.tools.registry(chain.config)
    built = _assemble(chain, (*base.result(chain), layer.result(chain)))
    if registry.manifest(tag(chain)) == built.manifest and registry.still_has(built.digest):
        there = push.Pushed(reference=f"{registry.name}@{built.digest}", tag=tag(chain),
                            digest=built.digest)
        return Made(value=there.to_json(), words=f"already at {there.reference}")
    if not are_here(chain, built.layers):
        # What a registry had is gone from there, or another registry is meant now.
        built = _assemble(chain, (*from_json(base.build(chain).value),
                                  *from_json(layer.build(chain).value)))
    lent = {item.digest for item in base_image_layers(chain)}
    source = chain.session.tools.base_source(_base_image(chain)) if lent else None
    with chain.session.progress(f"{NAME} {chain.name}") as progress:
        pushed, number, sent = push.make(built, tag(chain), registry, chain.session.store,
                                         progress, lent, source)
    return Made(value=pushed.to_json(), words=f"sent {number} of {len(built.layers)} layers "
                                              f"({size(sent)}) to {pushed.reference}")


def join(chain: Chain, values: dict[str, Any]) -> Any:
    """Publish an index of the images for every platform."""
    registry = chain.session.tools.registry(chain.config)
    images = {}
    for platform, value in values.items():
        digest = push.Pushed.from_json(value).digest
        images[platform] = (digest, push.manifest_size(registry, digest))
    index = image.index(images)
    name = Digest.of_json({platform: tag(chain.on(platform)) for platform in values}).hex
    registry.put_manifest(index, name)
    digest = Digest.of(index)
    return push.Pushed(reference=f"{registry.name}@{digest}", tag=name, digest=digest).to_json()


def _assemble(chain: Chain, layers: tuple[Layer, ...]) -> image.Image:
    platform = chain.config.image_platform
    if not base_image_layers(chain):
        return image.make(layers, USER, platform)
    pins = _base_image(chain)
    # The ordinary user is in no /etc/passwd there.
    user = (f"HOME=/{HOME}", f"LOGNAME={USER_NAME}")
    return image.make(layers, USER, platform, (*pins.environment, *user), pins.labels)


def _base_image(chain: Chain) -> ImagePins:
    pins = resolve.foundation(chain).base
    assert isinstance(pins, ImagePins)
    return pins


def result(chain: Chain) -> push.Pushed:
    return push.Pushed.from_json(chain.value(NAME, plan))

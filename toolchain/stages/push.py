"""Layers -> Image -> Pushed."""

from __future__ import annotations

from typing import Any

from toolchain import image, push
from toolchain.chain import Chain, Made
from toolchain.layer import from_json
from toolchain.stages import base, layer, size
from toolchain.stages.published import USER, are_here, image_plan, tag

NAME = "push"


def plan(chain: Chain) -> Any:
    return {"image": image_plan(chain),
            "to": chain.session.tools.registry_name(chain.config)}


def stands(chain: Chain, value: Any) -> bool:
    pushed = push.Pushed.from_json(value)
    return chain.session.tools.registry(chain.config).still_has(pushed.digest)


def make(chain: Chain) -> Made:
    registry = chain.session.tools.registry(chain.config)
    platform = chain.config.image_platform
    built = image.make((*base.result(chain), layer.result(chain)), USER, platform)
    if registry.manifest(tag(chain)) == built.manifest and registry.still_has(built.digest):
        there = push.Pushed(reference=f"{registry.name}@{built.digest}", tag=tag(chain),
                            digest=built.digest)
        return Made(value=there.to_json(), words=f"already at {there.reference}")
    if not are_here(chain, built.layers):
        # What a registry had is gone from there, or another registry is meant now.
        built = image.make((*from_json(base.build(chain).value),
                            *from_json(layer.build(chain).value)), USER, platform)
    with chain.session.progress(f"{NAME} {chain.name}") as progress:
        pushed, number, sent = push.make(built, tag(chain), registry, chain.session.store,
                                         progress)
    return Made(value=pushed.to_json(), words=f"sent {number} of {len(built.layers)} layers "
                                              f"({size(sent)}) to {pushed.reference}")


def result(chain: Chain) -> push.Pushed:
    return push.Pushed.from_json(chain.value(NAME, plan))

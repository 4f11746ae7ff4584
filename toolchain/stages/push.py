"""Layers -> Image -> Pushed."""

from __future__ import annotations

from typing import Any

from toolchain import image, push
from toolchain.chain import Chain, Made
from toolchain.layer import from_json
from toolchain.stages import base, layer, size
from toolchain.stages.published import USER, are_here, image_plan, tag

NAME = "push"
_SCHEMA = 2


def plan(chain: Chain) -> Any:
    return {"schema": _SCHEMA, "image": image_plan(chain),
            "to": chain.session.tools.registry_name(chain.config)}


def stands(chain: Chain, value: Any) -> bool:
    pushed = push.Pushed.from_json(value)
    return chain.session.tools.registry(chain.config).still_has(pushed.digest)


def make(chain: Chain) -> Made:
    registry = chain.session.tools.registry(chain.config)
    platform = chain.config.image_platform
    layers = (*base.result(chain), layer.result(chain))
    there = push.find(registry, tag(chain))
    if (there is not None and there.layers == layers
            and there.config == image.make(layers, USER, platform).config
            and registry.still_has(there.digest)):
        # Whoever pushed it first annotated it; the content is the same.
        found = push.pushed(there, tag(chain), registry)
        return Made(value=found.to_json(), words=f"already at {found.reference}")
    if not are_here(chain, layers):
        # What a registry had is gone from there, or another registry is meant now.
        layers = (*from_json(base.build(chain).value), *from_json(layer.build(chain).value))
    from toolchain import attest
    from toolchain.stages import attested

    source = attested.source(chain)
    built = image.make(layers, USER, platform, attested.annotate(chain, source))
    session = chain.session
    with session.progress(f"{NAME} {chain.name}") as progress:
        if chain.config.image_attest:
            attest.attach(attested.documents(chain, source, built), built, source.created,
                          registry, session.store, progress)
        pushed, number, sent = push.make(built, tag(chain), registry, session.store, progress)
    return Made(value=pushed.to_json(), words=f"sent {number} of {len(built.layers)} layers "
                                              f"({size(sent)}) to {pushed.reference}")


def result(chain: Chain) -> push.Pushed:
    return push.Pushed.from_json(chain.value(NAME, plan))

"""Layers -> Image -> Pushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain import image, push
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.layer import HOME, USER_NAME, Layer, from_json
from toolchain.lock.image import ImagePins
from toolchain.progress import Progress
from toolchain.stages import base, layer, size
from toolchain.stages.published import (
    USER,
    are_here,
    base_image,
    base_image_layers,
    command,
    image_plan,
    tag,
    variables,
)

NAME = "push"
_SCHEMA = 2
# Labels that say where an image is from and who made it (image-spec, annotations.md; the second
# is what was before). Those of a base say it of the base.
_OF_THE_BASE = ("org.opencontainers.image.", "org.label-schema.")


def plan(chain: Chain) -> Any:
    pins = base_image(chain)
    dropped = sorted(set(pins.labels) - set(_labels(pins))) if pins is not None else []
    return {"schema": _SCHEMA, "image": image_plan(chain),
            "to": chain.session.tools.registry_name(chain.config),
            **({"without labels": dropped} if dropped else {})}


def stands(chain: Chain, value: Any) -> bool:
    pushed = push.Pushed.from_json(value)
    return chain.session.tools.registry(chain.config).still_has(pushed.digest)


def make(chain: Chain) -> Made:
    registry = chain.session.tools.registry(chain.config)
    layers = (*base.result(chain), layer.result(chain))
    there = push.find(registry, tag(chain))
    if (there is not None and there.layers == layers
            and there.config == _assemble(chain, layers).config
            and registry.still_has(there.digest)):
        # Whoever pushed it first annotated it; the content is the same.
        found = push.pushed(there, tag(chain), registry)
        return Made(value=found.to_json(), words=f"already at {found.reference}")
    if not are_here(chain, layers):
        # What a registry had is gone from there, or another registry is meant now.
        layers = (*from_json(base.build(chain).value), *from_json(layer.build(chain).value))
    from toolchain import attest
    from toolchain.stages import attested

    origin = attested.source(chain)
    built = _assemble(chain, layers, attested.annotate(chain, origin))
    before = chain.value_before(NAME)
    session, lender = chain.session, base_image(chain)
    source = session.tools.base_source(lender, chain.config) if lender else None
    lent = {item.digest for item in base_image_layers(chain)}
    with session.progress(f"{NAME} {chain.name}") as progress:
        def attach() -> None:
            attest.attach(attested.documents(chain, origin, built), built.manifest,
                          origin.created, registry, session.store, progress)

        pushed, number, sent = push.make(
            built, tag(chain), registry, session.store, progress, lent, source,
            attach if chain.config.image_attest else lambda: None,
            None if before is None else push.Pushed.from_json(before).digest)
    return Made(value=pushed.to_json(), words=f"sent {number} of {len(built.layers)} layers "
                                              f"({size(sent)}) to {pushed.reference}")


def join(chain: Chain, values: dict[str, Any]) -> Any:
    """Publish an index of the images for every platform."""
    registry = chain.session.tools.registry(chain.config)
    index = image.index({
        platform: push.manifest_of(registry, push.Pushed.from_json(value).digest)
        for platform, value in values.items()})
    name = Digest.of_json({platform: tag(chain.on(platform)) for platform in values}).hex
    digest = Digest.of(index)
    if chain.config.image_attest and registry.manifest(str(digest)) is None:
        from toolchain import attest
        from toolchain.stages import attested

        origin = attested.source(chain)
        attest.attach(attested.of_index(chain, origin, index), index, origin.created, registry,
                      chain.session.store, Progress())
    registry.put_manifest(index, name)
    first = push.Pushed.from_json(values[chain.platforms[0]])
    return push.Pushed(reference=f"{registry.name}@{digest}", tag=name, digest=digest,
                       config=first.config).to_json()


def _assemble(chain: Chain, layers: tuple[Layer, ...],
              annotations: Mapping[str, str] | None = None) -> image.Image:
    platform, pins = chain.config.image_platform, base_image(chain)
    if pins is None:
        return image.make(layers, USER, platform, annotations, variables=variables(chain),
                          command=command(chain))
    # The ordinary user is in no /etc/passwd there.
    user = (f"HOME=/{HOME}", f"LOGNAME={USER_NAME}")
    return image.make(layers, USER, platform, annotations,
                      environment=(*pins.environment, *user), labels=_labels(pins),
                      variables=variables(chain), command=command(chain))


def _labels(pins: ImagePins) -> dict[str, str]:
    """The labels of a base image that hold for what stands on it too."""
    return {name: value for name, value in pins.labels.items()
            if not name.startswith(_OF_THE_BASE)}


def assembled(chain: Chain) -> image.Image:
    """The image's layers and config from the record, for the platform that this machine runs.

    Its manifest lacks annotations, so its digest is not that of what was pushed.
    """
    chain = chain.here
    return _assemble(chain, (*base.result(chain), layer.result(chain)))


def result(chain: Chain) -> push.Pushed:
    return push.Pushed.from_json(chain.value(NAME, plan))

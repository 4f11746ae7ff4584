"""The project's own files -> project Layer."""

from __future__ import annotations

import os
from typing import Any

from toolchain import layer
from toolchain.chain import Chain, Made
from toolchain.layer import Layer
from toolchain.stages import count, parse, size
from toolchain.stages.published import layer_plan, published
from toolchain.workers import Workers

NAME = "layer"
plan = layer_plan


def stands(chain: Chain, value: Any) -> bool:
    (built,) = layer.from_json(value)
    return chain.session.store.has(built.digest) or published(chain) is not None


def make(chain: Chain) -> Made:
    there = published(chain)
    if there is None:
        with chain.session.progress(f"{NAME} {chain.name}"):
            return build(chain)
    return Made(value=layer.to_json(there.layers[-1:]), words="in the registry")


def result(chain: Chain) -> Layer:
    (only,) = layer.from_json(chain.value(NAME, plan))
    return only


def build(chain: Chain) -> Made:
    """Build the layer here, whatever a registry has."""
    from toolchain.layer import project
    from toolchain.layer.compression import compression

    planned = plan(chain)
    with Workers(os.cpu_count()) as pool:
        built = project.make(planned, chain.tree, parse.result(chain),
                             chain.session.store, pool,
                             compression(chain.config.image_compression))
    return Made(value=layer.to_json((built,)),
                words=f"{count(len(planned['files']), 'file')} ({size(built.size)})")


def in_store(chain: Chain) -> Layer:
    """The layer, built here if only the registry had it."""
    known = result(chain)
    if not chain.session.store.has(known.digest):
        (known,) = layer.from_json(build(chain).value)
    return known

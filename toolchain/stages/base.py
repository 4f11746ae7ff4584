"""Lock -> base Layers: system, interpreter, packages, runner."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolchain import layer
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.layer import Layer
from toolchain.stages import count, resolve, size
from toolchain.stages.published import are_here, base_plan, published

NAME = "base"
plan = base_plan


def stands(chain: Chain, value: Any) -> bool:
    return are_here(chain, layer.from_json(value)) or published(chain) is not None


def make(chain: Chain) -> Made:
    there = published(chain)
    if there is None:
        return build(chain)
    layers = there.layers[:-1]
    return Made(value=layer.to_json(layers),
                words=f"{count(len(layers), 'layer')} in the registry")


def result(chain: Chain) -> tuple[Layer, ...]:
    return layer.from_json(chain.value(NAME, plan))


def build(chain: Chain) -> Made:
    """Build the layers here, whatever a registry has."""
    from toolchain.layer import packages, runner

    session = chain.session
    with ThreadPoolExecutor(os.cpu_count()) as pool, \
            session.progress(f"{NAME} {chain.name}") as progress:
        system, made = _system(chain, pool)
        built = packages.make(resolve.result(chain), session.tools.wheels(), session.store,
                              session.trace, progress, pool, chain.waiting)
        entry, entry_made = runner.make(session.store, session.trace, pool, chain.waiting)
    layers = (*system, *built.layers, entry)
    made |= built.made | ({entry.digest} if entry_made else set())
    new = [item for item in layers if item.digest in made]
    words = f"reused {count(len(layers) - len(new), 'layer')}"
    if new:
        words += f", built {len(new)} ({size(sum(item.size for item in new))})"
    return Made(value=layer.to_json(layers), words=words)


def _system(chain: Chain, pool: ThreadPoolExecutor) -> tuple[tuple[Layer, ...], frozenset[Digest]]:
    """The layers of system and interpreter, and which of them were made now."""
    from toolchain.layer import debian

    session, pins = chain.session, resolve.pins(chain)
    python = resolve.result(chain).python_minor
    what = debian.plan(pins, python)
    key = Digest.of_json(what)
    with session.trace.holding("debian", key, chain.waiting):
        known = session.trace.get("debian", key)
        layers = layer.from_json(known) if known else ()
        if layers and are_here(chain, layers):
            return layers, frozenset()
        session.tools.debs().fetch(pins)
        layers = debian.make(pins, python, session.store, pool)
        session.trace.record("debian", key, what, layer.to_json(layers), project=chain.name)
        return layers, frozenset(item.digest for item in layers)

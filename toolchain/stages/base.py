"""Lock -> base Layers: system, interpreter, packages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from toolchain import layer
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import Layer
from toolchain.stages import count, resolve, size
from toolchain.stages.published import are_here, base_plan, published

if TYPE_CHECKING:
    from toolchain.layer.bytecode import Bytecode
    from toolchain.layer.compression import Compression

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
    from toolchain.layer import packages
    from toolchain.layer.compression import compression

    session = chain.session
    how = compression(chain.config.image_compression)
    with ThreadPoolExecutor(os.cpu_count()) as pool, _bytecode(chain) as bytecode, \
            session.progress(f"{NAME} {chain.name}") as progress, ThreadPoolExecutor(1) as beside:
        building = beside.submit(_system, chain, pool, bytecode, how)
        built = packages.make(resolve.result(chain), session.tools.wheels(), session.store,
                              session.trace, progress, pool, chain.waiting, bytecode, how)
        system, made = building.result()
    layers = (*system, *built.layers)
    new = [item for item in layers if item.digest in made | built.made]
    words = f"reused {count(len(layers) - len(new), 'layer')}"
    if new:
        words += f", built {len(new)} ({size(sum(item.size for item in new))})"
    return Made(value=layer.to_json(layers), words=words)


@contextlib.contextmanager
def _bytecode(chain: Chain) -> Iterator[Bytecode | None]:
    """What compiles the modules of this build, if they are to be compiled."""
    if not chain.config.image_bytecode:
        yield None
        return
    from toolchain.layer import bytecode

    python = resolve.result(chain).python_minor
    identity = bytecode.identity(resolve.pins(chain), python)
    pins = resolve.host_pins(chain)
    if bytecode.identity(pins, python) != identity:
        raise ResolveError(
            f"byte-code of {identity} cannot be made here: this machine's platform, "
            f"{pins.platform}, is pinned at {bytecode.identity(pins, python)}", where="base.lock",
            fix="pin both anew with upgrade=1, or do without: image.bytecode=no")
    with chain.session.tools.compiler(identity, pins, python) as compiler:
        yield bytecode.Bytecode(compiler)


def _system(chain: Chain, pool: ThreadPoolExecutor, bytecode: Bytecode | None, how: Compression
            ) -> tuple[tuple[Layer, ...], frozenset[Digest]]:
    """The layers of system and interpreter, and which of them were made now."""
    from toolchain.layer import debian

    session, pins = chain.session, resolve.pins(chain)
    python = resolve.result(chain).python_minor
    compiler = None if bytecode is None else bytecode.identity
    what = debian.plan(pins, python, compiler, how)
    key = Digest.of_json(what)
    with session.trace.holding("debian", key, chain.waiting):
        known = session.trace.get("debian", key)
        layers = layer.from_json(known) if known else ()
        if layers and are_here(chain, layers):
            return layers, frozenset()
        session.tools.debs().fetch(pins)
        layers = debian.make(pins, python, session.store, pool, bytecode, how)
        session.trace.record("debian", key, what, layer.to_json(layers), project=chain.name)
        return layers, frozenset(item.digest for item in layers)

"""Lock -> package Layers: fetch the wheels, group them, build what no project has built yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from toolchain.digest import Digest
from toolchain.layer import Layer, WheelSource, group, most_large, on_record
from toolchain.layer.archive import LayerWriter
from toolchain.layer.bytecode import Bytecode
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.layer.wheel import Wheel, plan, write
from toolchain.lock import Lock, Package
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.values import dataclass
from toolchain.workers import Workers

_STAGE = "package"
_DOWNLOADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Layers in image order, and which of them were made now rather than found. `notes` are for
    people."""

    layers: tuple[Layer, ...]
    made: frozenset[Digest]
    notes: tuple[str, ...] = ()


def wheels(lock: Lock, source: WheelSource) -> dict[Package, Wheel]:
    """Every wheel of a lock, in the store. Raises ResolveError."""
    source.locate(lock.packages, lock.python, lock.platform, lock.options)
    with Workers(_DOWNLOADS) as pool:
        found = pool.each(lambda package: source.wheel(package, lock.python, lock.platform,
                                                       lock.options),
                          lock.packages)
        return dict(zip(lock.packages, found, strict=True))


def make(lock: Lock, source: WheelSource, store: Store, trace: Trace, progress: Progress,
         pool: ThreadPoolExecutor, waiting: Callable[[str], None],
         bytecode: Bytecode | None = None, compression: Compression = LIBDEFLATE,
         below: int = 0) -> Built:
    """Build the package layers of a lock; each is on record as soon as it is made.

    `below` is how many layers the base image has; none where there is no such image.
    """
    found = wheels(lock, source)
    sizes = {package: os.stat(store.path(wheel.digest)).st_size
             for package, wheel in found.items()}
    groups = group(sizes, most_large(lock, below))
    compiler = None if bytecode is None else bytecode.identity
    progress.expect(sum(sizes.values()))
    made: set[Digest] = set()

    def build(item: tuple[str, tuple[Package, ...]]) -> Layer:
        label, members = item
        chosen = tuple(found[package] for package in members)
        what = plan(chosen, lock.python_minor, compiler, compression)
        key = Digest.of_json(what)
        with trace.holding(_STAGE, key, waiting):
            layer = on_record(_STAGE, key, trace, store)
            if layer is None:
                with LayerWriter(store, label, pool, compression) as writer:
                    for wheel in chosen:
                        with store.open(wheel.digest) as stream:
                            write(wheel, stream, lock.python_minor, writer, bytecode)
                assert writer.layer is not None
                layer = writer.layer
                trace.record(_STAGE, key, what, layer.to_json())
                made.add(layer.digest)
        progress.advance(sum(sizes[package] for package in members))
        return layer

    # Largest first, so that no core is left alone with it at the end.
    order = sorted(groups, key=lambda item: -sum(sizes[package] for package in item[1]))
    with Workers(os.cpu_count()) as builders:
        done = dict(zip((label for label, _ in order), builders.each(build, order), strict=True))
    return Built(layers=tuple(done[label] for label, _ in groups), made=frozenset(made))

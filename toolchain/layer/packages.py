"""Lock -> package Layers: fetch the wheels, group them, build what no project has built yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from toolchain.digest import Digest
from toolchain.layer import Layer, WheelSource, group
from toolchain.layer.archive import LayerWriter
from toolchain.layer.wheel import Wheel, plan, write
from toolchain.lock import Lock, Package
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace

_STAGE = "package"
_DOWNLOADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Layers in image order, and which of them were made now rather than found."""

    layers: tuple[Layer, ...]
    made: frozenset[Digest]


def wheels(lock: Lock, source: WheelSource) -> dict[Package, Wheel]:
    """Every wheel of a lock, in the store. Raises ResolveError."""
    source.locate(lock.packages, lock.python, lock.platform)
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        found = pool.map(lambda package: source.wheel(package, lock.python, lock.platform),
                         lock.packages)
        return dict(zip(lock.packages, found, strict=True))


def make(lock: Lock, source: WheelSource, store: Store, trace: Trace, progress: Progress,
         pool: ThreadPoolExecutor, waiting: Callable[[], None]) -> Built:
    """Build the package layers of a lock; each is on record as soon as it is made."""
    found = wheels(lock, source)
    sizes = {package: os.stat(store.path(wheel.digest)).st_size
             for package, wheel in found.items()}
    groups = group(sizes)
    progress.expect(sum(sizes.values()))
    made: set[Digest] = set()

    def build(item: tuple[str, tuple[Package, ...]]) -> Layer:
        label, members = item
        chosen = tuple(found[package] for package in members)
        layer, is_new = _layer(label, chosen, lock.python_minor, store, trace, pool, waiting)
        progress.advance(sum(sizes[package] for package in members))
        if is_new:
            made.add(layer.digest)
        return layer

    # Largest first, so that no core is left alone with it at the end.
    order = sorted(groups, key=lambda item: -sum(sizes[package] for package in item[1]))
    with ThreadPoolExecutor(os.cpu_count()) as builders:
        done = dict(zip((label for label, _ in order), builders.map(build, order), strict=True))
    return Built(layers=tuple(done[label] for label, _ in groups), made=frozenset(made))


def _layer(label: str, chosen: tuple[Wheel, ...], python: str, store: Store, trace: Trace,
           pool: ThreadPoolExecutor, waiting: Callable[[], None]) -> tuple[Layer, bool]:
    what = plan(chosen, python)
    key = Digest.of_json(what)
    with trace.holding(_STAGE, key, waiting):
        known = trace.get(_STAGE, key)
        if known is not None:
            layer = Layer.from_json(known)
            if store.has(layer.digest):
                return layer, False
        with LayerWriter(store, label, pool) as writer:
            for wheel in chosen:
                with store.open(wheel.digest) as stream:
                    write(wheel, stream, python, writer)
        assert writer.layer is not None
        trace.record(_STAGE, key, what, writer.layer.to_json())
        return writer.layer, True

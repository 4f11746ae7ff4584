"""Lock -> base Layers: system, interpreter, packages, runner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Any

from toolchain import layer
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import Layer
from toolchain.lock.base import BasePins
from toolchain.stages import count, resolve, size
from toolchain.stages.pins import own_image
from toolchain.stages.published import (
    are_here,
    base_image,
    base_image_layers,
    base_plan,
    hides,
    own_packages,
    published,
)
from toolchain.workers import Workers

if TYPE_CHECKING:
    from toolchain.layer.bytecode import Bytecode
    from toolchain.layer.compression import Compression
    from toolchain.layer.packages import Built
    from toolchain.progress import Progress

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
    from toolchain.layer.compression import compression

    session, below = chain.session, _below(chain)
    how = compression(chain.config.image_compression)
    with Workers(2) as both, Workers(os.cpu_count()) as pool, _bytecode(chain) as bytecode, \
            session.progress(f"{NAME} {chain.name}") as progress:

        def packed() -> tuple[Built, Built]:
            return (_conda(chain, progress, pool, bytecode, how),
                    packages.make(resolve.result(chain), session.tools.wheels(), session.store,
                                  session.trace, progress, pool, chain.waiting, bytecode, how,
                                  below))

        lower = both.submit(_system, chain, pool, bytecode, how)
        upper = both.submit(packed)
        # Whichever fails first stops the other, and is what people are told.
        tasks: tuple[Future[Any], ...] = (lower, upper)
        for done in wait(tasks, return_when=FIRST_EXCEPTION).done:
            done.result()
        (system, made, notes), (under, built) = lower.result(), upper.result()
        entry, entry_made = runner.make(session.store, session.trace, pool, chain.waiting, how)
    for note in notes:
        session.say(f"note: {chain.name}: {note}")
    python = resolve.result(chain).python_minor
    if tuple(map(int, python.split("."))) < runner.OLDEST:
        oldest = ".".join(map(str, runner.OLDEST))
        session.say(f"warning: {chain.name}: the image's own entry point needs Python {oldest}, so "
                    f"that `docker run` fails with {python}; `doit train` runs it with any")
    layers = (*system, *under.layers, *built.layers, entry)
    made |= under.made | built.made | ({entry.digest} if entry_made else set())
    new = [item for item in layers if item.digest in made]
    words = f"reused {count(len(layers) - len(new), 'layer')}"
    if new:
        words += f", built {len(new)} ({size(sum(item.size for item in new))})"
    return Made(value=layer.to_json(layers), words=words)


def _below(chain: Chain) -> int:
    """How many layers the base image has. Raises ResolveError where there are too many to build
    on."""
    pins = base_image(chain)
    if pins is None:
        return 0
    below, most = len(pins.layers), layer.MOST_LAYERS - layer.fewest(resolve.result(chain))
    if below > most:
        named = "docker_env.image" if own_image(chain) else "image.base"
        raise ResolveError(
            f"the base image has {below} layers, and with what {chain.name} adds at most {most} "
            "of them fit into an image that every Docker starts",
            where=f"{chain.name}: {named} = {pins.reference}",
            fix="build it with fewer layers (several stages and one COPY --from of the last), or "
                f"name another as {named}")
    return below


def _conda(chain: Chain, progress: Progress, pool: Workers,
           bytecode: Bytecode | None, how: Compression) -> Built:
    """The layers of conda packages; none for a project without."""
    from toolchain.layer.packages import Built

    locked, session = resolve.result(chain).conda, chain.session
    if locked is None:
        return Built(layers=(), made=frozenset())
    from toolchain.layer import conda

    built = conda.make(locked, session.tools.conda(chain.config), session.store, session.trace,
                       progress, pool, chain.waiting, bytecode, how)
    for note in built.notes:
        session.say(f"warning: {chain.name}: {note}")
    return built


@contextlib.contextmanager
def _bytecode(chain: Chain) -> Iterator[Bytecode | None]:
    """What compiles the modules of this build, if they are to be compiled."""
    identity, python = resolve.base(chain)["bytecode"], resolve.result(chain).python_minor
    if identity is None:
        yield None
        return
    from toolchain.layer import bytecode

    compiler = resolve.foundation(chain).compiler
    if not chain.session.host and not isinstance(compiler, str):
        raise ResolveError("this machine cannot start an interpreter of Debian's",
                           where="image.bytecode", fix="do without: image.bytecode=no")
    here = bytecode.identity(compiler, python) if compiler else "nothing"
    if here != identity:
        raise ResolveError(
            f"byte-code of {identity} cannot be made here: for this machine's platform, "
            f"{chain.session.host}, base.lock pins {here}", where="base.lock",
            fix="pin both anew with upgrade=1, or do without: image.bytecode=no")
    with chain.session.tools.compiler(identity, compiler, python) as started:
        yield bytecode.Bytecode(started)


def _system(chain: Chain, pool: Workers, bytecode: Bytecode | None, how: Compression
            ) -> tuple[tuple[Layer, ...], frozenset[Digest], tuple[str, ...]]:
    """The layers under the packages, which of them were made now, and notes for people."""
    from toolchain.layer import debian, environment

    store, debs = chain.session.store, chain.session.tools.debs
    foundation, python = resolve.foundation(chain), resolve.result(chain).python_minor
    is_conda = resolve.result(chain).conda is not None  # conda brings the interpreter
    base, more = foundation.base, foundation.apt
    compiler = None if bytecode is None else bytecode.identity
    notes: list[str] = []

    def system() -> tuple[Layer, ...]:
        assert isinstance(base, BasePins)
        debs().fetch(base)
        return debian.make(base, None if is_conda else python, store, pool, bytecode, how,
                           notes.append)

    def extra() -> tuple[Layer, ...]:
        assert more is not None
        debs().fetch(more)
        if isinstance(base, BasePins):  # what its alternatives are stands in its packages
            debs().fetch(base)
        return (debian.make_more(more, base, store, pool, how, notes.append),)

    if isinstance(base, BasePins):
        layers, made = _once(chain, "debian", debian.plan(
            base, None if is_conda else python, None if is_conda else compiler, how), system)
    elif is_conda:
        layers, made = base_image_layers(chain), frozenset()
    else:
        interpreter, packages = base.python(python, chain.name), own_packages(chain, base)
        is_there = packages.startswith(f"/{layer.PREFIX}/")
        seen = environment.Below(shows_own="own packages" in resolve.base(chain),
                                 packages="" if is_there else packages, hides=hides(chain))
        own, made = _once(
            chain, "environment layer", environment.plan(interpreter, python, how, seen),
            lambda: (environment.make(interpreter, python, store, pool, how, seen),))
        layers = (*base_image_layers(chain), *own)
    if is_conda:
        from toolchain.layer import conda

        hidden = hides(chain)
        empty, new = _once(chain, "conda environment", conda.base_plan(how, hides=hidden),
                           lambda: (conda.make_base(store, pool, how, hides=hidden),))
        layers, made = (*layers, *empty), made | new
    if more is not None and more.packages:
        added, new = _once(chain, "apt", debian.more_plan(more, how), extra)
        layers, made = (*layers, *added), made | new
    return layers, made, tuple(notes)


def _once(chain: Chain, kind: str, what: Any, make: Callable[[], tuple[Layer, ...]],
          ) -> tuple[tuple[Layer, ...], frozenset[Digest]]:
    """Layers that all projects share, made if they are not in the store."""
    key, trace = Digest.of_json(what), chain.session.trace
    with trace.holding(kind, key, chain.waiting):
        known = trace.get(kind, key)
        layers = layer.from_json(known) if known else ()
        if layers and all(chain.session.store.has(item.digest) for item in layers):
            return layers, frozenset()
        layers = make()
        trace.record(kind, key, what, layer.to_json(layers), project=chain.name)
        return layers, frozenset(item.digest for item in layers)

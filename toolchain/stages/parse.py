"""MLproject and its environment file -> Spec."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from toolchain.chain import Chain, Made, NotYet, once
from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.spec import EntryPoint, Spec
from toolchain.spec.reader import TreeReader
from toolchain.stages import count

NAME = "parse"
_SCHEMA = 1


def plan(chain: Chain) -> Any:
    """The files that decide the spec. Which they are is known from last time, or found by
    reading."""
    if chain.project.mistake is not None:
        raise chain.project.mistake
    trace = chain.session.trace
    before = trace.current(chain.name, NAME)
    old = trace.plan(NAME, before) if before else None
    if old is not None:
        reader = TreeReader(chain.tree, chain.boundary)
        for path in old["files"]:
            reader.note(path)
        same = _plan(chain, reader)
        if trace.get(NAME, Digest.of_json(same)) is not None:
            return same
    reader = TreeReader(chain.tree, chain.boundary)
    _parse(chain, reader, lambda _: None)
    return _plan(chain, reader)


def stands(chain: Chain, value: Any) -> bool:
    return True


def make(chain: Chain) -> Made:
    warnings: list[str] = []
    spec = _parse(chain, TreeReader(chain.tree, chain.boundary), warnings.append)
    for warning in warnings:
        chain.session.say(f"warning: {chain.project.folder}/{warning}")
    return Made(value=spec.to_json(), words=f"{count(len(spec.entry_points), 'entry point')}, "
                                            f"{count(_wanted(spec), 'requirement')}")


def _wanted(spec: Spec) -> int:
    return len(spec.requirements) + len(spec.sources)


def describe(chain: Chain) -> str:
    """`main (alpha: float = 0.5, mixing weight; data: path): train it | check`."""
    try:
        spec = result(chain)
    except NotYet:
        spec = _parse(chain, TreeReader(chain.tree, chain.boundary), lambda _: None)
    names = sorted(spec.entry_points, key=lambda name: (name != "main", name))
    return " | ".join(_entry_point(name, spec.entry_points[name]) for name in names)


def _entry_point(name: str, entry: EntryPoint) -> str:
    parameters = "; ".join(
        f"{word}: {item.type}" + ("" if item.default is None else f" = {item.default}")
        + (f", {item.description}" if item.description else "")
        for word, item in sorted(entry.parameters.items()))
    return (name + (f" ({parameters})" if parameters else "")
            + (f": {entry.description}" if entry.description else ""))


def places(chain: Chain, text: str) -> str:
    """Where the project asks for the packages that a message names; empty if it asks for none."""
    spec = _parse(chain, TreeReader(chain.tree, chain.boundary), lambda _: None)
    words = set(re.findall(r"[a-z0-9][a-z0-9._-]*[a-z0-9]|[a-z0-9]", text.lower()))
    found = [f"{chain.project.folder}/{place}" for name, several in spec.places.items()
             if name in words for place in several]
    return ", ".join(found)


@once
def result(chain: Chain) -> Spec:
    return Spec.from_json(chain.value(NAME, plan))


def _plan(chain: Chain, reader: TreeReader) -> Any:
    return {"schema": _SCHEMA, "mlproject": chain.project.mlproject, "name": chain.name,
            "python": chain.config.python, "files": reader.seen}


def _parse(chain: Chain, reader: TreeReader, warn: Callable[[str], None]) -> Spec:
    from toolchain.spec.mlproject import parse

    folder, is_guest = chain.project.folder, bool(chain.project.root)
    # A guest's folder may be called like its commit. Whether it may do without an MLproject,
    # toolchain.guest has judged.
    name = chain.name if is_guest else chain.folder.name
    try:
        return parse(chain.project.mlproject, name, reader, chain.config.python, warn,
                     is_needed=not is_guest)
    except SpecError as error:
        where = error.where if error.where.startswith("/") else f"{folder}/{error.where}"
        raise SpecError(error.what, where=where, fix=error.fix) from None

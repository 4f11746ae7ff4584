"""The stages, bound to a project. Every module has the same functions, so that knowing one is
knowing all:

`plan(chain)` says what the stage would do, as JSON; its digest is the key.
`stands(chain, value)` says whether what a value names is still in place.
`make(chain)` does it.
`result(chain)` is the value on record, for the stages after it; raises NotYet.

What is done is in the module of the stage's noun: spec, lock, layer, image, push, run, model.
"""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes for people: `3.4 MB`."""
    for unit, factor in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def count(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`"""
    return f"{number} {noun}{'s' * (number != 1)}"

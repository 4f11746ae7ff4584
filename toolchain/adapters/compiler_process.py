"""What the pinned interpreter runs: sources come in, byte-code goes out.

This file is started by path, with that interpreter and nothing but a minimal standard library.
A request is a count of files, then for each the path's length, the path, the source's length and
the source; a reply is for each file the length of its .pyc and the .pyc, or -1. Lengths are four
bytes, little-endian. The first reply, to nothing, is the interpreter's cache tag.

Equal sources must give equal bytes, whatever was compiled before and is still in memory.
Trap 1: `marshal` writes whether an object has more than one reference (bpo-34093). So everything
that a code object leads to gets one more, and counts as shared.
Trap 2: it writes whether a text is interned, and texts of one character are shared by all of the
interpreter. So these are interned from the start.
Trap 3: a set among the constants of two functions is one object, unless one of its texts happened
to be interned by something else; then the compiler copies it. So it is always copied.
Trap 4: before Python 3.11 a set is written in its own order (bpo-37596), which follows the hashes,
and those of None and ... are addresses. A module with such a set is left without byte-code.
"""

from __future__ import annotations

import _imp
import gc
import marshal
import sys
from collections.abc import Iterable
from importlib._bootstrap_external import MAGIC_NUMBER
from types import CodeType
from typing import Any, BinaryIO

_UNCHECKED_HASH = 0b01  # PEP 552
# What a code object holds besides names; before Python 3.11 it is less, and the names are held in
# tuples that are written too.
_HELD = ("co_code", "co_consts", "co_names", "co_filename", "co_name",
         *(("co_qualname", "co_linetable", "co_exceptiontable") if sys.version_info >= (3, 11) else
           ("co_varnames", "co_freevars", "co_cellvars",
            "co_linetable" if sys.version_info >= (3, 10) else "co_lnotab")))
_CHARACTERS = [sys.intern(chr(number)) for number in range(256)]


def compiled(path: str, source: bytes) -> bytes | None:
    """The .pyc of a module, or None for one that does not compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except Exception:  # whatever a strange file provokes: Python would say it when it is imported
        return None
    if sys.version_info < (3, 11) and _has_addresses(code.co_consts):
        return None
    code = _sets_apart(code)
    held = _everything(code)
    body = marshal.dumps(code)
    del held
    magic = int.from_bytes(MAGIC_NUMBER, "little")
    return (MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little")
            + _imp.source_hash(magic, source) + body)


def _sets_apart(code: CodeType) -> CodeType:
    """The same code, in which no two functions share a set."""
    changed = False
    constants: list[object] = []
    for constant in code.co_consts:
        new = constant
        if type(constant) is CodeType:
            new = _sets_apart(constant)
        elif type(constant) is frozenset:
            new = frozenset([*constant])
        changed |= new is not constant
        constants.append(new)
    return code.replace(co_consts=tuple(constants)) if changed else code


def _has_addresses(constants: Iterable[Any], *, in_set: bool = False) -> bool:
    """Whether a set among constants holds what is hashed by its address."""
    for item in constants:
        if type(item) is CodeType:
            if _has_addresses(item.co_consts):
                return True
        elif type(item) in (tuple, frozenset):
            if _has_addresses(item, in_set=in_set or type(item) is frozenset):
                return True
        elif in_set and (item is None or item is ...):
            return True
    return False


def _everything(code: Any) -> list[object]:
    """References to all objects that a code object leads to."""
    held: list[object] = []
    codes: list[Any] = [code]
    while codes:
        this = codes.pop()
        held += (this, *[getattr(this, name) for name in _HELD])
        held += this.co_names
        held += this.co_varnames
        held += this.co_freevars
        held += this.co_cellvars
        held += this.co_consts
        groups: list[Any] = []
        for constant in this.co_consts:
            kind = type(constant)
            if kind is CodeType:
                codes.append(constant)
            elif kind is tuple or kind is frozenset or kind is slice:
                groups.append(constant)
        while groups:
            group = groups.pop()
            members = ((group.start, group.stop, group.step) if type(group) is slice
                       else tuple(group))
            held += members
            groups += [item for item in members if type(item) in (tuple, frozenset, slice)]
    return held


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    def number() -> int:
        return int.from_bytes(requests.read(4), "little")

    while len(head := requests.read(4)) == 4:
        # All of it is read before anything is written: the other side writes first, too.
        files = [(requests.read(number()).decode("utf-8", "surrogateescape"),
                  requests.read(number())) for _ in range(int.from_bytes(head, "little"))]
        for path, source in files:
            data = compiled(path, source)
            replies.write((-1 if data is None else len(data)).to_bytes(4, "little", signed=True))
            if data is not None:
                replies.write(data)
            replies.flush()  # after a crash, what is missing tells at which file


if __name__ == "__main__":
    gc.disable()
    tag = (sys.implementation.cache_tag or "").encode()
    sys.stdout.buffer.write(len(tag).to_bytes(4, "little", signed=True) + tag)
    sys.stdout.buffer.flush()
    _serve(sys.stdin.buffer, sys.stdout.buffer)

"""The place that a conda package was built for -> the place where it is installed.

Rule 1: in text every placeholder is replaced, and the file may change its length.
Rule 2: in a binary the length stays: what the shorter prefix leaves is NUL, at the end of the C
string that holds the placeholder, so that the rest of that string still follows its prefix.
Rule 3: Linux reads 127 bytes of a `#!` line. A longer one, or one whose prefix has a blank, goes
through env.
Source: conda's documentation of package contents (info/paths.json); CEP 34.
"""

from __future__ import annotations

import re

from toolchain.errors import ResolveError

_LONGEST_SHEBANG = 127


def in_text(data: bytes, placeholder: str, prefix: str) -> bytes:
    """A text file for `prefix`."""
    return _short_shebang(data.replace(placeholder.encode(), prefix.encode()), prefix)


def in_binary(data: bytes, placeholder: str, prefix: str, where: str) -> bytes:
    """A binary for `prefix`, of the same length. Raises ResolveError where it does not fit."""
    old, new = placeholder.encode(), prefix.encode()
    if len(new) > len(old):
        raise ResolveError(
            f"the place {prefix} is too long for a program that was built for at most "
            f"{len(old)} characters", where=where,
            fix="put the workspace, or its cache, into a folder with a shorter name")

    def shortened(match: re.Match[bytes]) -> bytes:
        text = match[0].replace(old, new)
        return text + bytes(len(match[0]) - len(text))

    return re.sub(re.escape(old) + rb"[^\0]*\0", shortened, data)


def _short_shebang(data: bytes, prefix: str) -> bytes:
    first, end, rest = data.partition(b"\n")
    if not first.startswith(b"#!") or (len(first) <= _LONGEST_SHEBANG and " " not in prefix):
        return data
    place = re.escape(prefix.encode())
    match = re.fullmatch(rb"#![ \t]*(?:" + place + rb")?(?P<program>\S+)(?P<more>.*)", first,
                         re.DOTALL)
    if match is None:
        return data
    name = match["program"].rpartition(b"/")[2]
    return b"#!/usr/bin/env " + name + match["more"] + end + rest

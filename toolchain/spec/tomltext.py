"""TOML text -> a value, and back into one canonical text."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from toolchain.errors import SpecError

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_DEEPEST = 64


def parse(text: str) -> dict[str, Any]:
    """Parse a TOML document. Raises ValueError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _refuse_extremes(value)
    return value


def _refuse_extremes(value: dict[str, Any]) -> None:
    # `a.b.c = 1` nests without brackets, and 0xfff… is never too long for Python: tomllib gets
    # through where `canonical` would not.
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        inner = [item for outer in level
                 for item in (outer.values() if isinstance(outer, dict) else outer)]
        if any(isinstance(item, int) and not -2**63 <= item < 2**63 for item in inner):
            raise ValueError("a number has more than 64 bits")
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError("nested too deeply")


def load(text: str, where: str) -> dict[str, Any]:
    """Parse a TOML document. Raises SpecError with file, line and column."""
    try:
        return parse(text)
    except ValueError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = f"{where}:{match[1]}:{match[2]}" if match else where
        if "(at end of document)" in str(error):
            place = f"{where}:{len(text.rstrip().splitlines()) or 1}"
        raise SpecError(f"not valid TOML: {str(error).partition(' (at ')[0]}", where=place,
                        fix="look there and just before it, at quotes, brackets and commas",
                        ) from None


def canonical(value: dict[str, Any]) -> str:
    """One TOML text for one value: sorted keys, a line for each at the top, no comments."""
    return "".join(f"{key(name)} = {_value(value[name])}\n" for name in sorted(value))


def key(name: str) -> str:
    """A key as TOML has it, in quotes where it needs them."""
    return name if _BARE.match(name) else literal(name)


def literal(value: Any) -> str:
    """Text, a whole number, or a list of them. JSON's are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key(name)} = {_value(value[name])}"
                               for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, float):
        return repr(value)
    return str(value)  # integers; dates and times as RFC 3339 has them

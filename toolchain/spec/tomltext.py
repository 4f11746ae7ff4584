"""TOML text -> a value, and back into one canonical text."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from toolchain.errors import SpecError

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def load(text: str, where: str) -> dict[str, Any]:
    """Parse a TOML document. Raises SpecError with file, line and column."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = f"{where}:{match[1]}:{match[2]}" if match else where
        raise SpecError(f"not valid TOML: {str(error).partition(' (at ')[0]}", where=place,
                        fix="look there and just before it, at quotes, brackets and commas",
                        ) from None


def canonical(value: dict[str, Any]) -> str:
    """One TOML text for one value: sorted keys, a line for each at the top, no comments."""
    return "".join(f"{_key(key)} = {_value(value[key])}\n" for key in sorted(value))


def _key(key: str) -> str:
    return key if _BARE.match(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float):
        return repr(value)
    return str(value)  # integers; dates and times as RFC 3339 has them

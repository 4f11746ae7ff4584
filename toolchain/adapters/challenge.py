"""WWW-Authenticate -> Challenge; pure. Source: RFC 9110, section 11.6.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from toolchain.values import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_END = r"(?=\s*(?:,|$))"
_PARAMETER = re.compile(rf"\s*,?\s*({_TOKEN})\s*=\s*(?:{_QUOTED}|({_TOKEN})){_END}")
# Some schemes have one word in place of parameters.
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+[A-Za-z0-9._~+/-]+=*{_END})?(?=[\s,]|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server wants. `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate headers; what cannot be read ends its header."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        parameters: dict[str, str] | None = None
        while position < len(header):
            match = _PARAMETER.match(header, position) if parameters is not None else None
            if match and parameters is not None:
                quoted, plain = match[2], match[3]
                parameters[match[1].lower()] = (
                    re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain)
            else:
                match = _SCHEME.match(header, position)
                if not match:
                    break
                parameters = {}
                found.append(Challenge(match[1].lower(), parameters))
            position = match.end()
    return tuple(found)

"""`${NAME}` in a URL -> its value: how a file that is committed speaks of a password."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from toolchain.errors import ResolveError, without_credentials

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


def filled(url: str, environ: Mapping[str, str]) -> str:
    """The URL with values in it, quoted. It must be shown nowhere from then on.

    Raises ResolveError for a variable that is not set.
    """
    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ResolveError(f"the variable {match[1]} is not set",
                               where=without_credentials(url),
                               fix="set it to what the server at that address asks for")
        return quote(environ[match[1]], safe="")

    return _VARIABLE.sub(value, url)


def values(written: Iterable[str], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """(value, `${NAME}`) of the variables in these URLs, in each spelling that a server or program
    may repeat; not of a login's, which is taken out of a URL as a whole. The longest are first."""
    names = {name for url in written if "://" in url
             for name in _VARIABLE.findall(without_credentials(url))}
    found = {(spelling, f"${{{name}}}") for name in names if environ.get(name)
             for value in (environ[name],) for spelling in (value, quote(value), quote(value, ""))}
    return tuple(sorted(found, key=lambda item: (-len(item[0]), item)))


def put_back(text: str, known: tuple[tuple[str, str], ...]) -> str:
    """`text` with `${NAME}` in place of its value; `known` is of `values`."""
    if not known:
        return text
    names = dict(reversed(known))
    return re.sub("|".join(re.escape(value) for value, _ in known),
                  lambda match: names[match[0]], text)

"""`${NAME}` in a URL -> its value: how a file that is committed speaks of a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

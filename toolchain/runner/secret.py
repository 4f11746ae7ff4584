"""text -> text that can be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from toolchain.errors import without_credentials

_SECRET = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|_KEY\b|CREDENTIAL|CONNECTION_STRING|_SAS",
                     re.IGNORECASE)
_SHORTEST = 4  # a shorter value would blot out half of the text


def hidden(text: str, environ: Mapping[str, str]) -> str:
    """`text` without credentials in URLs and without the values of secret variables."""
    values = {value for name, value in environ.items() if _SECRET.search(name)}
    for value in sorted(values, key=len, reverse=True):  # one may be the beginning of another
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return without_credentials(text)


def shown(uri: str) -> str:
    """A tracking store as it may be shown: without user, password and query."""
    return without_credentials(uri).partition("?")[0]


def without_password(url: str) -> str:
    """A URL to hand on. A user's name stays: `wasbs://container@account…` needs it."""
    return re.sub(r"(://[^/?#\s:@]*):[^/?#\s@]*@", r"\1@", url)

"""Text of a `path` parameter -> whether it is elsewhere, and how it may be shown.

In every image too, as toolchain.spec is: standard library only.
"""

from __future__ import annotations

import re

from toolchain.errors import without_credentials

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `runs:/…` too


def is_remote(text: str) -> bool:
    """Whether a path is to be fetched."""
    return bool(_SCHEME.match(text)) and not text.startswith("file:")


def shown(uri: str) -> str:
    """A URI as a run may record it: without user, password and query."""
    return without_credentials(uri.partition("?")[0].partition("#")[0])


def without(text: str, uri: str) -> str:
    """What a library says of a URI, without what is not to be shown of it. Libraries name a URI
    in parts, and put them together anew."""
    text = text.replace(uri, shown(uri))
    rest = uri.partition("?")[2] if "?" in uri else uri.partition("#")[2]
    for part in {rest, *rest.split("#")} - {""}:
        text = text.replace(part, "***")
    return without_credentials(text)


def local(text: str) -> str:
    """The path that a text names on this machine: `file:` URLs are paths too."""
    if not text.startswith("file:/"):
        return text
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(text).path)

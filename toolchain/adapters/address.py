"""A URL as it is written down -> as a server is asked, with a value in place of each `${NAME}`.

The values are secrets: they are in the request and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from urllib.parse import unquote, urlsplit

from toolchain.adapters.variables import filled, values
from toolchain.errors import without_credentials
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a file is. `shown` is for people, and holds neither a value nor a login; `url` holds no
    login either. Of one host, two addresses may have two logins."""

    shown: str
    url: str = field(repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)  # user, password
    hidden: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # as of `values`

    @classmethod
    def of(cls, written: str, environ: Mapping[str, str],
           logins: Mapping[str, tuple[str, str]] | None = None) -> Address:
        """`logins` maps hosts, for URLs without one. Raises ResolveError for a variable that is
        not set."""
        url = filled(written, environ)
        return cls(shown=without_credentials(written), url=without_credentials(url),
                   login=_login(url, logins or {}), hidden=values([written], environ))

    @classmethod
    def plain(cls, url: str) -> Address:
        """Of a URL in which `${NAME}` stands for nothing."""
        return cls(shown=without_credentials(url), url=url)


def _login(url: str, logins: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None  # who fetches it says what is wrong with it
    if parts.username:
        return unquote(parts.username), unquote(parts.password or "")
    return logins.get(parts.hostname or "")

"""401 -> Authorization: Basic, and Bearer tokens from the server that the registry names.

Source: distribution's token.md and oauth.md (the Bearer challenge), RFC 7617 (Basic).

Rule 1: nothing is sent before the registry asked for it, and then in the way it asked.
Rule 2: a password or identity token goes to the registry itself or, over HTTPS, to the token
server that it names. Plain HTTP is for a registry to which plain HTTP is spoken anyway.
Rule 3: a token is kept for each scope until it expires or is refused, whichever comes first;
threads that are refused together ask for one new token.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from toolchain.adapters.connections import is_loopback, shown, split
from toolchain.errors import RegistryError
from toolchain.reference import login_name

if TYPE_CHECKING:
    from toolchain.adapters.challenge import Challenge
    from toolchain.adapters.credentials import Credential

_SHORTEST_LIFE = 60  # seconds that a token lives if its server does not say
_CLIENT = "mlproject-toolchain"
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+\Z")
Scopes = tuple[str, ...]  # such as "repository:a/b:pull,push"
# (method, URL, headers, body) -> (status, body)
Send = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]


class Authentication:
    """What to say to the registry at `root`. Safe to use from many threads."""

    def __init__(self, root: str, credential: Callable[[], Credential | None],
                 send: Send) -> None:
        self._root = root
        self._find = credential
        self._send = send
        self._lock = threading.Lock()
        self._known: tuple[Credential | None] | None = None
        self._basic = ""
        self._bearer: Challenge | None = None
        self._tokens: dict[Scopes, tuple[str, float]] = {}

    def header(self, scopes: Scopes) -> str:
        """The Authorization header for a request that needs those scopes, if any is known.

        Asks for a new token where the one that was there has expired.
        """
        with self._lock:
            if self._bearer is None or not scopes:
                return self._basic
            now = time.monotonic()
            for known, (token, end) in self._tokens.items():
                if now < end and _covers(known, scopes):
                    return f"Bearer {token}"
            return f"Bearer {self._fetch(self._bearer, scopes)}" if scopes in self._tokens else ""

    def refused(self, challenges: Iterable[str], scopes: Scopes, used: str) -> bool:
        """The registry answered 401 to a request with the header `used`.

        True if there is now another header to ask with. Raises RegistryError for a token server
        that refuses or cannot be asked.
        """
        from toolchain.adapters.challenge import parse

        wanted = {challenge.scheme: challenge for challenge in parse(challenges)}
        with self._lock:
            if "bearer" in wanted:
                self._basic, self._bearer = "", wanted["bearer"]
                for known, (token, _) in list(self._tokens.items()):
                    if used == f"Bearer {token}":
                        self._tokens[known] = ("", 0.0)
                if not self._tokens.get(scopes, ("", 0.0))[0]:  # else another thread was faster
                    self._fetch(self._bearer, scopes)
                return True
            credential = self._credential()
            if "basic" not in wanted or credential is None or not credential.password:
                return False
            self._basic = credential.basic()
            return self._basic != used

    def has_credential(self) -> bool:
        with self._lock:
            return self._credential() is not None

    def _credential(self) -> Credential | None:
        if self._known is None:
            self._known = (self._find(),)
        return self._known[0]

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> str:
        """A new token for those scopes and what else the registry says it wants."""
        realm = self._realm(challenge)
        wanted = _merged([*scopes, *challenge.parameters.get("scope", "").split()])
        service = challenge.parameters.get("service", "")
        credential = self._credential()
        begun = time.monotonic()
        if credential is not None and credential.identity_token:
            status, body = self._send("POST", realm, {
                "Content-Type": "application/x-www-form-urlencoded"}, urlencode({
                    "grant_type": "refresh_token", "service": service, "client_id": _CLIENT,
                    "scope": " ".join(wanted), "refresh_token": credential.identity_token,
                }).encode())
        else:
            query = urlencode([*([("service", service)] if service else []),
                               *(("scope", scope) for scope in wanted)])
            headers = {}
            if credential is not None:
                headers["Authorization"] = credential.basic()
            status, body = self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}",
                                      headers, None)
        token, life, identity = _read(realm, status, body, self._root, credential is not None)
        if credential is not None and credential.identity_token and identity:
            self._known = (replace(credential, identity_token=identity),)  # new with each use
        # Not used up to its last moment: it must still be good when the request arrives.
        self._tokens[scopes] = (token, begun + life - min(10.0, life / 4))
        return token

    def _realm(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        parts = split(realm)
        own = split(self._root)
        near = parts.hostname == own.hostname or (
            is_loopback(parts.hostname or "") and is_loopback(own.hostname or ""))
        if parts.username is not None or (
                parts.scheme != "https" and not (own.scheme == "http" and near)):
            raise RegistryError(
                "the registry names a token server to which credentials are not sent",
                where=f"{self._root}, realm {shown(realm)}",
                fix="mend the registry's configuration: the realm must be an https:// address")
        return realm.partition("#")[0]


def _read(realm: str, status: int, body: bytes, root: str,
          known: bool) -> tuple[str, float, str]:
    """The token, its life in seconds, and the next identity token if one came."""
    host = login_name(root.partition("://")[2])
    if status != 200:
        if status in (400, 401, 403):
            what = ("the registry's token server refused the credentials" if known
                    else "this registry wants credentials, and there are none")
            fix = f"`docker login {host}` with a user who may do this"
        else:
            what = "the registry's token server gave no token"
            fix = "see that server's log, try again later"
        raise RegistryError(f"{what}: it answered {status}", where=f"token from {shown(realm)} "
                            f"for {root}", fix=fix)
    try:
        answer = json.loads(body)
        token = answer.get("token") or answer["access_token"]
        life = float(answer.get("expires_in") or _SHORTEST_LIFE)
        identity = answer.get("refresh_token") or ""
        if not _HEADER_SAFE.match(token) or not isinstance(identity, str):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise RegistryError("the registry's token server gave something that is no token",
                            where=f"token from {shown(realm)} for {root}",
                            fix="check the registry's configuration") from None
    return token, life, identity


def _merged(scopes: Iterable[str]) -> list[str]:
    """Each resource once, with all actions; a registry may name them in another order than we."""
    actions: dict[str, dict[str, None]] = {}
    for scope in scopes:
        resource, _, named = scope.rpartition(":")
        actions.setdefault(resource, {}).update(dict.fromkeys(named.split(",")))
    return [f"{resource}:{','.join(named)}".removeprefix(":")
            for resource, named in actions.items()]


def _covers(known: Scopes, wanted: Scopes) -> bool:
    """Whether a token for `known` does for `wanted`: pull,push does for pull."""
    return all(any(other == scope or other.startswith(f"{scope},") for other in known)
               for scope in wanted)

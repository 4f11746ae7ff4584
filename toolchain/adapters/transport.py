"""Requests to one registry: authenticated, tried again, explained. Nothing about images.

Rule 1: credentials go to the registry's own origin. Every other address, to which a registry may
send for a blob's bytes, gets none; from HTTPS nothing goes to plain HTTP.
Rule 2: what may be repeated is repeated: broken connections, 429 and 5xx, with pauses.
Rule 3: an error names the request without the query, which may be signed.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from toolchain.adapters.authentication import Authentication, Scopes
from toolchain.adapters.backoff import BUSY, Backoff
from toolchain.adapters.connections import Connections, Exchange, origin, shown, split
from toolchain.adapters.patience import Patience
from toolchain.errors import RegistryError
from toolchain.reference import login_name
from toolchain.values import dataclass

if TYPE_CHECKING:
    from toolchain.adapters.credentials import Credential

LARGEST_DOCUMENT = 8 << 20  # manifests, configs, errors
# What HEAD of a blob that is there is answered with: storage elsewhere is redirected to.
FOUND = (200, 301, 302, 307, 308)
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
# How OpenSSL takes an answer in plain HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_AGAIN = 10.0  # seconds until a wait is spoken of again: once in each try
_REFUSALS = 3  # 401 in a row; a token may expire on its way
BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole. Header names are in lower case."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def location(self) -> str:
        """Where it sends to, as it says; see Transport.target."""
        return self.headers.get("location", "")

    @property
    def code(self) -> str:
        """The registry's own word for an error, such as BLOB_UNKNOWN."""
        match = re.search(rb'"code"\s*:\s*"([A-Z_]{1,60})"', self.body[:4096])
        return match[1].decode() if match else ""

    @property
    def words(self) -> str:
        return f"{self.status} ({self.code})" if self.code else str(self.status)


class Transport:
    """Requests to the registry at `root` (`https://host[:port]`). Safe to use from many threads.

    Every method raises RegistryError, and `once` also lets a broken connection's error through.
    """

    def __init__(self, root: str, environ: Mapping[str, str], backoff: Backoff,
                 say: Callable[[str], None] = lambda text: None) -> None:
        """`say` tells people that a registry is waited for."""
        self.root = root
        self.backoff = backoff
        self._host = root.partition("://")[2]
        self._connections = Connections(environ)
        self._patience = Patience(say, again=_AGAIN)

        def credential() -> Credential | None:
            from toolchain.adapters.credentials import find

            return find(self._host, environ)

        self._authentication = Authentication(root, credential, self._ask_token_server)

    def ask(self, method: str, url: str, *, scopes: Scopes = (),
            headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
        """One answer to a request that may be repeated; 429 and 5xx only if they persist."""
        attempt = 1
        while True:
            try:
                with self.open(method, url, scopes=scopes, headers=headers,
                               body=None if body is None else [body],
                               attempt=attempt) as exchange:
                    answer = read_answer(method, url, exchange)
            except BROKEN as error:
                if _is_final(error) or not self.backoff.again(attempt):
                    raise self.unreachable(error, url) from None
            else:
                if answer.status not in BUSY or not self.backoff.again(
                        attempt, answer.headers.get("retry-after", "")):
                    return answer
            attempt += 1

    def once(self, method: str, url: str, *, scopes: Scopes, headers: Mapping[str, str],
             body: Iterable[bytes]) -> Answer:
        """One answer to a request whose body can be given only once.

        A 401 is returned; the next request will have what it asked for, or raise.
        """
        used = self._authorization(url, scopes)
        exchange = self._connections.send(method, url, {**headers, **used}, body)
        with contextlib.closing(exchange):
            answer = read_answer(method, url, exchange)
            if answer.status == 401 and not self._has_answer_to(exchange, url, scopes, used):
                raise self._unauthorized(answer)
            return answer

    @contextlib.contextmanager
    def open(self, method: str, url: str, *, scopes: Scopes = (),
             headers: Mapping[str, str] | None = None, body: list[bytes] | None = None,
             attempt: int = 1) -> Iterator[Exchange]:
        """The answer to a request, after 401 and redirects, to be read by the caller; not repeated.
        `attempt` says which of the caller's tries this is.

        Lets the errors of a broken connection through, the caller's own among them.
        """
        redirects, refusals = 0, 0
        while True:
            used = self._authorization(url, scopes)
            with self._waiting(url, attempt):
                exchange = self._connections.send(method, url, {**(headers or {}), **used}, body)
            with contextlib.closing(exchange):
                response = exchange.response
                if response.status == 401 and refusals < _REFUSALS:
                    answer = read_answer(method, url, exchange)
                    refusals += 1
                    if self._has_answer_to(exchange, url, scopes, used):
                        continue
                    raise self._unauthorized(answer)
                location = response.getheader("Location")
                if response.status not in _REDIRECTS or method != "GET" or not location:
                    yield exchange
                    return
                response.read(LARGEST_DOCUMENT)
            redirects += 1
            if redirects > _MOST_REDIRECTS:
                raise RegistryError("the registry redirects without end", where=shown(url),
                                    fix="mend the registry's configuration")
            url = self.target(url, location)

    def target(self, url: str, location: str) -> str:
        """Where an answer from `url` sends to. Raises RegistryError for what is not followed."""
        try:
            target = urljoin(url, location)
        except ValueError:
            target = location
        parts = split(target)
        if parts.scheme == "http" and url.startswith("https://"):
            # A proxy that ends TLS before a registry often makes it think that it has none.
            if parts.netloc == split(self.root).netloc and self.root.startswith("https://"):
                return f"https{target[4:]}"
            raise RegistryError("the registry sends from HTTPS to plain HTTP", where=shown(target),
                                fix="mend the registry's configuration")
        return target

    def expect(self, answer: Answer, *statuses: int) -> Answer:
        """The answer, if it has one of those statuses."""
        if answer.status in statuses:
            return answer
        raise self.refused(answer)

    def refused(self, answer: Answer) -> RegistryError:
        """The error that an answer stands for."""
        if answer.status == 401:
            return self._unauthorized(answer)
        return RegistryError(f"the registry answered {answer.words}",
                             where=f"{answer.method} {shown(answer.url)}",
                             fix=_FIXES.get(answer.code) or _FIXES.get(
                                 str(answer.status), "see the registry's log, try again later"))

    def unreachable(self, error: Exception, url: str = "") -> RegistryError:
        where = origin(url or self.root)
        host = where.partition("://")[2]
        if isinstance(error, ssl.SSLCertVerificationError):
            return RegistryError(
                f"the registry's certificate is not trusted: {error.verify_message}", where=where,
                fix=f"put its CA into /etc/docker/certs.d/{host}/ca.crt or ~/.config/docker/"
                    f"certs.d/{host}/ca.crt, or name it in SSL_CERT_FILE")
        if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
            return RegistryError(
                "the registry speaks plain HTTP", where=where,
                fix="give it a certificate, or name it in `registry` without https:// and, if it "
                    "is on another machine, with insecure=1; a base image's registry in "
                    "`image.insecure`")
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return RegistryError(f"the registry cannot be reached: {reason}"[:300], where=where,
                             fix="check that it runs, and its name in `registry`, `image.base` or "
                                 "`image.hub`")

    def _ask_token_server(self, method: str, url: str, headers: Mapping[str, str],
                          body: bytes | None) -> tuple[int, bytes]:
        """One answer from another server than the registry; redirects are not followed."""
        if body is not None:
            headers = {**headers, "Content-Length": str(len(body))}
        attempt = 1
        while True:
            try:
                with self._waiting(url, attempt):
                    exchange = self._connections.send(method, url, headers,
                                                      None if body is None else [body])
                with contextlib.closing(exchange):
                    answer = read_answer(method, url, exchange)
            except BROKEN as error:
                if _is_final(error) or not self.backoff.again(attempt):
                    found = self.unreachable(error, url)
                    raise RegistryError(found.what.replace("registry", "registry's token server"),
                                        where=found.where, fix=found.fix) from None
            else:
                if answer.status not in BUSY or not self.backoff.again(
                        attempt, answer.headers.get("retry-after", "")):
                    return answer.status, answer.body
            attempt += 1

    def _waiting(self, url: str, attempt: int) -> contextlib.AbstractContextManager[None]:
        host = origin(url).partition("://")[2]
        return self._patience.waiting(
            f"waiting for an answer of {host}, try {attempt} of {self.backoff.tries}")

    def _authorization(self, url: str, scopes: Scopes) -> dict[str, str]:
        if origin(url) != origin(self.root):
            return {}
        header = self._authentication.header(scopes)
        return {"Authorization": header} if header else {}

    def _has_answer_to(self, exchange: Exchange, url: str, scopes: Scopes,
                       used: Mapping[str, str]) -> bool:
        if origin(url) != origin(self.root):
            return False
        challenges = exchange.response.headers.get_all("WWW-Authenticate") or []
        return self._authentication.refused(challenges, scopes, used.get("Authorization", ""))

    def _unauthorized(self, answer: Answer) -> RegistryError:
        what = f"the registry answered {answer.words}"
        where = f"{answer.method} {shown(answer.url)}"
        if origin(answer.url) != origin(self.root):
            return RegistryError(what, where=where,
                                 fix="the registry's storage wants credentials, which are for the "
                                     "registry alone; mend the registry's configuration")
        login = f"`docker login {login_name(self._host)}`"
        fix = (f"the credentials for {self._host} are not good for this; {login} again"
               if self._authentication.has_credential() else
               f"it wants credentials: {login}, or put them into config.json in the folder that "
               "DOCKER_CONFIG names")
        return RegistryError(what, where=where, fix=fix)


_LOST = "the registry lost a blob since it was sent; run the same command again"
_FIXES = {
    "400": "see the registry's log",
    "403": "this registry does not let you do that; check `repository`, and which user "
           "`docker login` was given",
    "404": "check `registry` and `repository`",
    "413": "the registry or a proxy before it limits the size of uploads; raise the limit",
    "429": "the registry limits how often it is asked; wait, or log in as a user with more",
    "MANIFEST_BLOB_UNKNOWN": _LOST,
    "BLOB_UNKNOWN": _LOST,
    "DIGEST_INVALID": "the bytes were changed on their way; run the same command again",
}


def read_answer(method: str, url: str, exchange: Exchange) -> Answer:
    """The whole answer. Raises IncompleteRead for half of one."""
    response = exchange.response
    body = response.read(LARGEST_DOCUMENT + 1)
    if len(body) > LARGEST_DOCUMENT:
        raise RegistryError("the registry's answer is too large", where=f"{method} {shown(url)}",
                            fix="check that `registry` names a registry")
    if response.length and method != "HEAD":
        raise http.client.IncompleteRead(body, response.length)
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(method, url, response.status, headers, body)


def _is_final(error: Exception) -> bool:
    """Whether trying again would be the same: nobody listens, no such name, not that protocol."""
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return (isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in reason
                or reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"))
    return isinstance(error, ConnectionRefusedError)

"""URL -> one HTTP exchange on a kept connection: TLS, proxies, nothing about registries.

Rule 1: a connection is one caller's from the request until its answer was read to the end.
Rule 2: what ended otherwise is closed; its state is unknown.
Rule 3: a proxy sees the user information in its own address, and nobody else does.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import ssl
import threading
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from toolchain.errors import ConfigError, RegistryError, without_credentials

TIMEOUT = 60  # seconds without a byte
# Seconds until there is a connection, and until a host answers for the first time: one that takes
# connections and says nothing is to be known as such before the tries take five minutes.
_FIRST = 12
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[?::1\]?)\Z")


def is_loopback(host: str) -> bool:
    return bool(_LOOPBACK.match(host))


def origin(url: str) -> str:
    """`scheme://host[:port]` of a URL, without a user and a scheme's own port."""
    parts = split(url)
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{_bracketed(parts.hostname or '')}{port}"


def split(url: str) -> SplitResult:
    """A URL in its parts. Raises RegistryError for one that is not HTTP or names no host."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        # A control character would end the request's first line early.
        valid = valid and not re.search(r"[^\x21-\x7e]", url)
    except ValueError:
        valid = False
    if not valid:
        raise RegistryError("the registry sends to an address that is not HTTP",
                            where=shown(url) or "no address",
                            fix="do not trust this registry, or mend its configuration")
    return parts


def shown(url: str) -> str:
    """A URL as it may be shown: a query may be signed, and then is as good as a password."""
    return without_credentials(url.partition("?")[0].partition("#")[0])[:300]


_PORTS = {"http": 80, "https": 443}


class Exchange:
    """A request and its answer, which is being read; `close` gives the connection back."""

    response: http.client.HTTPResponse

    def __init__(self, connection: http.client.HTTPConnection, key: tuple[str, ...],
                 pool: Connections) -> None:
        self._connection = connection
        self._key = key
        self._pool = pool
        self._whole = True  # whether the request was sent to its end

    def begin(self, method: str, target: str, headers: Mapping[str, str],
              body: Iterable[bytes] | None) -> Exchange:
        """Send the request and read the head of the answer; closed if that fails."""
        try:
            self.response = self._request(method, target, headers, body)
        except BaseException:
            self._connection.close()
            raise
        self._pool.has_answered(self._key, self._connection)
        return self

    def _request(self, method: str, target: str, headers: Mapping[str, str],
                 body: Iterable[bytes] | None) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, target, body=body, headers=dict(headers))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            # Refused in the middle of an upload: what it says before it hangs up is the reason.
            # Before 3.13, Python calls a broken TLS connection an end of file (gh-115627).
            self._whole = False
            try:
                return self._connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise error from None
        return self._connection.getresponse()

    def close(self) -> None:
        if self._whole and self.response.isclosed() and self._connection.sock is not None:
            self._pool.give_back(self._key, self._connection)
        else:
            self.response.close()
            self._connection.close()


class Connections:
    """Connections to any host, kept alive. Safe to use from many threads."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, ...], list[http.client.HTTPConnection]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._answered: set[tuple[str, ...]] = set()
        self._process = os.getpid()

    def send(self, method: str, url: str, headers: Mapping[str, str],
             body: Iterable[bytes] | None) -> Exchange:
        """Send a request and read the head of its answer.

        Raises OSError and HTTPException as they come; an idle connection that turns out to be
        closed is replaced, where nothing was sent on it. A body is never sent twice.
        """
        parts = split(url)
        proxy = self._proxy(parts)
        key = (parts.scheme, parts.netloc.rpartition("@")[2], proxy)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = dict(headers)
        if proxy and parts.scheme == "http":
            target = f"http://{key[1]}{target}"
            headers.update(_proxy_authorization(proxy))
        idle = self._take(key)
        if idle is not None:
            try:
                return Exchange(idle, key, self).begin(method, target, headers, body)
            except (http.client.RemoteDisconnected, ConnectionError):
                if body is not None:
                    raise
        connection = self._open(parts, proxy)
        # Of a body nobody knows how long it takes until it is answered.
        patient = key in self._answered or body is not None
        connection.sock.settimeout(TIMEOUT if patient else _FIRST)
        return Exchange(connection, key, self).begin(method, target, headers, body)

    def _take(self, key: tuple[str, ...]) -> http.client.HTTPConnection | None:
        with self._lock:
            if self._process != os.getpid():  # after a fork, the parent's are not for us
                self._idle, self._process = {}, os.getpid()
            idle = self._idle.get(key, [])
            while idle:
                connection = idle.pop()
                if not _has_ended(connection):
                    return connection
                connection.close()
        return None

    def has_answered(self, key: tuple[str, ...], connection: http.client.HTTPConnection) -> None:
        """There is an answer: what follows may take its time."""
        self._answered.add(key)
        if connection.sock is not None:
            connection.sock.settimeout(TIMEOUT)

    def give_back(self, key: tuple[str, ...], connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._process == os.getpid():
                self._idle.setdefault(key, []).append(connection)

    def _open(self, parts: SplitResult, proxy: str) -> http.client.HTTPConnection:
        connection = self._made(parts, proxy)
        connection.connect()
        return connection

    def _made(self, parts: SplitResult, proxy: str) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        if parts.scheme == "http":
            if not proxy:
                return http.client.HTTPConnection(host, port, timeout=_FIRST)
            via = urlsplit(proxy)
            return http.client.HTTPConnection(via.hostname or "", via.port or 80, timeout=_FIRST)
        context = self._context(_bracketed(host) + (f":{parts.port}" if parts.port else ""))
        if not proxy:
            return http.client.HTTPSConnection(host, port, timeout=_FIRST, context=context)
        via = urlsplit(proxy)
        tunnel = http.client.HTTPSConnection(via.hostname or "", via.port or 80, timeout=_FIRST,
                                             context=context)
        tunnel.set_tunnel(_bracketed(host), port, _proxy_authorization(proxy))
        return tunnel

    def _context(self, host: str) -> ssl.SSLContext:
        from toolchain.adapters import certificates

        with self._lock:
            if host not in self._contexts:
                self._contexts[host] = certificates.context(host, self._environ)
            return self._contexts[host]

    def _proxy(self, parts: SplitResult) -> str:
        """The proxy's URL, or nothing. This machine is never reached through one."""
        host = parts.hostname or ""
        if is_loopback(host) or not any(name.lower().endswith("_proxy") for name in os.environ):
            return ""
        from urllib.request import getproxies, proxy_bypass

        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        if not proxy or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
            return ""
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        try:
            via = urlsplit(proxy)
            usable = via.scheme == "http" and bool(via.hostname) and via.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError("this kind of proxy is not supported",
                              where=f"{parts.scheme.upper()}_PROXY={without_credentials(proxy)}",
                              fix="give http://host:port, or name the registry in NO_PROXY")
        return proxy


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the other side closed an idle connection, or said what nobody asked for."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _proxy_authorization(proxy: str) -> dict[str, str]:
    via = urlsplit(proxy)
    if via.username is None:
        return {}
    import base64

    pair = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""A registry over HTTP. Source: OCI distribution-spec 1.1.

Plain HTTP is for this machine's own registry, or said with `insecure`; anything else is HTTPS
with the machine's CA bundle.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO
from urllib.parse import urljoin, urlsplit

from toolchain.digest import Digest
from toolchain.errors import ConfigError, RegistryError, without_credentials
from toolchain.image import MANIFEST
from toolchain.progress import Progress
from toolchain.store import Store

_TIMEOUT = 60  # seconds without a byte
_TRIES = 4
_PIECE = 1 << 20
_LARGEST_DOCUMENT = 8 << 20  # manifests and configs
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
                   r"(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}\Z")
_HOST = re.compile(r"(https?://)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d+)?/?\Z")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def check_repository(repository: str) -> str:
    """The repository's name if it is one. Raises ConfigError."""
    if not _NAME.match(repository):
        raise ConfigError(f"not a repository name: {repository!r}", where="repository",
                          fix="use lower-case letters, digits, '.', '_', '-' and '/'")
    return repository


class HttpRegistry:
    """One repository of the registry at `host[:port]`, without credentials.

    `pull_host` is the registry's name for those who pull; references begin with it.
    """

    def __init__(self, host: str, pull_host: str, repository: str, *, insecure: bool) -> None:
        match = _HOST.match(host)
        if not match:
            raise ConfigError(f"not a registry: {host.rpartition('@')[2]!r}", where="registry",
                              fix="give host[:port], as in localhost:5000")
        self._address = (match[2] + (match[3] or ""))
        loopback = match[2] in ("localhost", "[::1]") or bool(_LOOPBACK.match(match[2]))
        scheme = match[1] or ("http://" if loopback or insecure else "https://")
        if scheme == "http://" and not (loopback or insecure):
            raise ConfigError("plain HTTP to another machine",
                              where=f"registry={without_credentials(host)}",
                              fix="use https, or say insecure=1")
        self._root = f"{scheme}{self._address}"
        self._repository = check_repository(repository)
        self._name = f"{pull_host.split('://')[-1].rstrip('/')}/{repository}"
        self._local = threading.local()

    @property
    def name(self) -> str:
        return self._name

    def manifest(self, reference: str) -> bytes | None:
        answer = self._ask("GET", f"manifests/{reference}", headers={"Accept": MANIFEST})
        if answer.status == 404:
            return None
        self._expect(answer, (200,), "GET", f"manifests/{reference}")
        if reference.startswith("sha256:") and str(Digest.of(answer.body)) != reference:
            raise RegistryError("the registry sent another manifest than asked for",
                                where=self._url(f"manifests/{reference}"),
                                fix="do not trust this registry")
        return answer.body

    def still_has(self, digest: Digest) -> bool:
        return True  # asking costs a request; `doit forget push` makes the next run ask

    def config(self, digest: Digest) -> bytes:
        answer = self._ask("GET", f"blobs/{digest}")
        if answer.status in (301, 302, 303, 307, 308):  # to the storage behind the registry
            answer = self._follow(answer.headers.get("location", ""))
        self._expect(answer, (200,), "GET", f"blobs/{digest}")
        if Digest.of(answer.body) != digest:
            raise RegistryError("the registry sent other bytes than asked for",
                                where=self._url(f"blobs/{digest}"),
                                fix="do not trust this registry")
        return answer.body

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        import hashlib
        import urllib.error
        import urllib.request

        where = self._url(f"blobs/{digest}")
        sha, left = hashlib.sha256(), size
        try:
            with urllib.request.urlopen(where, timeout=_TIMEOUT) as response:
                while left >= 0 and (piece := response.read(_PIECE)):
                    sha.update(piece)
                    left -= len(piece)
                    yield piece
        except urllib.error.HTTPError as error:
            self._expect(_Answer(error.code, {}, b""), (200,), "GET", f"blobs/{digest}")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        if left or Digest(sha.hexdigest()) != digest:
            raise RegistryError("the registry sent other bytes than asked for", where=where,
                                fix="do not trust this registry")

    def has_blob(self, digest: Digest) -> bool:
        answer = self._ask("HEAD", f"blobs/{digest}")
        if answer.status == 404:
            return False
        self._expect(answer, (200, 301, 302, 307, 308), "HEAD", f"blobs/{digest}")
        return True

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        for attempt in range(1, _TRIES + 1):
            start = self._ask("POST", "blobs/uploads/", headers={"Content-Length": "0"})
            self._expect(start, (202,), "POST", "blobs/uploads/")
            location = urljoin(self._root, start.headers.get("location", ""))
            target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
            with store.open(digest) as stream:
                pieces = _Pieces(stream, progress)
                try:
                    answer = self._send("PUT", target, pieces, {
                        "Content-Length": str(size),
                        "Content-Type": "application/octet-stream",
                    })
                except (OSError, http.client.HTTPException) as error:
                    if attempt == _TRIES:
                        raise self._unreachable(error) from None
                    pieces.take_back()
                    time.sleep(0.3 * 2**attempt)
                    continue
            if answer.status in (429, 500, 502, 503, 504) and attempt < _TRIES:
                pieces.take_back()
                time.sleep(0.3 * 2**attempt)
                continue
            self._expect(answer, (201,), "PUT", f"blobs/uploads/…?digest={digest}")
            return

    def put_manifest(self, manifest: bytes, tag: str) -> None:
        for reference in (str(Digest.of(manifest)), tag):
            answer = self._ask("PUT", f"manifests/{reference}", [manifest], {
                "Content-Type": MANIFEST, "Content-Length": str(len(manifest)),
            })
            self._expect(answer, (201,), "PUT", f"manifests/{reference}")

    def _url(self, path: str) -> str:
        return f"{self._root}/v2/{self._repository}/{path}"

    def _ask(self, method: str, path: str, body: list[bytes] | None = None,
             headers: Mapping[str, str] | None = None) -> _Answer:
        """One request whose body can be sent again, tried a few times."""
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._send(method, self._url(path), body, headers or {})
            except ConnectionRefusedError as error:
                raise self._unreachable(error) from None
            except (OSError, http.client.HTTPException) as error:
                if attempt == _TRIES:
                    raise self._unreachable(error) from None
            else:
                if answer.status not in (429, 500, 502, 503, 504) or attempt == _TRIES:
                    return answer
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("not reached")

    def _send(self, method: str, url: str, body: Iterable[bytes] | None,
              headers: Mapping[str, str]) -> _Answer:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self._root:
            raise RegistryError("the registry sends uploads to another host, which is not "
                                "supported yet", where=without_credentials(url),
                                fix="use the registry without a redirecting proxy")
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self._connection()
        try:
            response = _exchange(connection, method, path, body, headers)
            data = response.read(_LARGEST_DOCUMENT + 1)
            if response.length and len(data) <= _LARGEST_DOCUMENT and method != "HEAD":
                raise http.client.IncompleteRead(data, response.length)
            if len(data) > _LARGEST_DOCUMENT:
                raise RegistryError("the registry's answer is too large", where=url)
        except BaseException:
            connection.close()  # its state is unknown; the next request opens it anew
            raise
        return _Answer(response.status,
                       {name.lower(): value for name, value in response.getheaders()}, data)

    def _follow(self, location: str) -> _Answer:
        import urllib.error
        import urllib.request

        url = urljoin(self._root, location)
        if not url.startswith(("https://", "http://")):
            raise RegistryError("the registry redirects to something that is not HTTP",
                                where=without_credentials(url))
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                return _Answer(response.status, {}, response.read(_LARGEST_DOCUMENT + 1))
        except urllib.error.HTTPError as error:
            return _Answer(error.code, {}, b"")
        except OSError as error:
            raise self._unreachable(error) from None

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            scheme, _, address = self._root.partition("://")
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            connection = kind(address, timeout=_TIMEOUT)
            self._local.connection = connection
        return connection

    def _expect(self, answer: _Answer, statuses: tuple[int, ...], method: str, path: str) -> None:
        if answer.status in statuses:
            return
        code = re.search(rb'"code"\s*:\s*"([A-Z_]+)"', answer.body[:4096])
        detail = f" ({code[1].decode()})" if code else ""
        fixes = {
            401: "this registry wants credentials, which are not supported yet",
            403: "this registry does not let you write there; check `repository`",
            404: "check `registry` and `repository`",
            413: "the registry or a proxy before it limits the size of uploads; raise the limit",
        }
        raise RegistryError(f"the registry answered {answer.status}{detail}",
                            where=f"{method} {self._url(path)}",
                            fix=fixes.get(answer.status, "see the registry's log, try again later"))

    def _unreachable(self, error: Exception) -> RegistryError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return RegistryError(f"the registry cannot be reached: {reason}", where=self._root,
                             fix="check that it runs and that `registry` names it")


def _exchange(connection: http.client.HTTPConnection, method: str, path: str,
              body: Iterable[bytes] | None,
              headers: Mapping[str, str]) -> http.client.HTTPResponse:
    try:
        connection.request(method, path, body=body, headers=dict(headers))
    except (BrokenPipeError, ConnectionResetError) as error:
        # Refused in the middle of an upload: what it says before it hangs up is the reason.
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            raise error from None
    return connection.getresponse()


class _Pieces:
    """A blob in pieces, each counted as it goes; what did not arrive is taken back."""

    def __init__(self, stream: IO[bytes], progress: Progress) -> None:
        self._stream = stream
        self._progress = progress
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._stream.read(_PIECE):
            yield piece
            self._sent += len(piece)
            self._progress.advance(len(piece))

    def take_back(self) -> None:
        self._progress.advance(-self._sent)

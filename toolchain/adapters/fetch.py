"""URL -> blob: downloads into the store, checked against the digest that named them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from toolchain.adapters.address import Address
from toolchain.adapters.backoff import BUSY, Backoff
from toolchain.adapters.variables import put_back
from toolchain.digest import Digest
from toolchain.errors import ResolveError, without_credentials
from toolchain.progress import Progress
from toolchain.store import Store

if TYPE_CHECKING:
    import requests

_BACKOFF = Backoff(tries=4, first=1)
_GONE = "it is gone from there; pin again with upgrade=1, or set another mirror or index"
_LARGEST = 1 << 30  # bytes of what is read into memory; Debian's lists have 10 MB
_TIMEOUT = (20, 60)  # seconds to connect, seconds without a byte


class _CutShort(ConnectionError):
    """Fewer bytes came than were announced."""

    def __str__(self) -> str:
        return "it was cut short"


class NotThere(ResolveError):
    """The server was reached, and has no such file."""


class Fetcher:
    """Downloads with requests: proxies, netrc and CA bundle as the machine has them set.

    `credentials` maps host -> (user, password), for addresses that have none of their own.
    `certificates` is a CA bundle's path, if any.
    """

    def __init__(self, *, store: Store, progress: Progress,
                 credentials: Mapping[str, tuple[str, str]] | None = None,
                 certificates: str | None = None) -> None:
        self._store = store
        self._progress = progress
        self._credentials = dict(credentials or {})
        self._certificates = certificates
        self._local = threading.local()

    def fetch(self, place: str | Address, expect: Digest, what: str) -> None:
        """Store the bytes that are there, which must be `expect`. Doing it twice is as doing it
        once.

        Raises ResolveError if they cannot be had or are others.
        """
        if self._store.has(expect):
            return
        address = _address(place)
        if address.url.startswith("file:"):
            self._copy(Path(unquote(urlsplit(address.url).path)), expect, what)
            return
        self._download(address, expect, what)

    def fetch_any(self, place: str | Address, what: str) -> Digest:
        """Store the bytes that are there now, whatever they are. Raises ResolveError."""
        return self._download(_address(place), None, what)

    def get(self, url: str, what: str) -> bytes:
        """A small file's bytes, unchecked; the caller verifies a signature or hash.

        Raises NotThere, and ResolveError for anything else, also for more than a gibibyte.
        """
        if url.startswith("file:"):
            try:
                return Path(unquote(urlsplit(url).path)).read_bytes()
            except FileNotFoundError:
                raise NotThere(f"{what} cannot be read: no such file", where=url,
                               fix="check the mirror's or index's address") from None
            except OSError as error:
                raise ResolveError(f"{what} cannot be read: {error.strerror}", where=url,
                                   fix="check the mirror's or index's address") from None
        import requests

        address = Address.plain(url)
        for attempt in range(1, _BACKOFF.tries + 1):
            try:
                with self._session().get(url, stream=True, timeout=_TIMEOUT,
                                         auth=self._auth(address)) as response:
                    if response.status_code == 200:
                        return _whole(response, address, what)
            except _passing() as error:
                if attempt == _BACKOFF.tries:
                    raise _unreachable(address, what, error) from None
            except (requests.RequestException, ValueError) as error:
                raise _unreachable(address, what, error) from None
            else:
                if response.status_code not in BUSY or attempt == _BACKOFF.tries:
                    raise _refused(address, what, response.status_code)
            _BACKOFF.again(attempt)
        raise AssertionError("not reached")

    def _copy(self, path: Path, expect: Digest, what: str) -> None:
        try:
            with open(path, "rb") as source, self._store.writer() as blob:
                while chunk := source.read(1 << 20):
                    blob.write(chunk)
                if blob.digest != expect:
                    raise _mismatch(what, str(path), expect, blob.digest)
        except OSError as error:
            raise ResolveError(f"{what} cannot be read: {error.strerror}",
                               where=str(path), fix=_GONE) from None

    def _download(self, address: Address, expect: Digest | None, what: str) -> Digest:
        import requests

        for attempt in range(1, _BACKOFF.tries + 1):
            counted = [0, 0]
            try:
                found = self._try(address, expect, what, counted, last=attempt == _BACKOFF.tries)
                if found is not None:
                    return found
            except _passing() as error:
                if attempt == _BACKOFF.tries:
                    raise _unreachable(address, what, error) from None
            except (requests.RequestException, ValueError) as error:
                raise _unreachable(address, what, error) from None
            # What is begun again is counted again.
            self._progress.expect(-counted[0])
            self._progress.advance(-counted[1])
            _BACKOFF.again(attempt)
        raise AssertionError("not reached")

    def _try(self, address: Address, expect: Digest | None, what: str, counted: list[int], *,
             last: bool) -> Digest | None:
        """One try; None if it is worth another."""
        with self._session().get(address.url, stream=True, timeout=_TIMEOUT,
                                 auth=self._auth(address)) as response:
            if response.status_code in BUSY and not last:
                return None
            if response.status_code != 200:
                raise _refused(address, what, response.status_code)
            length = int(response.headers.get("Content-Length") or 0)
            counted[0] = length
            self._progress.expect(length)
            with self._store.writer() as blob:
                for chunk in response.iter_content(1 << 18):
                    blob.write(chunk)
                    counted[1] += len(chunk)
                    self._progress.advance(len(chunk))
                if blob.digest == expect:
                    return expect
                if length and blob.size < length and (expect is None or not last):
                    raise _CutShort
                if expect is not None:
                    raise _mismatch(what, address.shown, expect, blob.digest)
            return blob.digest

    def _auth(self, address: Address) -> tuple[str, str] | None:
        if address.login or not self._credentials:
            return address.login
        return self._credentials.get(urlsplit(address.url).hostname or "")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            import requests

            session = requests.Session()
            if self._certificates:
                session.verify = self._certificates
            session.headers["Accept-Encoding"] = "identity"
            self._local.session = session
        return session


def _address(place: str | Address) -> Address:
    return Address.plain(place) if isinstance(place, str) else place


def _whole(response: requests.Response, address: Address, what: str) -> bytes:
    """The body. Raises ResolveError if it does not end."""
    data = bytearray()
    for chunk in response.iter_content(1 << 18):
        data += chunk
        if len(data) > _LARGEST:
            raise ResolveError(f"{what} has more than {_LARGEST} bytes",
                               where=f"GET {address.shown}",
                               fix="check the mirror's or index's address")
    return bytes(data)


def _passing() -> tuple[type[Exception], ...]:
    """Troubles that another try may not meet."""
    import requests

    return (requests.ConnectionError, requests.Timeout,
            requests.exceptions.ChunkedEncodingError, _CutShort)


def _mismatch(what: str, where: str, expect: Digest, got: Digest) -> ResolveError:
    return ResolveError(
        f"hash mismatch: {what} should be {expect}, the bytes are {got}",
        where=where,
        fix="do not use these bytes; if the lock is wrong, pin again with upgrade=1",
    )


def _refused(address: Address, what: str, status: int) -> ResolveError:
    fixes = {
        401: "give credentials in the index URL or in netrc",
        403: "check that this user may read there",
        404: _GONE,
    }
    kind = NotThere if status in (404, 410) else ResolveError
    return kind(f"{what} cannot be fetched: HTTP status {status}",
                where=f"GET {address.shown}", fix=fixes.get(status, "try again later"))


def _unreachable(address: Address, what: str, error: Exception) -> ResolveError:
    reason = without_credentials(str(getattr(error, "reason", None) or error))
    reason = put_back(reason, address.hidden)
    return ResolveError(f"{what} cannot be fetched: {reason[:300]}",
                        where=f"GET {address.shown}",
                        fix="check the network, proxy and CA settings, then run it again")

"""A registry -> verified bytes: blobs piece by piece, manifests whole.

Source: OCI distribution-spec 1.1, "Pulling manifests" and "Pulling blobs".

Rule 1: no byte is handed out beyond the size that was asked for, and the last piece only once the
digest of all of them is right.
Rule 2: a manifest is what it says itself and the registry says of it; where the two differ, or it
could be read as an image and as an index, it is refused (CVE-2021-41190).
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator

from toolchain.adapters.authentication import Scopes
from toolchain.adapters.backoff import BUSY
from toolchain.adapters.connections import shown
from toolchain.adapters.documents import INDEXES, MANIFESTS
from toolchain.adapters.transport import BROKEN, Answer, Transport, read_answer
from toolchain.digest import Digest
from toolchain.errors import RegistryError

_DOCUMENTS = (*MANIFESTS, *INDEXES)
_PIECE = 1 << 20
_DISTRUST = "do not trust this registry"


def blob(transport: Transport, url: str, scopes: Scopes, digest: Digest,
         size: int) -> Iterator[bytes]:
    """The bytes of the blob at `url`; a broken connection is taken up where it broke."""
    sha = hashlib.sha256()
    place, held = 0, b""
    attempt = 1
    while True:
        before, asked = place, ""
        headers = {"Range": f"bytes={place}-{size - 1}"} if 0 < place < size else {}
        try:
            with transport.open("GET", url, scopes=scopes, headers=headers,
                                attempt=attempt) as exchange:
                if exchange.response.status in (200, 206):
                    for piece in _pieces(exchange.response, url, place, size):
                        sha.update(piece)
                        place += len(piece)
                        if held:
                            yield held
                        held = piece
                    break
                answer = read_answer("GET", url, exchange)
            trouble = transport.refused(answer)
            if answer.status not in BUSY:
                raise trouble
            asked = answer.headers.get("retry-after", "")
        except BROKEN as error:
            trouble = transport.unreachable(error, url)
        attempt = 1 if place > before else attempt
        if not transport.backoff.again(attempt, asked):
            raise trouble
        attempt += 1
    if Digest(sha.hexdigest()) != digest:
        raise RegistryError("the registry sent other bytes than asked for", where=shown(url),
                            fix=_DISTRUST)
    if held:
        yield held


def _pieces(response: http.client.HTTPResponse, url: str, place: int,
            size: int) -> Iterator[bytes]:
    """The bytes from `place` on. Raises IncompleteRead for too few, RegistryError for too many."""
    skip = place
    if response.status == 206:
        begin = (response.getheader("Content-Range") or "").removeprefix("bytes ")
        if begin.partition("-")[0] != str(place):
            raise RegistryError("the registry sent another part of a blob than asked for",
                                where=shown(url), fix=_DISTRUST)
        skip = 0
    announced = response.length
    if announced is not None and announced != size - place + skip:
        raise _size_lie(url, size, announced + place - skip)
    while skip:
        gone = response.read(min(_PIECE, skip))
        if not gone:
            raise http.client.IncompleteRead(b"", skip)
        skip -= len(gone)
    while place < size:
        piece = response.read(min(_PIECE, size - place))
        if not piece:
            # A body without a length just ends; whether it was cut nobody knows.
            raise http.client.IncompleteRead(b"", size - place)
        place += len(piece)
        yield piece
    if response.read(1):
        raise _size_lie(url, size, None)


def _size_lie(url: str, size: int, got: int | None) -> RegistryError:
    return RegistryError(f"the registry sent other bytes than asked for: {size} were to come, not "
                         + ("more" if got is None else str(got)), where=shown(url), fix=_DISTRUST)


def manifest(transport: Transport, url: str, reference: str, scopes: Scopes) -> Answer | None:
    """The manifest or index at `url`, whatever it is, verified if `reference` is a digest."""
    answer = transport.ask("GET", url, scopes=scopes, headers={"Accept": ", ".join(_DOCUMENTS)})
    if answer.status == 404:
        return None
    body = transport.expect(answer, 200).body
    if reference.startswith("sha256:") and str(Digest.of(body)) != reference:
        raise RegistryError("the registry sent another manifest than asked for", where=shown(url),
                            fix=_DISTRUST)
    return answer


def document(transport: Transport, url: str, reference: str,
             scopes: Scopes) -> tuple[str, bytes] | None:
    """(media type, bytes) of the manifest or index at `url`; None if there is none."""
    answer = manifest(transport, url, reference, scopes)
    if answer is None:
        return None
    said = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return _media_type(answer.body, said, url), answer.body


def _media_type(body: bytes, said: str, url: str) -> str:
    try:
        parsed = json.loads(body)
        own = parsed.get("mediaType") or said
        both = "manifests" in parsed and ("layers" in parsed or "config" in parsed)
    except (ValueError, AttributeError, RecursionError):
        raise RegistryError("the registry sent something that is no manifest", where=shown(url),
                            fix="check that `registry` names a registry") from None
    if own not in _DOCUMENTS:
        raise RegistryError(f"this kind of manifest is not supported: {str(own)[:100]!r}",
                            where=shown(url),
                            fix="push the image again with a tool of this decade")
    if both or (said in _DOCUMENTS and said != own):
        raise RegistryError("a manifest that can be read in two ways", where=shown(url),
                            fix="do not use this image")
    return str(own)

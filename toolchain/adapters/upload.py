"""Bytes -> a blob in a registry: in one piece where that works, continued where it broke.

Source: OCI distribution-spec 1.1, "Pushing blobs". POST begins an upload; PUT with the whole blob
ends it. After a broken connection GET says how much has arrived; PATCH sends the rest.

Rule 1: a chunk goes only where the registry said that the last one ended. Some take a chunk that
is out of order without a word; the digest at the end then refuses the blob, and it is begun anew.
Rule 2: success is a 201, or a HEAD that finds the blob after the 201 was lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping

from toolchain.adapters.authentication import Scopes
from toolchain.adapters.backoff import BUSY
from toolchain.adapters.transport import BROKEN, Answer, Transport
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.progress import Progress

_OCTETS = "application/octet-stream"
_MOST_ROUNDS = 100  # however far each of them came
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})\Z")
_GONE = (400, 404, 416)  # the upload that was begun is of no more use


class Upload:
    """One blob of `size` bytes on its way to the repository at `url`.

    `pieces(offset)` gives the blob's bytes from there on; it is called again after a break.
    """

    def __init__(self, transport: Transport, url: str, scopes: Scopes, digest: Digest, size: int,
                 pieces: Callable[[int], Iterator[bytes]], progress: Progress) -> None:
        self._transport = transport
        self._url = url
        self._scopes = scopes
        self._digest = digest
        self._size = size
        self._pieces = pieces
        self._progress = progress
        self._counted = 0
        self._location = ""
        self._offset = 0

    def mount(self, repository: str, scopes: Scopes) -> bool:
        """Have the registry take the blob over from another of its repositories.

        False if it does not; `run` then continues with the upload that it may have begun.
        """
        try:
            answer = self._transport.ask(
                "POST", f"{self._url}/blobs/uploads/?mount={self._digest}&from={repository}",
                scopes=scopes, headers={"Content-Length": "0"})
        except RegistryError:
            return False  # perhaps no right to read there; a real trouble meets `run` as well
        if answer.status == 202:
            self._location = self._transport.target(answer.url, answer.location)
        elif answer.status == 201:
            self._count(self._size)
        return answer.status == 201

    def run(self) -> None:
        """Returns when the blob is there. Raises RegistryError, or what `pieces` raises."""
        attempt, reached = 1, 0
        try:
            for _ in range(_MOST_ROUNDS):
                try:
                    answer = self._round()
                except BROKEN as error:
                    if not self._transport.backoff.again(attempt):
                        raise self._transport.unreachable(error) from None
                    status = 0
                else:
                    status = answer.status
                    if status == 201:
                        self._count(self._size)
                        return
                    if not self._passes(answer, attempt):
                        self._transport.expect(answer, 201)
                if self._continue(status):
                    self._count(self._size)
                    return
                # A slow line that breaks often still gets there.
                attempt = 1 if self._offset > reached else attempt + 1
                reached = max(reached, self._offset)
        except BaseException:
            self._count(0)
            raise
        self._count(0)
        raise RegistryError("an upload broke too often", where=f"PUT {self._url}/blobs/uploads/…",
                            fix="check the network between here and the registry")

    def _round(self) -> Answer:
        """Send what is missing; the answer that ends the upload, or the one that refuses it."""
        if not self._location:
            begun = self._transport.expect(self._transport.ask(
                "POST", f"{self._url}/blobs/uploads/", scopes=self._scopes,
                headers={"Content-Length": "0"}), 202)
            self._location = self._transport.target(begun.url, begun.location)
            self._offset = 0
        if self._offset == 0:
            return self._send("PUT", self._last(), {"Content-Length": str(self._size)})
        if self._offset < self._size:
            answer = self._send("PATCH", self._location, {
                "Content-Range": f"{self._offset}-{self._size - 1}",
                "Content-Length": str(self._size - self._offset)})
            if answer.status not in (202, 204):
                return answer
            self._location = self._transport.target(answer.url, answer.location)
            self._offset = self._size
        return self._transport.once("PUT", self._last(), scopes=self._scopes, body=[],
                                    headers={"Content-Length": "0"})

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        pieces = self._counting()
        try:
            return self._transport.once(method, url, scopes=self._scopes, body=pieces,
                                        headers={**headers, "Content-Type": _OCTETS})
        finally:
            pieces.close()

    def _counting(self) -> Generator[bytes, None, None]:
        place = self._offset
        for piece in self._pieces(place):
            place += len(piece)
            if place > self._size:
                break
            yield piece
            self._count(place)
        if place != self._size:  # else the registry would wait for the rest
            raise RegistryError(f"a blob of {self._size} bytes has {place} or more",
                                where=str(self._digest), fix="run the same command again")

    def _passes(self, answer: Answer, attempt: int) -> bool:
        """Whether what refused the upload may not refuse it again; waits where that helps."""
        if answer.status in BUSY:
            return self._transport.backoff.again(attempt, answer.headers.get("retry-after", ""))
        if answer.status == 401:
            return attempt < self._transport.backoff.tries
        if answer.status in _GONE:
            # Of a blob in one piece, only changed bytes and a lost upload are worth sending again.
            return attempt < 3 and (self._offset > 0 or answer.status == 404
                                    or answer.code in ("DIGEST_INVALID", "BLOB_UPLOAD_INVALID"))
        return False

    def _continue(self, status: int) -> bool:
        """Find out how far the upload came. True if the blob is there as a whole."""
        if status in (400, 416):
            self._location, self._offset = "", 0
        else:
            answer = self._transport.ask("GET", self._location, scopes=self._scopes) \
                if self._location else None
            match = None
            if answer is not None and answer.status == 204:
                match = _RANGE.match(answer.headers.get("range", ""))
            # "0-0" is said of no byte as well as of one.
            if answer is not None and match and 0 < int(match[1]) < self._size:
                self._offset = int(match[1]) + 1
                if answer.headers.get("location"):
                    self._location = self._transport.target(answer.url, answer.location)
            else:
                self._location, self._offset = "", 0
        self._count(self._offset)
        if self._offset:
            return False
        return self._transport.ask("HEAD", f"{self._url}/blobs/{self._digest}",
                                   scopes=self._scopes).status == 200

    def _last(self) -> str:
        return f"{self._location}{'&' if '?' in self._location else '?'}digest={self._digest}"

    def _count(self, place: int) -> None:
        self._progress.advance(place - self._counted)
        self._counted = place

"""Bytes -> a blob in a registry: in one piece where that works, continued where it broke.

Source: OCI distribution-spec 1.1, "Pushing blobs". POST begins an upload; PUT with the whole blob
ends it. After a broken connection GET says how much has arrived; PATCH sends the rest. What is
refused for its size (413) goes in chunks: a PATCH for each, and an empty PUT.

Rule 1: a chunk goes only where the last one ended; after a break, where the registry says that it
ended. Some take one that is out of order without a word; the digest at the end then refuses the
blob, and it is begun anew.
Rule 2: success is a 201, or a HEAD that finds the blob after the 201 was lost.
Rule 3: after a 413 only less is sent, and after two breaks without a step forward: whoever refuses
a size may hang up before that can be read. A chunk is never smaller than the registry allows
(`OCI-Chunk-Min-Length`), but for a blob's last.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping

from toolchain.adapters.authentication import Scopes
from toolchain.adapters.backoff import BUSY
from toolchain.adapters.transport import BROKEN, FOUND, Answer, Transport
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.progress import Progress

_OCTETS = "application/octet-stream"
_MOST_ROUNDS = 100  # however far each of them came
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})\Z")
_GONE = (400, 404, 416)  # the upload that was begun is of no more use
_TOO_LARGE = 413
_WHOLE = 1 << 62  # more than any blob has
_FIRST_CHUNK = 32 << 20
_SMALLEST_CHUNK = 1 << 20  # what nginx lets through unless told otherwise
_LENGTH = re.compile(r"\d{1,18}\Z", re.ASCII)


class Chunks:
    """How much one registry takes in one request, as far as it has shown. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most = _WHOLE

    def most(self, least: int) -> int:
        """Bytes to send in one request; `least` is the registry's own minimum."""
        return max(self._most, least)

    def refused(self, length: int, least: int) -> bool:
        """A request of `length` bytes was too large. Whether a smaller one may be tried."""
        floor = max(_SMALLEST_CHUNK, least)
        with self._lock:  # by now another upload may have found a size that is small enough
            size = max(min(self._most, _FIRST_CHUNK), least)
            while size >= length and size > floor:
                size = max(size // 2, floor)
            if size >= length:
                return False
            self._most = min(self._most, size)
            return True


class _Reading:
    """A blob's bytes from `place` on, a stretch at a time; a source is read once for them all."""

    def __init__(self, pieces: Iterator[bytes], place: int) -> None:
        self.place = place
        self._pieces = pieces
        self._rest = b""

    def until(self, end: int) -> Iterator[bytes]:
        """What comes before `end`, or less if there is no more."""
        while self.place < end:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                return
            wanted = end - self.place
            self._rest = piece[wanted:]
            self.place += min(len(piece), wanted)
            yield piece[:wanted]

    def has_more(self) -> bool:
        return bool(self._rest) or any(self._pieces)


class Upload:
    """One blob of `size` bytes on its way to the repository at `url`.

    `pieces(offset)` gives the blob's bytes from there on; it is called again after a break.
    `chunks` is what the uploads to this registry share.
    """

    def __init__(self, transport: Transport, url: str, scopes: Scopes, digest: Digest, size: int,
                 pieces: Callable[[int], Iterator[bytes]], progress: Progress,
                 chunks: Chunks) -> None:
        self._transport = transport
        self._url = url
        self._scopes = scopes
        self._digest = digest
        self._size = size
        self._pieces = pieces
        self._progress = progress
        self._chunks = chunks
        self._counted = 0
        self._location = ""
        self._offset = 0
        self._least = 0
        self._sent = 0  # the last request's length
        self._reading: _Reading | None = None

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
            self._begin(answer)
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
                    self._reading = None  # it may be the source that broke
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
                if self._offset > reached:
                    attempt, reached = 1, self._offset  # a line that breaks often still gets there
                elif status != _TOO_LARGE:
                    if status == 0 and attempt > 1:
                        self._chunks.refused(self._sent, self._least)
                    attempt += 1
        except BaseException:
            self._count(0)
            raise
        self._count(0)
        raise RegistryError("an upload broke too often", where=f"PUT {self._url}/blobs/uploads/…",
                            fix="check the network between here and the registry")

    def _round(self) -> Answer:
        """Send what is missing; the answer that ends the upload, or the one that refuses it."""
        if not self._location:
            self._begin(self._transport.expect(self._transport.ask(
                "POST", f"{self._url}/blobs/uploads/", scopes=self._scopes,
                headers={"Content-Length": "0"}), 202))
        if self._offset == 0 and self._size <= self._chunks.most(self._least):
            return self._send("PUT", self._last(), self._size, {})
        while self._offset < self._size:
            end = min(self._size, self._offset + self._chunks.most(self._least))
            answer = self._send("PATCH", self._location, end,
                                {"Content-Range": f"{self._offset}-{end - 1}"})
            if answer.status not in (202, 204):
                return answer
            self._location = self._transport.target(answer.url, answer.location)
            self._offset = end
        self._sent = 0
        return self._transport.once("PUT", self._last(), scopes=self._scopes, body=[],
                                    headers={"Content-Length": "0"})

    def _begin(self, answer: Answer) -> None:
        self._location = self._transport.target(answer.url, answer.location)
        self._offset = 0
        least = answer.headers.get("oci-chunk-min-length", "")
        self._least = int(least) if _LENGTH.match(least) else 0

    def _send(self, method: str, url: str, end: int, headers: Mapping[str, str]) -> Answer:
        self._sent = end - self._offset
        pieces = self._counting(end)
        try:
            return self._transport.once(method, url, scopes=self._scopes, body=pieces,
                                        headers={**headers, "Content-Length": str(self._sent),
                                                 "Content-Type": _OCTETS})
        finally:
            pieces.close()

    def _counting(self, end: int) -> Generator[bytes, None, None]:
        reading = self._reading
        if reading is None or reading.place != self._offset:  # less arrived than was read
            reading = self._reading = _Reading(self._pieces(self._offset), self._offset)
        for piece in reading.until(end):
            yield piece
            self._count(reading.place)
        if reading.place < end:  # the registry would wait for the rest
            raise self._another_size(f"only {reading.place}")
        if end == self._size and reading.has_more():
            raise self._another_size("more")

    def _another_size(self, found: str) -> RegistryError:
        return RegistryError(f"a blob of {self._size} bytes has {found}", where=str(self._digest),
                             fix="run the same command again")

    def _passes(self, answer: Answer, attempt: int) -> bool:
        """Whether what refused the upload may not refuse it again; waits where that helps."""
        if answer.status in BUSY:
            return self._transport.backoff.again(attempt, answer.headers.get("retry-after", ""))
        if answer.status == 401:
            return attempt < self._transport.backoff.tries
        if answer.status == _TOO_LARGE:
            return self._chunks.refused(self._sent, self._least)
        if answer.status in _GONE:
            # Of a blob in one piece, only changed bytes and a lost upload are worth sending again.
            return attempt < 3 and (self._offset > 0 or answer.status == 404
                                    or answer.code in ("DIGEST_INVALID", "BLOB_UPLOAD_INVALID"))
        return False

    def _continue(self, status: int) -> bool:
        """Find out how far the upload came. True if the blob is there as a whole."""
        if status in (400, 416) or (status == _TOO_LARGE and self._offset == 0):
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
        if self._offset or status == _TOO_LARGE:
            return False
        return self._transport.ask("HEAD", f"{self._url}/blobs/{self._digest}",
                                   scopes=self._scopes).status in FOUND

    def _last(self) -> str:
        return f"{self._location}{'&' if '?' in self._location else '?'}digest={self._digest}"

    def _count(self, place: int) -> None:
        self._progress.advance(place - self._counted)
        self._counted = place

"""An HTTP proxy that stands before a real registry and does what bad networks and servers do.

It speaks for the registry: a client is given its address. One request in some meets a fault, by a
seeded choice; all others pass unchanged.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading

from tests.support.loopback import Handler, Loopback

# What may happen to a request.
CUT_REQUEST = "cut request"      # the registry gets a part of the body, the client no answer
CUT_ANSWER = "cut answer"        # the registry did it; the client gets a part of the answer
REFUSE = "500"                   # the registry never hears of it
LOSE = "500 after"               # the registry did it, the client is told of a failure
BUSY = "429"
TRUNCATE = "truncated body"      # as cut, but only in the body, and without a reset
SWAP_PULLED = "wrong byte pulled"
SWAP_PUSHED = "wrong byte pushed"
KINDS = (CUT_REQUEST, CUT_ANSWER, REFUSE, LOSE, BUSY, TRUNCATE, SWAP_PULLED, SWAP_PUSHED)
_PIECE = 1 << 16


class FaultyProxy(Loopback):
    """Before the registry at `upstream`, at `host` while the block runs.

    `faults` lists what happened, as (kind, method). With `rate` 0 nothing does, but for what is in
    `script`: faults for the next requests with a body. With a `limit`, larger bodies are answered
    with 413 before they are read, as nginx does; the registry never hears of them.
    """

    def __init__(self, upstream: str, seed: int) -> None:
        self.rate = 0.0
        self.faults: list[tuple[str, str]] = []
        self.script: list[str] = []
        self.limit = 0
        self.refused: list[int] = []  # sizes of what was over the limit
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Answering(Handler):
            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                if 0 < proxy.limit < size:
                    proxy.refused.append(size)
                    self.say(413)
                    while size > 0 and (piece := self.rfile.read(min(_PIECE, size))):
                        size -= len(piece)
                    return
                fault = proxy.choose(self.command, size)
                if fault in (REFUSE, BUSY):
                    self.rfile.read(size)
                    self.say(429 if fault == BUSY else proxy.pick([500, 502, 503]))
                    return
                connection = http.client.HTTPConnection(upstream, timeout=20)
                try:
                    if self.forward(connection, size, fault):
                        self.pass_back(connection.getresponse(), fault)
                finally:
                    connection.close()

            def forward(self, connection: http.client.HTTPConnection, size: int,
                        fault: str) -> bool:
                connection.putrequest(self.command, self.path, skip_host=True,
                                      skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                end = proxy.below(size) if fault == CUT_REQUEST else size
                wrong = proxy.below(size) if fault == SWAP_PUSHED else -1
                place = 0
                while place < end:
                    piece = bytearray(self.rfile.read(min(_PIECE, end - place)))
                    if not piece:
                        self.hang_up()
                        return False
                    if place <= wrong < place + len(piece):
                        piece[wrong - place] ^= 1
                    connection.send(piece)
                    place += len(piece)
                if fault == CUT_REQUEST:
                    _end(connection.sock)  # else the client's next question may overtake it
                    self.hang_up()
                return fault != CUT_REQUEST

            def pass_back(self, response: http.client.HTTPResponse, fault: str) -> None:
                body = response.read()
                if fault == LOSE:
                    self.say(500)
                    return
                if fault == SWAP_PULLED and body:
                    place = proxy.below(len(body))
                    body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1:]
                head = f"HTTP/1.1 {response.status} {response.reason}\r\n" + "".join(
                    f"{name}: {value}\r\n" for name, value in response.getheaders()) + "\r\n"
                whole = head.encode() + body
                if fault in (CUT_ANSWER, TRUNCATE):
                    start = len(head) if fault == TRUNCATE else 0
                    self.wfile.write(whole[:start + proxy.below(len(whole) - start)])
                    self.hang_up(reset=fault == CUT_ANSWER)
                else:
                    self.wfile.write(whole)

            def say(self, status: int) -> None:
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def hang_up(self, *, reset: bool = False) -> None:
                self.close_connection = True
                if reset:  # RST in place of FIN
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                               struct.pack("ii", 1, 0))
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)

        super().__init__(Answering)

    def choose(self, method: str, size: int) -> str:
        """A fault for this request, or nothing."""
        with self._lock:
            if size and self.script:
                return self.script.pop(0)
            if self._random.random() >= self.rate:
                return ""
            # Bodies are few among the requests, and what happens to them matters most.
            fault = self._random.choice([
                *([CUT_REQUEST, SWAP_PUSHED] * 4 if size else []),
                *([SWAP_PULLED] * 4 if method == "GET" else []),
                *(kind for kind in KINDS if kind not in (CUT_REQUEST, SWAP_PUSHED, SWAP_PULLED))])
            self.faults.append((fault, method))
            return fault

    def below(self, size: int) -> int:
        with self._lock:
            return self._random.randrange(size) if size > 0 else 0

    def pick(self, among: list[int]) -> int:
        with self._lock:
            return self._random.choice(among)


def _end(upstream: socket.socket) -> None:
    """Say that nothing more comes, and wait until the other side has seen it."""
    with contextlib.suppress(OSError):
        upstream.shutdown(socket.SHUT_WR)
        upstream.settimeout(5)
        while upstream.recv(_PIECE):
            pass

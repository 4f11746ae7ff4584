"""An HTTP server for answers that a healthy server does not give."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.support.loopback import Handler, Loopback


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int  # the client's, one for each connection


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered. `length` is what Content-Length says if not the body's; `cut` ends the
    connection after the body; `hang_up` ends it before a word is said."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    cut: bool = False
    hang_up: bool = False


class Double(Loopback):
    """A server at `url` while the block runs; `requests` is what it was asked, in order.

    `answer` is asked for each request. With `read_body=False` it is asked before a request's
    body was read, and the connection then ends.
    """

    def __init__(self, answer: Callable[[Request], Answer], *, read_body: bool = True) -> None:
        self.requests: list[Request] = []
        double = self

        class Answering(Handler):
            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (BrokenPipeError, ConnectionResetError):  # a client that gave up
                    self.close_connection = True

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                request = Request(method=self.command, path=self.path,
                                  headers={k.lower(): v for k, v in self.headers.items()},
                                  body=self.rfile.read(size) if read_body else b"",
                                  port=self.client_address[1])
                double.requests.append(request)
                given = answer(request)
                self.close_connection = given.cut or given.hang_up or (
                    size > 0 and not read_body)
                if given.hang_up:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                length = len(given.body) if given.length is None else given.length
                if "Transfer-Encoding" not in given.headers:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(given.body)
                if size > 0 and not read_body:  # as servers do, so that the answer can be read
                    self.connection.shutdown(socket.SHUT_WR)
                    time.sleep(0.3)

        super().__init__(Answering)

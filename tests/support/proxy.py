"""A forward proxy as companies have one: CONNECT for HTTPS, whole URLs for HTTP, a password."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
from urllib.parse import urlsplit

from tests.support.loopback import Handler, Loopback


class ForwardProxy(Loopback):
    """At `host` while the block runs; `asked` lists (method, target) of what it was asked.

    It alone knows where `names` are: name -> address of this machine. With `user` as
    `name:password` it lets nobody else pass.
    """

    def __init__(self, names: dict[str, str], *, user: str = "") -> None:
        self.asked: list[tuple[str, str]] = []
        self.seen: list[dict[str, str]] = []  # headers that the proxy could read
        proxy = self
        wanted = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""

        class Answering(Handler):
            def may_pass(self) -> bool:
                proxy.asked.append((self.command, self.path))
                proxy.seen.append({name.lower(): value for name, value in self.headers.items()})
                if wanted and self.headers.get("Proxy-Authorization") != wanted:
                    self.send_error(407)
                    return False
                return True

            def do_CONNECT(self) -> None:
                if not self.may_pass():
                    return
                self.close_connection = True
                host, _, port = names[self.path.rpartition(":")[0]].partition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        _join(self.connection, upstream)

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                if not self.may_pass():
                    return
                parts = urlsplit(self.path)
                connection = http.client.HTTPConnection(names[parts.hostname or ""])
                headers = {name: value for name, value in self.headers.items()
                           if not name.lower().startswith("proxy-")}
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request(self.command, target, body, headers)
                response = connection.getresponse()
                data = response.read()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                connection.close()

        super().__init__(Answering)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until one side ends."""
    while True:
        readable, _, _ = select.select([one, other], [], [], 30)
        if not readable:
            return
        for side in readable:
            data = side.recv(1 << 16)
            if not data:
                return
            (other if side is one else one).sendall(data)

"""A job that runs until the test lets it go on, rather than for some seconds."""

from __future__ import annotations

import socket


class Gate:
    """Closed until it is opened. `wait`: a command of bash, where this machine's network is had."""

    def __enter__(self) -> Gate:
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.wait = f"{{ read _ </dev/tcp/127.0.0.1/{port}; }} 2>/dev/null || true"
        return self

    def open(self) -> None:
        """Who waits is disconnected; who comes later is refused."""
        self._server.close()

    def __exit__(self, *_: object) -> None:
        self.open()

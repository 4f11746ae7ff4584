"""A folder that is served over HTTP, with what a server may do."""

from __future__ import annotations

import base64
import functools
import http.server
from pathlib import Path

from tests.support.loopback import Loopback


class Server(Loopback):
    """Serves a folder over HTTP and notes what is asked.

    `login` is `user:password` that must come with each question; `moved` maps a path to where it
    is now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.cut = 0  # bytes that answers lack
        self.login = ""
        self.moved: dict[str, str] = {}
        self.authorized: list[str] = []  # the header of each question that had it
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                outer.asked.append(self.path)

            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                if given:
                    outer.authorized.append(given)
                words = base64.b64encode(outer.login.encode()).decode()
                if outer.login and given != f"Basic {words}":
                    self.send_error(401)
                elif self.path in outer.moved:
                    self.send_response(302)
                    self.send_header("Location", outer.moved[self.path])
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    super().do_GET()

            def copyfile(self, source: object, outputfile: object) -> None:
                data = source.read()  # type: ignore[attr-defined]
                outputfile.write(data[:len(data) - outer.cut])  # type: ignore[attr-defined]

        super().__init__(functools.partial(Handler, directory=str(folder)))

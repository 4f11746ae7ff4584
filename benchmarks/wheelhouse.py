"""Wheels that were downloaded -> a page of links on this machine, for pip in a container.

It stands for a warm wheel cache that every builder can reach: pip's own cache is empty in a
container, and only BuildKit can mount one.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.workspace import Cache
from toolchain.digest import Digest


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def wheelhouse(folder: Path, cache: Cache, digests: Iterable[Digest]) -> Iterator[str]:
    """Serve those wheels out of a cache; the address for `pip install --find-links`."""
    folder.mkdir(parents=True, exist_ok=True)
    for digest in digests:
        filename = (cache.trace.get("file", digest) or {}).get("filename", "")
        if not filename.endswith(".whl"):
            raise SystemExit(f"the lock has {filename or digest}, which is no wheel")
        if not (folder / filename).exists():
            os.symlink(cache.store.path(digest).resolve(), folder / filename)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()

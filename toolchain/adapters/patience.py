"""Silence -> one line that says who is waited for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_AFTER = 5.0  # seconds until something is said
_AGAIN = 30.0  # seconds until it may be said again


class Patience:
    """Tells people what a block waits for, if it takes long. Safe to use from many threads: what
    many wait for at a time is said once."""

    def __init__(self, say: Callable[[str], None], *, after: float = _AFTER,
                 again: float = _AGAIN) -> None:
        self._say = say
        self._after = after
        self._again = again
        self._lock = threading.Lock()
        self._told: float | None = None

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """While the block runs, `text` is what it waits for."""
        timer = threading.Timer(self._after, self._tell, (text,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, text: str) -> None:
        with self._lock:
            now = time.monotonic()
            if self._told is not None and now - self._told < self._again:
                return
            self._told = now
        self._say(text)

"""Progress of long work, in bytes. This base class counts in silence; a display subclasses it."""

from __future__ import annotations

import threading


class Progress:
    """Counts what is done of what is expected. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.expected = 0
        self.done = 0

    def reset(self) -> None:
        """Something else begins."""
        with self._lock:
            self.expected = self.done = 0

    def expect(self, size: int) -> None:
        """`size` more bytes are to come."""
        with self._lock:
            self.expected += size

    def advance(self, size: int) -> None:
        """`size` bytes were handled."""
        with self._lock:
            self.done += size

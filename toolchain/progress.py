"""Progress of long work, in bytes and layers: counts in silence; a display reads it."""

from __future__ import annotations

import threading


class Progress:
    """Counts what is done of what is expected. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Something else begins."""
        with self._lock:
            self.expected = self.done = 0
            self.layers_expected = self.layers_done = 0

    def expect(self, size: int, *, layers: int = 0) -> None:
        """`size` more bytes are to come, in so many layers if it is layers."""
        with self._lock:
            self.expected += size
            self.layers_expected += layers

    def advance(self, size: int, *, layers: int = 0) -> None:
        """`size` bytes were handled; with them, so many layers are complete."""
        with self._lock:
            self.done += size
            self.layers_done += layers

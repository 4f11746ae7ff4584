"""A sign of life for each run of this process, written now and then by one thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable


class Heartbeat:
    """Calls `beat(run_id)` for every run that was added, each `every` seconds.

    The thread is there while there are runs, and ends with the process however that ends.
    """

    def __init__(self, beat: Callable[[str], None], every: float) -> None:
        self._beat = beat
        self._every = every
        self._runs: set[str] = set()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def add(self, run_id: str) -> None:
        with self._changed:
            self._runs.add(run_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on, daemon=True)
                self._thread.start()

    def drop(self, run_id: str) -> None:
        """No beat of the run begins after this."""
        with self._changed:
            self._runs.discard(run_id)
            self._changed.notify_all()

    def has(self, run_id: str) -> bool:
        with self._changed:
            return run_id in self._runs

    def _go_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._runs, self._every)
                if not self._runs:
                    self._thread = None
                    return
                due = sorted(self._runs)
            for run_id in due:
                # Whatever is wrong with the store, it is no reason to end a training; nor is
                # one beat that fails a reason to give up the next.
                with contextlib.suppress(Exception):
                    if self.has(run_id):
                        self._beat(run_id)

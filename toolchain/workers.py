"""Threads that work side by side, and stop together.

Rule 1: where one task fails, what has not begun does not begin: not in these threads, and not in
those that their tasks started.
Rule 2: Ctrl-C, and SIGTERM where it is an exception, wait a moment for what has begun, not to its
end: a download may hang for a minute. Whoever ends the process then calls `end_with`, since Python
itself would wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

_MOMENT = 1.0  # seconds
_Given = ParamSpec("_Given")
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_here = threading.local()  # whose thread this is
_left: list[threading.Thread] = []


class Workers(ThreadPoolExecutor):
    """As ThreadPoolExecutor, but for how it ends. `submit` raises CancelledError once stopped."""

    def __init__(self, most: int | None) -> None:
        super().__init__(most, initializer=self._settle)
        self._above: Workers | None = getattr(_here, "workers", None)
        self._below: set[Workers] = set()
        self._members: set[threading.Thread] = set()
        self._is_stopped = False
        if self._above is not None:
            self._above._below.add(self)
            if self._above._is_stopped:
                self.stop()

    def _settle(self) -> None:
        _here.workers = self
        self._members.add(threading.current_thread())

    def submit(self, fn: Callable[_Given, _Made], /, *args: _Given.args,
               **kwargs: _Given.kwargs) -> Future[_Made]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            if self._is_stopped:
                raise CancelledError from None
            raise

    def each(self, function: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
        """What the function makes of every item, in their order; the first failure of any is
        raised when it happens, not when its turn comes."""
        failures: list[BaseException] = []
        tasks = [self.submit(function, item) for item in items]
        # Not `wait`: nobody tells it of tasks that `shutdown` cancels, and it would wait for good.
        left = threading.Semaphore(0)

        def note(task: Future[_Made]) -> None:
            failure = CancelledError() if task.cancelled() else task.exception()
            if failure is not None:
                failures.append(failure)
            left.release()

        for task in tasks:
            task.add_done_callback(note)
        for _ in tasks:
            left.acquire()
            if failures:
                raise failures[0]
        return [task.result() for task in tasks]

    def stop(self) -> None:
        """Nothing begins any more; what runs is not waited for."""
        self._is_stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        for workers in list(self._below):
            workers.stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if error is not None:
            self.stop()
        if error is None or isinstance(error, Exception):
            self.shutdown()
        else:
            self._leave()
        if self._above is not None:
            self._above._below.discard(self)

    def _leave(self) -> None:
        until = time.monotonic() + _MOMENT
        for thread in list(self._members):
            thread.join(max(0, until - time.monotonic()))
            if thread.is_alive():
                _left.append(thread)


def end_with(status: int) -> None:
    """See to it that this process, which is about to end, is not held up by threads that were
    left behind."""
    if any(thread.is_alive() for thread in _left):
        timer = threading.Timer(_MOMENT / 2, _end, (status,))
        timer.daemon = True
        timer.start()


def _end(status: int) -> None:
    import sys

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

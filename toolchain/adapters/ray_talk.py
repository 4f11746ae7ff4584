"""On a Ray node: what a job says goes into the mailbox, and what it is told comes out of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from toolchain.adapters.log import Log

_PIECE = 1 << 16  # bytes in one message: Ray keeps larger ones in its object store
_MOMENT = 0.02  # seconds in which what a job says is gathered into one message
_WAITING = 1 << 20  # bytes that wait to be sent; then the job waits


class SentLog(Log):
    """Sends what a job says. What comes within a moment, or while a message is on its way, is
    gathered; `rest` is what is left when the log is closed."""

    def __init__(self, mailbox: Any, name: str) -> None:
        super().__init__()
        self._mailbox = mailbox
        self._name = name
        self._gathered = bytearray()
        self._is_closed = False
        self._changed = threading.Condition()
        self._sender: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, daemon=True)
            self._sender.start()
        with self._changed:
            self._changed.wait_for(lambda: len(self._gathered) < _WAITING or self._is_closed)
            self._gathered += data
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._sender is not None:
            self._sender.join()

    def rest(self) -> bytes:
        with self._changed:
            return bytes(self._gathered)

    def _send(self) -> None:
        import ray

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._gathered or self._is_closed)
                self._changed.wait_for(
                    lambda: len(self._gathered) >= _PIECE or self._is_closed, _MOMENT)
                if self._is_closed and len(self._gathered) < _PIECE:
                    return
                piece = bytes(self._gathered[:_PIECE])
                del self._gathered[:_PIECE]
                self._changed.notify_all()
            with contextlib.suppress(ray.exceptions.RayError):  # nobody reads; the job is ended
                ray.get(self._mailbox.say.remote(self._name, piece))


@contextlib.contextmanager
def obeying(mailbox: Any, name: str, log: SentLog) -> Iterator[None]:
    """While the block runs, signals that the mailbox orders come to this process."""
    import ray

    guard = threading.Lock()
    state = {"over": False}
    main = threading.main_thread().ident
    assert main is not None

    def obey() -> None:
        number = 0
        while not number and not state["over"]:
            try:
                number = ray.get(mailbox.orders.remote(name))
            except ray.exceptions.RayError:
                number = signal.SIGTERM
        with guard:
            if not state["over"]:
                # To the thread that waits for the job: another's would not wake it.
                signal.pthread_kill(main, signal.SIGTERM if number == signal.SIGKILL else number)

    listener = threading.Thread(target=obey, daemon=True)
    listener.start()
    try:
        yield
    finally:
        with guard:
            state["over"] = True
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(mailbox.done.remote(name, log.rest()))
        listener.join(5)

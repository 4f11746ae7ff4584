"""Who works in a cache: many at once, or one alone who removes things from it.

The lock is the kernel's (flock) on `<cache>/lease`: it ends with its holder, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from toolchain.errors import StoreError


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough to look


class Lease:
    """The right to work in a cache beside others, until this object is gone."""

    def __init__(self, cache: Path, waiting: Callable[[], None]) -> None:
        """`waiting` is called once if somebody works there alone. Raises StoreError for an
        unwritable cache."""
        self._handle = -1
        self._cache = cache
        path = cache / "lease"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            self._handle = _opened(path)
        except OSError as error:
            raise StoreError(f"the cache cannot be locked: {error.strerror}", where=str(path),
                             fix="make the cache folder writable, or set `cache` elsewhere"
                             ) from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While the block runs, nobody else works there. Raises StoreError if somebody does."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError("another call works in this cache", where=str(self._cache),
                             fix="run it again when that has ended") from None
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

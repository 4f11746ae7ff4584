"""A folder for what is needed for a moment, on the disk of the system's temporary files."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

from toolchain.errors import StoreError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder, gone afterwards.

    Raises StoreError if it cannot be made, or if the disk is full while it is used.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="toolchain-")
    except OSError as error:
        raise _unusable(error) from None
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise _unusable(error) from None


def _unusable(error: OSError) -> StoreError:
    return StoreError(f"there is no room for temporary files: {error.strerror}",
                      where=tempfile.tempdir or "TMPDIR",
                      fix="free some space there, or let TMPDIR name another folder")

"""cache/ -> a smaller one; about the whole workspace."""

from __future__ import annotations

import time
from collections.abc import Collection

from toolchain import prune
from toolchain.chain import Session
from toolchain.errors import StoreError
from toolchain.quantity import seconds
from toolchain.stages import size

NAME = "prune"


def run(session: Session, projects: Collection[str]) -> str:
    """Remove what `keep` and the projects, which are all there are, leave over; words for people.

    Raises StoreError if another call works in the cache.
    """
    cache, keep = session.workspace.cache, session.workspace.config.keep
    since = time.time() - seconds(keep)
    with session.lease.alone():
        needs = prune.needed(session.journal, projects)
        try:
            freed = prune.prune(cache, session.journal, needs, since)
            for images in session.tools.layouts():
                freed += images.prune(needs, since)
        except OSError as error:
            raise StoreError(f"the cache cannot be pruned: {error.strerror}",
                             where=str(error.filename or cache),
                             fix="make the cache folder writable") from None
    return f"removed {freed.number} files and folders ({size(freed.size)}) not used for {keep}"

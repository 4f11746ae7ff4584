"""URI of a `path` parameter -> its content, kept in the cache.

Rule 1: what a URI holds is settled when it is first read, as a lock settles versions: a null call
asks no server. `force=1` and `upgrade=1` read it again, once a call.
Rule 2: the training key has the content's digest, and the URI is in no key or record: it may be
signed. Another address, or a local file, of the same content is the same training.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.errors import StoreError, TrackingError
from toolchain.tree import content

_STAGE = "input"


def bring(chain: Chain, uri: str) -> tuple[Digest, str]:
    """The digest of what is there, and where this machine has it. Raises TrackingError."""
    trace, seen = chain.session.trace, chain.session.pinned
    question = Digest.of_json({"input": uri})
    with trace.holding(_STAGE, question, chain.waiting):
        known = trace.get(_STAGE, question)
        again = (chain.config.force or chain.config.upgrade) and question not in seen
        if known is not None and not again:
            digest, path = Digest(known["digest"]), _folder(chain) / known["path"]
            if _is_whole(chain, path, digest):
                return digest, str(path)
        digest, path = _fetch(chain, uri)
        seen.add(question)
        place = path.relative_to(_folder(chain)).as_posix()
        trace.note(_STAGE, question, {"digest": digest.hex, "path": place})
        return digest, str(path)


def _fetch(chain: Chain, uri: str) -> tuple[Digest, Path]:
    folder = _folder(chain)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as name:
            with chain.session.progress(f"input of {chain.name}"):
                got = chain.session.tools.remote(chain.config).fetch(uri, Path(name))
            if got == Path(name):
                raise TrackingError("an input has no name", where=f"{chain.name}: train",
                                    fix="name a file or folder, not the root of a store")
            digest = content(got, chain.session.journal)
            place = folder / digest.hex[:32] / got.name
            with chain.session.trace.holding(_STAGE, digest, chain.waiting):
                if not _is_whole(chain, place, digest):
                    if place.is_dir():
                        shutil.rmtree(place)
                    place.parent.mkdir(exist_ok=True)
                    os.replace(got, place)
            return digest, place
    except OSError as error:
        raise StoreError(f"an input cannot be kept: {error.strerror}", where=str(folder),
                         fix="make the cache folder writable, or free some space") from None


def _is_whole(chain: Chain, path: Path, digest: Digest) -> bool:
    """Whether an input is there; a job may be reading it, or another of the same content."""
    return path.exists() and content(path, chain.session.journal) == digest


def _folder(chain: Chain) -> Path:
    return (chain.session.workspace.cache / "inputs").resolve()

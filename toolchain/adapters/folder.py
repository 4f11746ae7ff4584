"""Entries of package layers -> a folder on this machine: an environment without an image."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

from toolchain.digest import Digest
from toolchain.errors import EngineError, ResolveError
from toolchain.layer import PREFIX
from toolchain.layer.archive import Entry

_PIECE = 1 << 20


class Folder:
    """What would be below /opt/venv in an image is put below `root`. As in an image, what comes
    later takes the place of what is there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real = os.path.realpath(root)

    def add(self, entry: Entry) -> None:
        target = self._target(entry.path)
        if entry.kind == tarfile.DIRTYPE:
            with contextlib.suppress(FileExistsError):
                target.mkdir(parents=True)
            return
        self._clear(target)
        if entry.kind == tarfile.SYMTYPE:
            target.symlink_to(entry.link)
            return
        target.write_bytes(entry.data)
        target.chmod(entry.mode)

    def add_stream(self, entry: Entry, stream: BinaryIO, size: int) -> Digest:
        target = self._target(entry.path)
        self._clear(target)
        sha, left = hashlib.sha256(), size
        with open(target, "xb") as sink:
            while piece := stream.read(min(_PIECE, left + 1)):
                sha.update(piece)
                left -= len(piece)
                sink.write(piece)
                if left < 0:
                    break
        if left:
            raise ResolveError("refused: has not the size that it declares", where=entry.path,
                               fix="do not use this file; pin another version of the package")
        target.chmod(entry.mode)
        return Digest(sha.hexdigest())

    def _target(self, path: str) -> Path:
        if not path.startswith(f"{PREFIX}/") or ".." in path.split("/"):
            raise EngineError("refused: leaves the environment", where=path,
                              fix="do not use the package that has it")
        return self._root / path.removeprefix(f"{PREFIX}/")

    def _clear(self, target: Path) -> None:
        """Make room for a file, in a folder that is within the environment."""
        with contextlib.suppress(FileExistsError):
            target.parent.mkdir(parents=True)
        # A link that a package made must not lead what follows elsewhere.
        real = os.path.realpath(target.parent)
        if real != self._real and not real.startswith(f"{self._real}/"):
            raise EngineError("refused: leaves the environment by a link", where=str(target),
                              fix="do not use the package that has it")
        with contextlib.suppress(FileNotFoundError):
            target.unlink()

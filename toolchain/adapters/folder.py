"""Entries of package layers -> a folder on this machine: an environment without an image.

Rule: nothing is written outside the folder, also not through a link that a package made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from toolchain.digest import Digest
from toolchain.errors import EngineError, ResolveError
from toolchain.layer import PREFIX
from toolchain.layer.archive import Entry

_PIECE = 1 << 20


class Folder:
    """What would be below /opt/venv in an image is put below `root`. As in an image, what comes
    later takes the place of what is there.

    Raises EngineError for what would leave the folder, and where it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real = os.path.realpath(root)

    def add(self, entry: Entry) -> None:
        target = self._target(entry.path)
        with _explained(target):
            if entry.kind == tarfile.DIRTYPE:
                if not target.is_dir():
                    self._make_room(target)
                    target.mkdir()
                return
            self._make_room(target)
            if entry.kind == tarfile.SYMTYPE:
                target.symlink_to(entry.link)
                return
            target.write_bytes(entry.data)
            target.chmod(entry.mode)

    def add_stream(self, entry: Entry, stream: BinaryIO, size: int) -> Digest:
        target = self._target(entry.path)
        sha, left = hashlib.sha256(), size
        with _explained(target):
            self._make_room(target)
            sink = open(target, "xb")  # noqa: SIM115 - closed below
        with sink:
            while piece := stream.read(min(_PIECE, left + 1)):
                sha.update(piece)
                left -= len(piece)
                with _explained(target):
                    sink.write(piece)
                if left < 0:
                    break
            with _explained(target):
                sink.flush()
                target.chmod(entry.mode)
        if left:
            raise ResolveError("refused: has not the size that it declares", where=entry.path,
                               fix="do not use this file; pin another version of the package")
        return Digest(sha.hexdigest())

    def _target(self, path: str) -> Path:
        name = path.removeprefix(f"{PREFIX}/")
        if name == path or name.startswith("/") or ".." in name.split("/"):
            raise EngineError("refused: leaves the environment", where=path,
                              fix="do not use the package that has it")
        target = self._root / name
        # A link that a package made must not lead what follows elsewhere.
        real = os.path.realpath(target.parent)
        if real != self._real and not real.startswith(f"{self._real}/"):
            raise EngineError("refused: leaves the environment by a link", where=str(target),
                              fix="do not use the package that has it")
        return target

    def _make_room(self, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # there is a file in the place of a folder
            for above in target.parents:
                if self._root in above.parents and above.exists() and not above.is_dir():
                    above.unlink()
            target.parent.mkdir(parents=True)
        try:
            target.unlink()
        except FileNotFoundError:
            return
        except IsADirectoryError:
            shutil.rmtree(target)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # said here, lest a caller takes it for the package's fault
        raise EngineError(f"the environment cannot be written: {error.strerror}",
                          where=str(target),
                          fix="make the cache folder writable, or free some space") from None

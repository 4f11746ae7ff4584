"""A project's folder -> the text files that its parser asks for, with their digests noted."""

from __future__ import annotations

import codecs
import posixpath
from pathlib import Path

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.spec.named import OutOfReach
from toolchain.tree import Tree


class TreeReader:
    """Implements toolchain.spec.Reader over one look at a folder.

    Files outside the folder are read if they are below `root`, the workspace. `seen` maps every
    path that was asked for to its sha256 in hexadecimal, or None for a file that is not there.
    """

    def __init__(self, tree: Tree, root: Path) -> None:
        self._tree = tree
        self._root = root
        self.seen: dict[str, str | None] = {}

    def read(self, path: str) -> str | None:
        data = self._bytes(path)
        self.seen[path] = None if data is None else Digest.of(data).hex
        if data is None:
            return None
        try:
            return data.decode(_encoding(data, path))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise SpecError(f"not UTF-8: byte {error.start}", where=f"{path}:{line}",
                            fix="save the file as UTF-8") from None

    def note(self, path: str) -> None:
        """Note a file's digest without reading it where it is known."""
        if self._is_plain(path):
            self.seen[path] = self._tree.digest(path).hex
        else:
            data = self._bytes(path)
            self.seen[path] = None if data is None else Digest.of(data).hex

    def _is_plain(self, path: str) -> bool:
        return path in self._tree.found and not self._tree.found[path].is_link

    def _bytes(self, path: str) -> bytes | None:
        if self._is_plain(path):
            return self._tree.read(path)
        try:
            target = (self._tree.root / path).resolve()
        except (RuntimeError, ValueError) as error:  # a loop of links; a NUL character
            raise OutOfReach(f"cannot be read: {error}", where=path,
                             fix="name a file, or a link that leads to one") from None
        if not target.is_relative_to(self._root.resolve()):
            raise OutOfReach(f"leaves the workspace: {path}", where=path,
                             fix="keep what a project reads within the workspace")
        try:
            return target.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", where=path,
                            fix="make it readable") from None


def _encoding(data: bytes, path: str) -> str:
    """PowerShell's `>` writes UTF-16 with a mark; pip and conda read their files so, MLflow not
    its own."""
    if posixpath.basename(path).lower() != "mlproject":
        if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # begins as UTF-16 does
            return "utf-32"
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
    return "utf-8-sig"

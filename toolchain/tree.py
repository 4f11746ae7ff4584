"""folder -> Tree: the files of a project by content, without reading what has not changed.

Rule 1: a file is read again unless its size, mtime, ctime and inode are those of the last time.
An edit that keeps size and mtime still moves ctime, which no program can set.
Rule 2: times have a grain. What changed less than two seconds before it was read is not
remembered, so that a second edit within the same grain is seen (git calls this "racy").
Rule 3: a file that changes while it is being read is an error, not a result.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.values import dataclass

_GRAIN_NS = 2_000_000_000
_MOST_LINKS = 40  # on one way, as path_resolution(7) has it

# Never part of a project, whatever .dockerignore says: version control, run records, secrets,
# caches, environments and editors' leavings.
SKIPPED_FOLDERS = frozenset({
    ".git", ".hg", ".svn", "mlruns", "mlartifacts", "__pycache__", ".cache", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".tox", ".nox", ".venv", ".eggs",
    ".dvc", "node_modules", ".idea", ".vscode",
})
_SKIPPED_FILES = frozenset({".git", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".DS_Store"})

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A file or symbolic link below a folder. `path` is relative, with `/`."""

    path: str
    mode: int
    stamp: Stamp

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file by content. `link` is a symbolic link's target; `digest` is None for a link."""

    path: str
    executable: bool
    digest: Digest | None
    link: str | None = None

    def to_json(self) -> list[object]:
        content = f"-> {self.link}" if self.digest is None else str(self.digest)
        return [self.path, self.executable, content]


def walk(root: Path, skipped: tuple[Path, ...] = (),
         entered: list[Path] | None = None) -> Iterator[Found]:
    """Every file and link below `root`, sorted by folder, without what is never project content.

    `skipped` folders, by their whole path, are left out. Those that are looked into are added to
    `entered`.
    Empty folders are left out: git does not keep them, so two clones would differ.
    Raises SpecError for a socket, device or pipe, for a name that is not UTF-8 (an image, a plan
    and a receipt hold names as text), and for a folder that cannot be read.
    """
    folders = [("", os.fspath(root))]
    left_out = frozenset(map(os.fspath, skipped))
    while folders:
        prefix, folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", where=folder,
                            fix="make it readable") from None
        if prefix and any(entry.name == "pyvenv.cfg" for entry in found):
            continue  # a virtual environment
        if entered is not None:
            entered.append(Path(folder))
        for entry in found:
            name = entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder:
                if name in SKIPPED_FOLDERS or (left_out and entry.path in left_out):
                    continue
            elif name in _SKIPPED_FILES or name.startswith(".env") or name.endswith(".pyc"):
                continue
            if not is_utf8(name):
                raise SpecError("a name is not UTF-8", where=visible(entry.path),
                                fix="rename the file or folder, or move it out of the project")
            if is_folder:
                folders.append((f"{prefix}{name}/", entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone between listing and looking: as if it had gone before
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                raise SpecError(
                    "neither a file nor a link", where=entry.path,
                    fix="move it out of the project",
                )
            if stat.S_ISLNK(status.st_mode) and (name in SKIPPED_FOLDERS
                                                 or entry.path in left_out):
                continue  # as the folder that it stands for
            yield Found(prefix + name, status.st_mode, stamp(status))


def is_utf8(name: str) -> bool:
    """Whether a file name is text. Python keeps other bytes as lone surrogates (PEP 383)."""
    return name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name)


def visible(name: str) -> str:
    """A file name that may not be UTF-8, as it can be printed: `caf\\xe9`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def stamp(status: os.stat_result) -> Stamp:
    """Size in bytes, mtime and ctime in nanoseconds, inode: what tells a file from what it was."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(stamps: Iterator[Stamp], now_ns: int | None = None) -> bool:
    """Whether nothing changed within the grain of file times (rule 2)."""
    limit = (time.time_ns() if now_ns is None else now_ns) - _GRAIN_NS
    return all(mtime < limit and ctime < limit for _, mtime, ctime, _ in stamps)


class Tree:
    """The files below one folder, by content. One `Tree` is one look at the folder."""

    def __init__(self, root: Path, journal: Journal, skipped: tuple[Path, ...] = (),
                 found: Found | None = None) -> None:
        """`found`: nothing is walked; `root` is that one file."""
        self.root = root
        self.found = {file.path: file for file in ((found,) if found else walk(root, skipped))}
        self._journal = journal
        self._known: dict[str, list[object]] | None = None
        self._digests: dict[str, Digest] = {}  # of this look
        self._added = False

    def digest(self, path: str) -> Digest:
        """The digest of one file's bytes, found once. Raises SpecError if it changed since the
        walk."""
        if path not in self._digests:
            self._digests[path] = self._digest(path)
        return self._digests[path]

    def _digest(self, path: str) -> Digest:
        known = self._load()
        file = self.found[path]
        entry = known.get(path)
        if entry is not None and entry[:4] == list(file.stamp):
            return Digest(str(entry[4]))
        with self.open(path) as stream:
            digest = Digest.of_stream(stream)
        if is_settled(iter([file.stamp])):
            known[path] = [*file.stamp, digest.hex]
            self._added = True
        return digest

    def read(self, path: str) -> bytes:
        """One file's bytes, as they were when the folder was walked, or SpecError."""
        with self.open(path) as stream:
            return stream.read()

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """One file, for reading. Raises SpecError at the end if it changed since the walk."""
        name = self.root / path
        try:
            with open(name, "rb") as stream:
                yield stream
                after = stamp(os.fstat(stream.fileno()))
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", where=str(name),
                            fix="make it readable, or put it back") from None
        if after != self.found[path].stamp:
            raise changed(name)

    def file(self, path: str) -> TreeFile:
        """One file by content, or a link by target. Raises SpecError for a link that leaves."""
        found = self.found[path]
        if not found.is_link:
            return TreeFile(path, bool(found.mode & 0o111), self.digest(path))
        target = self._target(path)
        if self._leaves(path):
            raise SpecError(
                f"link leaves the project: {path} -> {target}", where=str(self.root / path),
                fix="copy the file into the project, or exclude the link in .dockerignore",
            )
        return TreeFile(path, False, None, target)

    def _target(self, path: str) -> str:
        try:
            target = os.readlink(self.root / path)
        except OSError:
            raise changed(self.root / path) from None
        if not is_utf8(target):
            raise SpecError("a link's target is not UTF-8", where=str(self.root / path),
                            fix="rename the file that it leads to, and make the link anew")
        return target

    def _leaves(self, path: str) -> bool:
        """Whether the way that a path leads, through whatever links, is ever outside."""
        place: list[str] = []
        ahead = path.split("/")[::-1]
        links = 0
        while ahead and links <= _MOST_LINKS:
            part = ahead.pop()
            if part == ".." and not place:
                return True
            if part == "..":
                place.pop()
            elif part not in ("", "."):
                place.append(part)
                file = self.found.get("/".join(place))
                if file is not None and file.is_link:
                    target = self._target(file.path)
                    if os.path.isabs(target):
                        return True
                    place.pop()
                    ahead += target.split("/")[::-1]
                    links += 1
        return False  # too many links are a loop, which leads nowhere

    def remember(self) -> None:
        """Keep what was hashed for the next look."""
        if self._added and self._known is not None:
            from toolchain.digest import canonical_json

            kept = {path: entry for path, entry in self._known.items() if path in self.found}
            self._journal.write(
                "insert or replace into files values (?,?)",
                (str(self.root), canonical_json(kept).decode()),
            )
            self._added = False

    def _load(self) -> dict[str, list[object]]:
        if self._known is None:
            import json

            rows = self._journal.rows(
                "select entries from files where folder=?", (str(self.root),)
            )
            self._known = json.loads(rows[0][0]) if rows else {}
        return self._known


def watched(path: Path, skipped: tuple[Path, ...] = ()) -> set[Path]:
    """The paths of which one's times change when a file does, or anything that `walk` finds below
    a folder."""
    if not path.is_dir():
        return {path}
    folders: list[Path] = []  # the time of one moves when a file comes or goes
    return {path / file.path for file in walk(path, skipped, folders)} | set(folders)


def content(path: Path, journal: Journal) -> Digest:
    """The digest of a file's bytes, or of a folder's tree. Raises SpecError."""
    if path.is_dir():
        tree = Tree(path, journal)
        files = [tree.file(name).to_json() for name in sorted(tree.found)]
        tree.remember()
        return Digest.of_json(files)
    try:
        status = os.stat(path)
        tree = Tree(path, journal, found=Found("", status.st_mode, stamp(status)))
        digest = tree.digest("")  # `path / ""` is the path
        tree.remember()
        return digest
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(path),
                        fix="make it readable, or put it back") from None


def changed(path: Path) -> SpecError:
    return SpecError(
        "changed while it was being read", where=str(path),
        fix="run the command again when nothing writes there",
    )

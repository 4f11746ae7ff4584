"""projects folder -> Scan: where the projects are, what they are called, what was passed over.

The whole folder is looked at every time, so that two projects of one name are noticed at once;
but a folder is listed, and an MLproject read for its name, only when its times changed. Nothing
that is wrong with one project stops the others: the project carries its mistake, which `parse`
reports.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.tree import SKIPPED_FOLDERS, is_settled, is_utf8, stamp, visible
from toolchain.values import dataclass

_TEMPLATE = "{{"  # as in cookiecutter's folders
_NEAR_MISSES = frozenset({"mlproject.yaml", "mlproject.yml"})
_MOST_NOTES = 10
# What a task cannot be named by; toolchain.spec.mlproject refuses the same in `name:`.
_UNFIT = re.compile(r"[:=,*/\\\x00-\x1f\x7f]|^[\s-]|^\.+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Where a project is. `folder` is relative to the workspace; `mlproject` is a file name.

    Of a project out of a git repository `root` is the folder of its commit, which it may not
    leave, and `words` are those of a call for that commit of it. mistake: why it can only be
    listed, if it can only be listed.
    """

    name: str
    folder: str
    mlproject: str
    root: str = ""
    words: tuple[str, ...] = ()
    mistake: SpecError | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The words of a call that mean this project."""
        return self.words or (f"project={self.name}",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a look at the projects folder found. `notes` are lines for people."""

    projects: dict[str, Project]
    notes: tuple[str, ...]


def scan(root: Path, top: str, cache: str, journal: Journal) -> Scan:
    """Look for projects below `top`; the folder `cache` holds copies, which are none."""
    looking = _Look(root, journal)
    found = looking.run(top, cache)
    notes = sorted(looking.notes)
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"and {len(notes) - _MOST_NOTES} more like these"]
    return Scan(projects=_by_name(found), notes=tuple(notes))


def _by_name(found: list[Project]) -> dict[str, Project]:
    projects: dict[str, Project] = {}
    doubles: dict[str, list[str]] = {}
    for project in found:
        first = projects.setdefault(project.name, project)
        if first is not project:
            doubles.setdefault(project.name, [f"{first.folder}/{first.mlproject}"]).append(
                f"{project.folder}/{project.mlproject}")
    for name, places in doubles.items():
        number = "two" if len(places) == 2 else str(len(places))
        projects[name] = replace(projects[name], mistake=SpecError(
            f"{number} projects are named {name!r}", where=visible(" and ".join(places)),
            fix="give each a `name:` of its own"))
    return projects


class _Look:
    """One look, helped by what the last look saw.

    The record of a folder is [mtime_ns, ctime_ns, subfolders, MLproject's file name or None, near
    miss or None]; that of an MLproject is [size, mtime_ns, ctime_ns, inode, name].
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        rows = journal.rows("select entries from files where folder=?", ("projects",))
        self._old: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
        self._new: dict[str, Any] = {}
        self.notes: list[str] = []

    def run(self, top: str, cache: str) -> list[Project]:
        found: list[Project] = []
        folders = [os.path.normpath(top)]
        skipped = os.path.relpath(self._root / cache, self._root)
        while folders:
            folder = folders.pop()
            if folder == skipped:
                continue
            subfolders, mlproject, near = self._listing(folder)
            within = "" if folder == "." else f"{folder}/"
            for name in reversed(subfolders):
                if _TEMPLATE in name:
                    self.notes.append(f"{visible(within + name)} is a template, not a project; "
                                      "it was passed over")
                else:
                    folders.append(f"{within}{name}")
            if mlproject is not None:
                found.append(self._project(folder, mlproject))
            elif near is not None and near.lower() not in _NEAR_MISSES:
                self.notes.append(f"{visible(within + near)} is a link to a project, and links are "
                                  "not followed; put the folder itself there")
            elif near is not None:
                self.notes.append(f"{visible(within + near)} is not read: MLflow's file is called "
                                  "MLproject, without an extension; rename it")
        if self._new != self._old:
            self._journal.write(
                "insert or replace into files values (?,?)",
                # In ASCII, where the name of a folder may be no UTF-8.
                ("projects", json.dumps(self._new)),
            )
        return found

    def _listing(self, folder: str) -> tuple[list[str], str | None, str | None]:
        path = f"{self._root}/{folder}"
        try:
            now = stamp(os.stat(path))
            old = self._old.get(folder)
            if (old is not None and len(old) == 5 and isinstance(old[2], list)
                    and old[0] == now[1] and old[1] == now[2]):
                self._new[folder] = old
                return old[2], old[3], old[4]
            subfolders, mlproject, near = _list(path)
        except FileNotFoundError:
            return [], None, None
        except OSError as error:
            self.notes.append(f"{visible(folder)} cannot be read: {error.strerror}")
            return [], None, None
        if is_settled(iter([now])):
            self._new[folder] = [now[1], now[2], subfolders, mlproject, near]
        return subfolders, mlproject, near

    def _project(self, folder: str, mlproject: str) -> Project:
        own = os.path.basename(folder)
        fallback = fitting(own)
        if folder == ".":
            return Project(name=fallback, folder=folder, mlproject=mlproject, mistake=SpecError(
                "the workspace itself cannot be a project: it holds the cache and the other "
                "projects", where=mlproject, fix="move the project into a folder of its own"))
        if not is_utf8(folder):
            return Project(name=fallback, folder=folder, mlproject=mlproject, mistake=SpecError(
                "a project's folder has a name that is not UTF-8", where=visible(folder),
                fix="rename the folder"))
        try:
            name = self._name(f"{folder}/{mlproject}")
        except OSError as error:
            return Project(name=fallback, folder=folder, mlproject=mlproject, mistake=SpecError(
                f"cannot be read: {error.strerror}", where=f"{folder}/{mlproject}",
                fix="make it readable"))
        if not name and fallback != own:
            return Project(name=fallback, folder=folder, mlproject=mlproject, mistake=SpecError(
                f"a project cannot be called {own!r}, like its folder", where=folder,
                fix="give it a `name:` without ':', '=', ',', '*' and '\\', or rename the folder"))
        return Project(name=name or own, folder=folder, mlproject=mlproject)

    def _name(self, path: str) -> str:
        """The `name:` in an MLproject, or an empty text. Raises OSError."""
        now = stamp(os.stat(f"{self._root}/{path}"))
        old = self._old.get(path)
        if old is not None and tuple(old[:4]) == now:
            self._new[path] = old
            return str(old[4])
        data = (self._root / path).read_bytes()
        from toolchain.spec.mlproject import name_of

        name = name_of(data)
        if is_settled(iter([now])):
            self._new[path] = [*now, name]
        return name


def fitting(name: str) -> str:
    """A name for a project, of that of its folder."""
    return _UNFIT.sub("_", visible(name)) or "_"


def mlproject_in(folder: Path) -> tuple[str, str] | None:
    """The MLproject file in one folder, by its name, and the `name:` in it, which may be empty;
    None without such a file. Raises OSError."""
    from toolchain.spec.mlproject import name_of

    found = sorted(path for path in folder.iterdir()
                   if path.name.lower() == "mlproject" and path.is_file())
    return (found[0].name, name_of(found[0].read_bytes())) if found else None


def _list(path: str) -> tuple[list[str], str | None, str | None]:
    """Subfolders, the MLproject file and, without one, a file or link that was meant to be one."""
    subfolders: list[str] = []
    mlprojects: list[str] = []
    near: str | None = None
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if name not in SKIPPED_FOLDERS:
                    subfolders.append(name)
            elif name[:9].lower() == "mlproject" and entry.is_file():
                if len(name) == 9:
                    mlprojects.append(name)
                elif name.lower() in _NEAR_MISSES:
                    near = min(name, near or name)
            elif name == "pyvenv.cfg":
                return [], None, None
            elif entry.is_symlink() and entry.is_dir() and _has_mlproject(entry.path):
                near = min(name, near or name)
    # Of several (a file system that tells cases apart), always the same one.
    return sorted(subfolders), min(mlprojects) if mlprojects else None, near


def _has_mlproject(folder: str) -> bool:
    try:
        return any(name.lower() == "mlproject" for name in os.listdir(folder))
    except OSError:
        return False

"""folder -> Workspace: the root of a monorepo, its settings, and where its projects are.

The whole projects folder is looked at every time, so that two projects of one name are noticed
at once; but a folder is listed, and an MLproject read for its name, only when its times changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.config import CALL, PROJECT, WORKSPACE, Config, read_settings
from toolchain.errors import ConfigError, SpecError, nearest
from toolchain.journal import Journal
from toolchain.tree import SKIPPED_FOLDERS, is_settled, is_utf8, stamp, visible

# What somebody else's project may set: its image, not where things go.
_OF_A_GUEST = ("python", "apt", "image.base", "image.platform")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Where a project is. `folder` is relative to the workspace; `mlproject` is a file name.

    Of a project out of a git repository `root` is the folder of its commit, which it may not
    leave.
    """

    name: str
    folder: str
    mlproject: str
    root: str = ""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A monorepo: `root` holds dodo.py and pyproject.toml; `call` is name=value as given."""

    root: Path
    config: Config
    call: Mapping[str, str]

    @classmethod
    def open(cls, root: Path, call: Mapping[str, str]) -> Workspace:
        """Read the workspace's settings. Raises ConfigError."""
        where = "pyproject.toml, [tool.toolchain]"
        config = Config().given(
            read_settings(f"{root}/pyproject.toml"), scope=WORKSPACE, where=where
        )
        config = config.given(call, scope=CALL, where="command line")
        return cls(root, config, dict(call))

    @property
    def cache(self) -> Path:
        return self.root / self.config.cache

    def config_for(self, project: Project) -> Config:
        """The settings for one project: its own table over the workspace's, the call over both."""
        own = read_settings(f"{self.root}/{project.folder}/pyproject.toml")
        if project.root:
            own = {name: value for name, value in own.items() if name in _OF_A_GUEST}
        if not own:
            return self.config
        where = f"{project.folder}/pyproject.toml, [tool.toolchain]"
        return self.config.given(own, scope=PROJECT, where=where).given(
            self.call, scope=CALL, where="command line"
        )

    def projects(self, journal: Journal) -> dict[str, Project]:
        """Every project by name, sorted by folder.

        Raises SpecError for two projects of one name, ConfigError for a missing folder.
        """
        top = self.root / self.config.projects
        if not top.is_dir():
            raise ConfigError(
                "the projects folder does not exist", where=str(top),
                fix="make it, or set `projects` in pyproject.toml's [tool.toolchain]; to choose a "
                    "project say project=NAME",
            )
        return _by_name(_Scan(self.root, journal).run(self.config.projects, self.config.cache))


def select(projects: Mapping[str, Project], names: str) -> dict[str, Project]:
    """The projects named in `a,b`. Raises SpecError for an unknown one."""
    chosen: dict[str, Project] = {}
    if not names.replace(",", "").strip():
        raise SpecError("project= names no project", where="command line",
                        fix="give one, as in project=NAME, or leave it out for every project")
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in projects:
            raise SpecError(
                f"no project named {name!r}{nearest(name, projects)}", where="command line",
                fix="`doit list --all` names every project" if projects
                else "put a folder with an MLproject file below the projects folder",
            )
        chosen[name] = projects[name]
    return chosen


def _by_name(found: list[Project]) -> dict[str, Project]:
    projects: dict[str, Project] = {}
    for project in found:
        if project.name in projects:
            other = projects[project.name]
            raise SpecError(
                f"two projects are named {project.name!r}",
                where=f"{other.folder}/{other.mlproject} and {project.folder}/{project.mlproject}",
                fix="give one of them another `name:`",
            )
        projects[project.name] = project
    return projects


class _Scan:
    """One look at the projects folder, helped by what the last look saw.

    The record of a folder is [mtime_ns, ctime_ns, subfolders, MLproject's file name or None];
    that of an MLproject is [size, mtime_ns, ctime_ns, inode, name].
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        rows = journal.rows("select entries from files where folder=?", ("projects",))
        self._old: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
        self._new: dict[str, Any] = {}

    def run(self, top: str, cache: str) -> list[Project]:
        found: list[Project] = []
        folders = [os.path.normpath(top)]
        skipped = os.path.relpath(self._root / cache, self._root)
        while folders:
            folder = folders.pop()
            if folder == skipped:
                continue
            subfolders, mlproject = self._listing(folder)
            within = "" if folder == "." else f"{folder}/"
            folders.extend(f"{within}{name}" for name in reversed(subfolders))
            if mlproject is not None:
                _refuse_place(folder, mlproject)
                name = self._name(folder, mlproject)
                found.append(Project(name=name, folder=folder, mlproject=mlproject))
        if self._new != self._old:
            self._journal.write(
                "insert or replace into files values (?,?)",
                # In ASCII, where the name of a folder may be no UTF-8.
                ("projects", json.dumps(self._new)),
            )
        return found

    def _listing(self, folder: str) -> tuple[list[str], str | None]:
        path = f"{self._root}/{folder}"
        try:
            now = stamp(os.stat(path))
            old = self._old.get(folder)
            if old is not None and old[0] == now[1] and old[1] == now[2]:
                self._new[folder] = old
                return old[2], old[3]
            subfolders, mlproject = _list(path)
        except FileNotFoundError:
            return [], None
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", where=visible(folder),
                            fix="make it readable") from None
        if is_settled(iter([now])):
            self._new[folder] = [now[1], now[2], subfolders, mlproject]
        return subfolders, mlproject

    def _name(self, folder: str, mlproject: str) -> str:
        path = f"{folder}/{mlproject}"
        try:
            now = stamp(os.stat(f"{self._root}/{path}"))
            old = self._old.get(path)
            if old is not None and tuple(old[:4]) == now:
                self._new[path] = old
                return str(old[4])
            data = (self._root / path).read_bytes()
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", where=path,
                            fix="make it readable") from None
        from toolchain.spec.mlproject import name_of

        name = name_of(data) or os.path.basename(folder)
        if is_settled(iter([now])):
            self._new[path] = [*now, name]
        return name


def _refuse_place(folder: str, mlproject: str) -> None:
    if folder == ".":
        raise SpecError(
            "the workspace itself cannot be a project: it holds the cache and the other projects",
            where=mlproject, fix="move the project into a folder of its own",
        )
    if not is_utf8(folder):
        raise SpecError("a project's folder has a name that is not UTF-8", where=visible(folder),
                        fix="rename the folder")


def _list(path: str) -> tuple[list[str], str | None]:
    subfolders: list[str] = []
    mlproject: str | None = None
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS:
                    subfolders.append(entry.name)
            elif entry.name.lower() == "mlproject" and entry.is_file():
                mlproject = entry.name
            elif entry.name == "pyvenv.cfg":
                return [], None
    return sorted(subfolders), mlproject

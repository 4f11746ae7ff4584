"""folder -> Workspace: the root of a monorepo, its settings, and where its projects are.

Where the projects are is found by toolchain.scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolchain.config import CALL, PROJECT, WORKSPACE, Config, read_settings
from toolchain.errors import ConfigError, SpecError, nearest
from toolchain.journal import Journal
from toolchain.scan import Project, Scan, scan
from toolchain.values import dataclass

__all__ = ["Project", "Scan", "Workspace", "select"]

# What somebody else's project may set: its image, not where things go.
_OF_A_GUEST = ("python", "apt", "image.base", "image.platform")


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
        """Every project by name, sorted by folder. Raises ConfigError for a missing folder."""
        return self.scan(journal).projects

    def scan(self, journal: Journal) -> Scan:
        """Every project, and what was passed over. Raises ConfigError for a missing folder."""
        top = self.root / self.config.projects
        if not top.is_dir():
            raise ConfigError(
                "the projects folder does not exist", where=str(top),
                fix="make it, or set `projects` in pyproject.toml's [tool.toolchain]; to choose a "
                    "project say project=NAME",
            )
        return scan(self.root, self.config.projects, self.config.cache, journal)


def select(projects: Mapping[str, Project], names: str,
           notes: tuple[str, ...] = ()) -> dict[str, Project]:
    """The projects named in `a,b`. Raises SpecError for an unknown one; `notes` are what a scan
    passed over, which may be why."""
    chosen: dict[str, Project] = {}
    if not names.replace(",", "").strip():
        raise SpecError("project= names no project", where="command line",
                        fix="give one, as in project=NAME, or leave it out for every project")
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in projects:
            fix = ("`doit list --all` names every project" if projects
                   else "put a folder with an MLproject file below the projects folder")
            raise SpecError(f"no project named {name!r}{nearest(name, projects)}",
                            where="command line",
                            fix="; ".join((fix, *(note for note in notes if name in note))))
        chosen[name] = projects[name]
    return chosen

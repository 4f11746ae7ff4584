"""A git URL -> Project: somebody else's project, run from its repository as `mlflow run` does.

Its files are a checkout below the cache, one for each commit. What its MLproject names must be in
its own repository. Without an MLproject it is what the script that is named as entry point needs
by the files beside it. Of its [tool.toolchain] only what describes its image is heeded
(toolchain.workspace): where images and runs go is for whoever runs it to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from toolchain.errors import SpecError, without_credentials
from toolchain.scan import fitting, mlproject_in
from toolchain.spec.command import SCRIPTS
from toolchain.workspace import Project, Workspace


class Repositories(Protocol):
    """Git repositories, of which commits are checked out."""

    def pin(self, url: str, revision: str, *, anew: bool = False) -> str:
        """The commit of a branch, tag or commit; empty: the remote's HEAD. Remembered, and asked
        again with `anew`. Raises ResolveError."""

    def files(self, url: str, commit: str) -> Path:
        """A checkout of the commit. Twice is as once. Raises ResolveError."""


def find(url: str, folder: str, workspace: Workspace, repositories: Repositories,
         say: Callable[[str], None]) -> Project:
    """The project in `folder` of a repository, at the revision that `version` names.

    Raises SpecError, ResolveError.
    """
    version, shown = workspace.config.version, without_credentials(url)
    if version.startswith("-") or any(letter.isspace() for letter in version):
        raise SpecError(f"not a revision: {version!r}", where="version",
                        fix="name a branch, a tag or a commit")
    commit = repositories.pin(url, version, anew=workspace.config.upgrade)
    root = repositories.files(url, commit)
    place = root / folder
    if not place.resolve().is_relative_to(root.resolve()):
        raise SpecError(f"leaves the repository: {folder}", where=shown,
                        fix="name a folder within it, as in URL#folder")
    try:
        found = mlproject_in(place)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=f"{shown}#{folder}",
                        fix="name a folder of the repository, as in URL#folder") from None
    if found is None and not _is_script(place, workspace.config.entry_point):
        raise SpecError("no MLproject there", where=f"{shown}#{folder}, commit {commit}",
                        fix="name the folder that has it, as in URL#folder; or a script there, as "
                            "in entry_point=train.py")
    mlproject, named = found or ("MLproject", "")
    name = named or fitting(folder.rpartition("/")[2] or _last(url))
    if not version or not commit.startswith(version):
        say(f"{name}: {version or 'HEAD'} of {shown} is {commit} (upgrade=1 asks again)")
    return Project(name=name, folder=_below(place, workspace.root), mlproject=mlproject,
                   root=_below(root, workspace.root),
                   words=(f"project={shown}{'#' if folder else ''}{folder}", f"version={commit}"))


def _last(url: str) -> str:
    return re.split("[/:]", url.rstrip("/"))[-1].removesuffix(".git")


def _is_script(folder: Path, entry_point: str) -> bool:
    """Whether it is one that MLflow runs without having been told of it."""
    path = folder / entry_point
    return (path.suffix in SCRIPTS and path.is_file()
            and path.resolve().is_relative_to(folder.resolve()))


def _below(path: Path, root: Path) -> str:
    """Relative to the workspace, where the cache is in it."""
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)

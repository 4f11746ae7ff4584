"""What git says of a folder, as MLflow's system tags."""

from __future__ import annotations

import subprocess
from pathlib import Path

from toolchain.errors import without_credentials


def tags(folder: Path) -> dict[str, str]:
    """Commit, branch and repository; {} outside version control or without git."""
    commit = _ask(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    found = {"mlflow.source.git.commit": commit}
    branch = _ask(folder, "symbolic-ref", "--quiet", "--short", "HEAD")
    if branch:
        found["mlflow.source.git.branch"] = branch
    url = _ask(folder, "remote", "get-url", "origin")
    if url:
        found["mlflow.source.git.repoURL"] = without_credentials(url)
    if _ask(folder, "status", "--porcelain", "--", "."):
        found["toolchain.git.dirty"] = "true"
    return found


def _ask(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True,
                              text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

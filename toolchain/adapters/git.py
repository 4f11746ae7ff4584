"""What git says of a folder: where it comes from, and MLflow's system tags."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from toolchain.attest import Source, moment
from toolchain.errors import ConfigError, without_credentials

_SCP = re.compile(r"(?:[^@/:]+@)?([A-Za-z0-9.-]{2,}):(?!/)(.+)")  # user@host:path, as ssh has it


def source(folder: Path, files: Iterable[str], epoch: str) -> Source:
    """Where the folder comes from. `epoch` is SOURCE_DATE_EPOCH, which decides if it is set
    (https://reproducible-builds.org/specs/source-date-epoch/). Raises ConfigError if it is no
    time.

    `files` are those that count: one of them that is changed, new or ignored by git is not in
    any commit, and then there is no revision.
    """
    given = _given(epoch)
    head, _, prefix = _ask(folder, "rev-parse", "HEAD", "--show-prefix").partition("\n")
    if not head:
        return Source(**given)
    repository = _public(_ask(folder, "remote", "get-url", "origin"))
    if _is_dirty(folder, prefix, frozenset(files)):
        return Source(repository=repository, **given)
    revision, _, seconds = _ask(folder, "log", "-1", "--format=%H %ct", "--", ".").partition(" ")
    if revision and not given:
        with contextlib.suppress(ValueError):  # a commit's time may be any number
            given = {"created": moment(int(seconds))}
    return Source(repository=repository, revision=revision, **given)


def _given(epoch: str) -> dict[str, str]:
    if not epoch:
        return {}
    try:
        if not re.fullmatch(r"[0-9]{1,12}", epoch):
            raise ValueError(epoch)
        return {"created": moment(int(epoch))}
    except ValueError:
        raise ConfigError(f"not a time: {epoch[:40]!r}", where="SOURCE_DATE_EPOCH",
                          fix="give whole seconds since 1970, or unset it") from None


def _is_dirty(folder: Path, prefix: str, files: frozenset[str]) -> bool:
    """Whether the folder differs from the commit, in what counts. `prefix` is its path."""
    said = _answer(folder, "status", "--porcelain", "-z", "--no-renames", "--ignored", "--", ".")
    if said is None:
        return True
    for entry in filter(None, said.split("\0")):
        state, path = entry[:2], entry[3:].removeprefix(prefix)
        if state != "!!":
            return True
        if any(file == path or (path.endswith("/") and file.startswith(path)) for file in files):
            return True
    return False


def _public(url: str) -> str:
    """A remote's address as others may use it; empty for a path of this machine."""
    scp = None if "://" in url else _SCP.fullmatch(url)
    try:
        parts = urlsplit(f"ssh://{scp[1]}/{scp[2]}" if scp else url)
    except ValueError:
        return ""
    if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
    return (_answer(folder, *arguments) or "").strip()


def _answer(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        # Looking must not write: an index refreshed here would be locked for others.
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments],
                              capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

"""The files that locks are: beside a project or at the workspace's root, and committed."""

from __future__ import annotations

import re
from pathlib import Path

from toolchain import atomic
from toolchain.digest import Digest
from toolchain.errors import ResolveError

_FIX = "take it from version control, or delete it"
REQUIREMENTS, CONDA = "requirements", "conda"
_NAME = re.compile(rf"({REQUIREMENTS}|{CONDA})(\.[a-z0-9]+-[a-z0-9]+)?\.lock\Z")


def name(kind: str, platform: str, *, is_first: bool) -> str:
    """One file for each platform of a project, the first's without its name."""
    return f"{kind}.lock" if is_first else f"{kind}.{platform.replace('/', '-')}.lock"


def is_lock(name: str) -> bool:
    """Whether a file of a project's folder is a lock that this tool writes."""
    return _NAME.match(name) is not None


def read(path: Path, where: str, *, fix: str = _FIX) -> str | None:
    """A file that people commit; None if there is none. Raises ResolveError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error, where, fix) from None


def replace(path: Path, text: str) -> None:
    """Write a file that people commit, whole or not at all. Raises ResolveError."""
    try:
        atomic.write(path, text.encode(), sync=True)
    except OSError as error:
        raise ResolveError(f"cannot be written: {error.strerror}", where=str(path),
                           fix="make the folder writable, or resolve elsewhere and commit "
                               "the file") from None


def digest(path: Path, where: str) -> str | None:
    """The sha256 of a file's bytes, in hexadecimal; None if there is none. Raises ResolveError."""
    try:
        return Digest.of(path.read_bytes()).hex
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(error, where, _FIX) from None


def _unreadable(error: Exception, where: str, fix: str) -> ResolveError:
    return ResolveError(f"cannot be read: {error}", where=where, fix=fix)

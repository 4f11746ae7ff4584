"""Every mistake that is not ours: what is wrong, where, and how to fix it.

A ToolchainError reaches the user without a traceback and with a non-zero exit. Anything else
that escapes is a bug of this package and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class ToolchainError(Exception):
    """`what` in one line; `where` is a file:line, setting or request; `fix` is a remedy.

    Neither part may hold a secret: callers strip credentials from URLs first.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # doit hands failures between processes with pickle, which by default would call
        # __init__ with args alone and lose where and fix.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


class Cancelled(Exception):
    """What was waited for is not wanted any more. Nobody's mistake: never shown to the user."""


def _rebuild(cls: type[ToolchainError], what: str, where: str, fix: str) -> ToolchainError:
    return cls(what, where=where, fix=fix)


class ConfigError(ToolchainError):
    """A setting is wrong."""


class SpecError(ToolchainError):
    """A project's own files are wrong."""


class ResolveError(ToolchainError):
    """Dependencies cannot be pinned, fetched or verified."""


class UnmetError(ResolveError):
    """What is asked for cannot be had together, or not at all."""


class StoreError(ToolchainError):
    """The cache cannot be read or written, or holds something it should not."""


class RegistryError(ToolchainError):
    """A registry or image layout refused or failed."""


class EngineError(ToolchainError):
    """The place where a run executes refused or failed, or the entry point did."""


class SweepError(ToolchainError):
    """A sweep's record of trials refused or failed, or too many of its trials did."""


class TrackingError(ToolchainError):
    """The MLflow tracking server or registry refused or failed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known word nearest to `word`, or an empty string."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def without_credentials(text: str) -> str:
    """`text` with the user information of every URL in it taken out."""
    import re

    # What reads a database's address takes everything before the last @ for the login, also a
    # password with an unquoted slash.
    text = re.sub(r"\b((?:postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?://)\S*@", r"\1",
                  text)
    return re.sub(r"(\w[\w+.-]*://)[^/?#\s]*@", r"\1", text)

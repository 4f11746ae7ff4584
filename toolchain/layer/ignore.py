""".dockerignore -> which files stay out of the image, by Docker's own rules.

Source: moby/patternmatcher and https://docs.docker.com/build/concepts/context/#dockerignore-files.
docker-py's matcher is another one: it ignores case, knows no `[^a]` and no backslash.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from toolchain.values import dataclass

# `**` with the slash after it, a class such as `[^a-z]`, an escaped character, any other.
_TOKEN = re.compile(r"\*\*/?|\[(?:\\.|[^\]\\])+\]|\\.|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Rule:
    keeps: bool
    regex: re.Pattern[str]


class BadPattern(ValueError):
    """A rule that says nothing. `rule` is its place among those that were given."""

    def __init__(self, rule: int, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


def patterns(text: str) -> list[str]:
    """The patterns of a file, cleaned; comments and empty lines left out."""
    return [pattern for _, pattern in lines(text)]


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The same, each with the number of its line."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        keeps = pattern.startswith("!")
        pattern = pattern[keeps:].strip()
        if pattern:
            clean = posixpath.normpath(pattern).lstrip("/")
            yield number, "!" * keeps + (clean or ".")


def excluded(rules: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Those of `paths` (files, relative, with `/`) that stay out. Raises BadPattern."""
    compiled = [_rule(number, rule) for number, rule in enumerate(rules)]
    return [path for path in paths if _is_out(path, compiled)]


def _is_out(path: str, rules: list[_Rule]) -> bool:
    """The last rule that matches the file or a folder above it decides."""
    parts = path.split("/")
    lineage = ["/".join(parts[:size]) for size in range(len(parts), 0, -1)]
    out = False
    for rule in rules:
        if rule.keeps == out and any(rule.regex.fullmatch(name) for name in lineage):
            out = not rule.keeps
    return out


def _rule(number: int, rule: str) -> _Rule:
    try:
        regex = re.compile("".join(_pieces(rule.removeprefix("!"))), re.DOTALL)
    except re.error as error:
        raise BadPattern(number, error.msg) from None
    return _Rule(rule.startswith("!"), regex)


def _pieces(pattern: str) -> Iterator[str]:
    for match in _TOKEN.finditer(pattern):
        token = match[0]
        if token.startswith("**"):
            yield ".*" if match.end() == len(pattern) else "(?:.*/)?"
        elif token == "*":
            yield "[^/]*"
        elif token == "?":
            yield "[^/]"
        else:
            yield token if len(token) > 2 else re.escape(token[-1])

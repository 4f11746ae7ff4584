"""Options of a requirements file -> where and what its author lets an installer look for.

Source: pip's requirements file format, "Global options".
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import field

from toolchain.errors import SpecError, nearest, without_credentials
from toolchain.spec import Reader
from toolchain.spec.named import read_named
from toolchain.spec.source import check_secret
from toolchain.values import dataclass

_SHORT = {"-i": "--index-url", "-f": "--find-links", "--pypi-url": "--index-url"}
_WITH_VALUE = ("--index-url", "--extra-index-url", "--find-links", "--no-binary", "--only-binary",
               "--trusted-host", "--use-feature")
_WITHOUT = ("--pre", "--no-index", "--require-hashes", "--prefer-binary")
# Every pin has a hash here, and a wheel is taken wherever one fits.
_ALREADY_SO = ("--require-hashes", "--prefer-binary")
_KNOWN = (*_WITH_VALUE, *_WITHOUT, *_SHORT)
_OF_ONE = ("--config-settings", "--config-setting", "--global-option", "--install-option",
           "--build-option")


@dataclass(slots=True)
class Options:
    """What the options of all files come to. `index`: the last --index-url, as in pip.

    URLs may hold `${VARIABLE}`; a path is relative to the project's folder, beginning with `.`.
    `no_binary` and `only_binary`: names, or `:all:`.
    """

    index: str = ""
    extra_indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    no_index: bool = False
    pre: bool = False
    no_binary: set[str] = field(default_factory=set)
    only_binary: set[str] = field(default_factory=set)

    def to_lines(self) -> tuple[str, ...]:
        """One option a line, the same for the same meaning; () where none is given."""
        lines = [f"--index-url {self.index}"] if self.index else []
        lines += [f"--extra-index-url {url}" for url in dict.fromkeys(self.extra_indexes)]
        lines += [f"--find-links {place}" for place in dict.fromkeys(self.find_links)]
        lines += ["--no-index"] * self.no_index + ["--pre"] * self.pre
        lines += [f"--no-binary {name}" for name in sorted(self.no_binary)]
        lines += [f"--only-binary {name}" for name in sorted(self.only_binary)]
        return tuple(lines)

    @classmethod
    def from_lines(cls, lines: tuple[str, ...]) -> Options:
        options = cls()
        for line in lines:
            name, _, value = line.partition(" ")
            options._take(name, value)
        return options

    def read(self, line: str, path: str, where: str, reader: Reader,
             warn: Callable[[str], None]) -> str:
        """Take a line of options; return it in canonical form. Raises SpecError."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise SpecError(f"a line of options is not understood: {error}", where=where,
                            fix="close the quotes") from None
        lines = []
        while words:
            name, value = self._option(words, where)
            if name == "--trusted-host":
                warn("--trusted-host is left out: a host is trusted in pip's or uv's own "
                     "configuration")
                continue
            if name == "--use-feature" or name in _ALREADY_SO:
                continue
            if name.endswith("-url") or "://" in value:
                check_secret(value, where)
                _refuse_blanks(value, where)
            elif name == "--find-links":
                value = _place(value, path, where, reader)
            self._take(name, value)
            lines.append(f"{name} {value}".strip())
        return " ".join(lines)

    def _option(self, words: list[str], where: str) -> tuple[str, str]:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2 and word[:2] in _SHORT:
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
        name = _SHORT.get(name, name)
        if name in _OF_ONE or name not in _KNOWN:
            # What follows an unknown option may hold a password.
            shown = re.match(r"--[A-Za-z-]+|-\w?", name)
            raise SpecError(
                f"option is not supported: {shown[0] if shown else name[:1]}"
                f"{nearest(name, _KNOWN) if shown else ''}", where=where,
                fix=f"known: {', '.join(_WITH_VALUE[:-1])}, {', '.join(_WITHOUT)}")
        if name in _WITHOUT:
            return name, ""
        if not equals:
            value = words.pop(0) if words else ""
        if not value.strip():
            raise SpecError(f"option has no value: {name}", where=where,
                            fix=f"write {name} VALUE, or take it away")
        return name, value.strip()

    def _take(self, name: str, value: str) -> None:
        if name in ("--index-url", "--extra-index-url"):
            if not self.no_index and name == "--index-url":
                self.index = value
            elif not self.no_index:
                self.extra_indexes.append(value)
        elif name == "--find-links":
            self.find_links.append(value)
        elif name == "--no-index":
            self.no_index, self.index, self.extra_indexes = True, "", []
        elif name == "--pre":
            self.pre = True
        else:
            mine, other = ((self.no_binary, self.only_binary) if name == "--no-binary"
                           else (self.only_binary, self.no_binary))
            _formats(value, mine, other)


def _formats(value: str, mine: set[str], other: set[str]) -> None:
    """pip's format control: names add up, `:all:` and `:none:` begin anew, the last word wins."""
    from packaging.utils import canonicalize_name

    for word in filter(None, (part.strip() for part in value.split(","))):
        if word == ":none:":
            mine.clear()
        elif word == ":all:":
            mine.clear()
            other.clear()
            mine.add(word)
        elif ":all:" not in mine:
            name = canonicalize_name(word)
            mine.add(name)
            other.discard(name)


def _refuse_blanks(value: str, where: str) -> None:
    if any(letter.isspace() or ord(letter) < 32 for letter in value):
        raise SpecError("a URL holds a blank", where=where, fix="write it as %20")


def _place(value: str, path: str, where: str, reader: Reader) -> str:
    if value.startswith(("/", "~", "file:")):
        raise SpecError(
            f"an absolute path is true on one machine only: {without_credentials(value)}",
            where=where,
            fix="write it relative to this file, or set find-links in pip's own "
                            "configuration")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), value))
    read_named(reader, f"{place}/.", where)  # raises where it leaves the workspace
    return place if place.startswith("..") or place == "." else f"./{place}"

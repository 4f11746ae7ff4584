"""requirements.txt text -> requirements: pip's file format, normalised.

Source of the format: https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import field

from toolchain.errors import SpecError, without_credentials
from toolchain.spec import Reader, Warn
from toolchain.spec import source as sources
from toolchain.spec.named import read_named
from toolchain.spec.options import Options
from toolchain.spec.source import Source
from toolchain.values import dataclass

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[= ](\S+)")
_OPTION_AFTER = re.compile(r"\s(--[A-Za-z-]+)")
_BEHIND = re.compile(r"\s+(-f|-i|--find-links|--index-url|--extra-index-url)[= ]\s*(\S+)")
_DEEPEST = 16


def _quiet(_: str) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Requirements:
    """What a set of requirement lines asks for; filled while files are read.

    places: name -> where it is asked for, as in `requirements.txt:3`; for messages alone.
    Paths in them are relative to the project's folder, where pip is started by MLflow.
    """

    warn: Warn = field(default=_quiet, compare=False, repr=False)
    requirements: set[str] = field(default_factory=set)
    constraints: set[str] = field(default_factory=set)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    sources: set[Source] = field(default_factory=set)
    options: Options = field(default_factory=Options)
    files: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict, compare=False)
    _said: set[str] = field(default_factory=set, compare=False)
    _read: set[tuple[str, bool]] = field(default_factory=set)  # as requirements or constraints

    def add_file(self, path: str, reader: Reader, *, constrain: bool = False,
                 named_at: str = "", depth: int = 0) -> None:
        """Read a requirements file and what it includes."""
        if (path, constrain) in self._read:
            return
        self._read.add((path, constrain))
        if depth > _DEEPEST:
            raise SpecError("requirements files include each other too deeply", where=named_at,
                            fix=f"nest them at most {_DEEPEST} deep")
        text = read_named(reader, path, named_at or path)
        if text is None:
            raise SpecError(
                f"no such requirements file: {path}", where=named_at or path,
                fix="make the file, or take the line out",
            )
        lines = [
            self.add_line(line, path, number, reader, constrain=constrain, depth=depth)
            for number, line in logical_lines(text)
        ]
        self.files[path] = "".join(f"{line}\n" for line in sorted(set(lines)))

    def add_line(self, line: str, path: str, number: int, reader: Reader, *,
                 constrain: bool = False, depth: int = 0) -> str:
        """Take one logical line; return it in canonical form."""
        where = f"{path}:{number}"
        line = _COMMENT.sub("", line).strip()
        if not line:
            return ""
        line, others = _options_behind(line)
        for option in others:
            word = option.split()[0]
            self._say(f"behind {word}", f"{where}: pip takes no notice of {word} behind a "
                      "requirement; read as a line of its own")
            self.add_line(option, path, number, reader)
        include = re.match(r"(-r|--requirement|-c|--constraint)[= ]?\s*(.+)\Z", line)
        if include:
            option = "-c" if include[1] in ("-c", "--constraint") else "-r"
            name = _unquoted(include[2])
            if name.startswith("file:") and not name.startswith("file:/"):
                name = name.removeprefix("file:")  # older pips read it so
            if "://" in name or name.startswith("file:"):
                raise SpecError(
                    f"a requirements file from a URL is not supported: "
                    f"{without_credentials(include[2].strip())}", where=where,
                    fix="keep the file in the workspace")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            self.add_file(target, reader, constrain=constrain or option == "-c",
                          named_at=where, depth=depth + 1)
            return f"{option} {name}"
        editable = re.match(r"(-e|--editable)(?:[= ]\s*|(?=\.))(.+)\Z", line)
        if editable:
            self._say("-e", f"{where}: an editable requirement is installed as it is now, as a "
                      "wheel; a change to it makes a new one")
            return self._add_source(*_hashes(_unquoted(editable[2]), where), where, reader,
                                    constrain)
        if line.startswith("-"):
            return self.options.read(line, path, where, reader,
                                     lambda text: self._say(text, f"{where}: {text}"))
        plain, found = _hashes(line, where)
        if sources.is_one(plain):
            return self._add_source(plain, found, where, reader, constrain)
        requirement, hashes = parse_requirement(line, where)
        self.require(requirement, where, constrain=constrain)
        if hashes:
            from packaging.requirements import Requirement
            from packaging.utils import canonicalize_name

            name = canonicalize_name(Requirement(requirement).name)
            self.hashes.setdefault(name, set()).update(hashes)
        return requirement + "".join(f" --hash=sha256:{value}" for value in sorted(hashes))

    def require(self, requirement: str, where: str, *, constrain: bool = False) -> None:
        """Take one normalised requirement."""
        (self.constraints if constrain else self.requirements).add(requirement)
        name = re.split(r"[^a-z0-9-]", requirement, maxsplit=1)[0]
        self.places.setdefault(name, []).append(where)

    def _add_source(self, line: str, hashes: tuple[str, ...], where: str, reader: Reader,
                    constrain: bool) -> str:
        source = sources.read(line, hashes, where)
        if constrain:
            raise SpecError(f"a constraint names a path or URL: {source}", where=where,
                            fix="write it where it is required, without -c")
        if source.kind == sources.FOLDER:
            folder = posixpath.join(source.location, source.subdirectory)
            signs = (posixpath.normpath(posixpath.join(folder, name))
                     for name in ("pyproject.toml", "setup.py", "setup.cfg"))
            if all(read_named(reader, sign, where) is None for sign in signs):
                raise SpecError(
                    f"no Python package there: {source.location}", where=where,
                    fix="name a folder that has a pyproject.toml or a setup.py; paths are relative "
                        "to the project's folder")
        elif source.kind == sources.FILE:
            # May it be looked at?
            read_named(reader, f"{posixpath.dirname(source.location)}/.", where)
        self.sources.add(source)
        return str(source) + "".join(f" --hash=sha256:{value}" for value in source.hashes)

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.warn(text)


def _unquoted(text: str) -> str:
    """The value of an option, as pip's shlex has it where quotes are around the whole."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].strip() if quoted else text


def _options_behind(line: str) -> tuple[str, list[str]]:
    """A requirement, and the options of an index that somebody wrote behind it."""
    if line.startswith("-"):
        return line, []
    return _BEHIND.sub("", line), [f"{found[1]} {found[2]}" for found in _BEHIND.finditer(line)]


def logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with continuations joined and comments gone, each with its first line's number."""
    result: list[tuple[int, str]] = []
    start, joined = 0, ""
    for number, raw in enumerate(text.splitlines(), start=1):
        start = start if joined else number
        line = _COMMENT.sub("", raw)
        if raw.endswith("\\") and line == raw:
            joined += line[:-1] + " "
            continue
        joined = (joined + line).strip()
        if joined:
            result.append((start, joined))
        joined = ""
    if joined.strip():
        result.append((start, joined.strip()))
    return result


def parse_requirement(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    """One PEP 508 requirement of a release, normalised, and the sha256 digests given with it.

    Raises SpecError for what is not one.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import InvalidName, canonicalize_name

    line, hashes = _hashes(line, where)
    option = _OPTION_AFTER.search(line)
    if option:  # what follows may hold a password
        raise SpecError(f"an option for one requirement is not supported: {option[1]}", where=where,
                        fix="take it away, or have a wheel of the package")
    try:
        requirement = Requirement(line)
        # `a_` passes as a requirement, but is no name.
        requirement.name = canonicalize_name(requirement.name, validate=True)
        requirement.extras = {canonicalize_name(extra, validate=True)
                              for extra in requirement.extras}
    except (InvalidRequirement, InvalidName, SyntaxError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise SpecError("not a requirement: " + without_credentials(f"{line} ({reason})"),
                        where=where, fix="write it as in `scipy==1.11.4` (PEP 508)") from None
    return str(requirement), hashes


def _hashes(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The line without its `--hash` options, and their values."""
    found: list[str] = []
    for value in _HASH.findall(line):
        algorithm, _, hexadecimal = value.partition(":")
        if algorithm != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", hexadecimal):
            raise SpecError(f"not a sha256 hash: {without_credentials(value)}", where=where,
                            fix="give --hash=sha256:<64 hexadecimal digits>")
        found.append(hexadecimal.lower())
    return _HASH.sub("", line).strip(), tuple(found)

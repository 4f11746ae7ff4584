"""requirements.txt text -> requirements: pip's file format, normalised.

Source of the format: https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field

from toolchain.errors import SpecError, without_credentials
from toolchain.spec import Reader

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[= ](\S+)")
_OPTION = re.compile(r"--[A-Za-z-]+|-\w?")
# A file that pip would install: for a wheel or an sdist `beta-1.0.tar.gz` is also a valid name.
_ARCHIVE = re.compile(r"\.whl\Z|-\d[^/]*\.(?:tar\.\w+|tgz|zip)\Z", re.IGNORECASE)
_DEEPEST = 16


@dataclass(slots=True)
class Requirements:
    """What a set of requirement lines asks for; filled while files are read."""

    requirements: set[str] = field(default_factory=set)
    constraints: set[str] = field(default_factory=set)
    hashes: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
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
        text = reader.read(path)
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
        include = re.match(r"(-r|--requirement|-c|--constraint)[= ]?\s*(.+)\Z", line)
        if include:
            option = "-c" if include[1] in ("-c", "--constraint") else "-r"
            if "://" in include[2]:
                raise SpecError(
                    f"a requirements file from a URL is not supported: "
                    f"{without_credentials(include[2].strip())}", where=where,
                    fix="keep the file in the workspace")
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), include[2].strip())
            )
            self.add_file(target, reader, constrain=constrain or option == "-c",
                          named_at=where, depth=depth + 1)
            return f"{option} {include[2].strip()}"
        if re.match(r"(-e|--editable)\b", line):
            raise _unsupported_source(line, where)
        if line.startswith("-"):
            raise SpecError(
                f"option is not supported yet: {_option(line)}", where=where,
                fix="set package indexes up in pip's or uv's own configuration; list packages here",
            )
        requirement, hashes = parse_requirement(line, where)
        (self.constraints if constrain else self.requirements).add(requirement)
        if hashes:
            from packaging.requirements import Requirement
            from packaging.utils import canonicalize_name

            name = canonicalize_name(Requirement(requirement).name)
            self.hashes.setdefault(name, set()).update(hashes)
        return requirement + "".join(f" --hash=sha256:{value}" for value in sorted(hashes))


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
    """One PEP 508 requirement, normalised, and the sha256 digests given with it.

    Raises SpecError for what is not one, and for paths and version-control URLs.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    hashes: list[str] = []
    for value in _HASH.findall(line):
        algorithm, _, hexadecimal = value.partition(":")
        if algorithm != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", hexadecimal):
            raise SpecError(f"not a sha256 hash: {value}", where=where,
                            fix="give --hash=sha256:<64 hexadecimal digits>")
        hashes.append(hexadecimal.lower())
    line = _HASH.sub("", line).strip()
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        if re.match(r"(\.|/|\w+://|git\+|hg\+|svn\+|bzr\+)", line) or _ARCHIVE.search(line):
            raise _unsupported_source(line, where) from None
        reason = str(error).split("\n")[0]
        raise SpecError("not a requirement: " + without_credentials(f"{line} ({reason})"),
                        where=where, fix="write it as in `scipy==1.11.4` (PEP 508)") from None
    if requirement.url or _ARCHIVE.search(requirement.name):
        raise _unsupported_source(requirement.name, where)
    requirement.name = canonicalize_name(requirement.name)
    requirement.extras = {canonicalize_name(extra) for extra in requirement.extras}
    return str(requirement), tuple(hashes)


def _option(line: str) -> str:
    """An option's name alone: what follows may hold a password."""
    match = _OPTION.match(line)
    return match[0] if match else "-"


def _unsupported_source(line: str, where: str) -> SpecError:
    return SpecError(
        f"a requirement from a path or URL is not supported yet: {without_credentials(line)}",
        where=where, fix="publish it to a package index, or put the wheel where find-links looks",
    )

"""Packages -> what a few of them need: names, versions, and the closure of their dependencies.

Source: https://www.debian.org/doc/debian-policy/ch-relationships.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock.base import DebianPackage
from toolchain.values import dataclass

_PRIORITIES = ("required", "important", "standard", "optional", "extra")


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A package paragraph of Packages, parsed when it is wanted."""

    paragraph: str
    archive: str

    def field(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*)$", self.paragraph, re.MULTILINE)
        return match[1] if match else ""


class DebIndex:
    """Every package of a suite, in all its versions."""

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._candidates: dict[str, list[_Candidate]] = {}

    @property
    def names(self) -> Collection[str]:
        return self._candidates.keys()

    def add(self, packages: str, archive: str) -> None:
        """Add what a Packages file lists; `archive` is the part of the mirror that has it."""
        for paragraph in packages.split("\n\n"):
            if paragraph.startswith("Package: "):
                name = paragraph[9 : paragraph.find("\n")]
                self._candidates.setdefault(name, []).append(
                    _Candidate(paragraph=paragraph, archive=archive))

    def closure(self, seeds: Iterable[str], installed: Mapping[str, str]
                ) -> tuple[DebianPackage, ...]:
        """The seeds and all they depend on, each in its newest version, less what is installed
        (name -> version).

        Raises ResolveError where something is missing, or needs another version than the one
        that is installed.
        """
        providers = self._providers()
        chosen: dict[str, _Candidate] = {}
        wanted = list(seeds)
        while wanted:
            name = wanted.pop()
            if name in chosen or name in installed:
                continue
            if name not in self._candidates:
                raise ResolveError(f"{self._suite} has no package {name}",
                                   where="the Debian mirror",
                                   fix="set image.mirror to a complete mirror")
            chosen[name] = _newest(self._candidates[name])
            for kind in ("Pre-Depends", "Depends"):
                for clause in filter(None, chosen[name].field(kind).split(",")):
                    other = self._alternative(clause, providers, {*chosen, *installed}, name)
                    _check_installed(clause, other, installed, name)
                    wanted.append(other)
        return _pinned(chosen)

    def _providers(self) -> dict[str, list[str]]:
        """Virtual packages and the packages that provide them."""
        found: dict[str, list[str]] = {}
        for name, candidates in self._candidates.items():
            for candidate in candidates:
                if "\nProvides: " in candidate.paragraph:
                    for provided in candidate.field("Provides").split(","):
                        found.setdefault(provided.split()[0], []).append(name)
        return found

    def _alternative(self, clause: str, providers: Mapping[str, list[str]],
                     chosen: Container[str], needed_by: str) -> str:
        """The package that meets `a (>= 1) | b`: one that is chosen already, else the first."""
        names = [re.split(r"[\s(:\[]", part.strip())[0] for part in clause.split("|")]
        for name in names:
            if name in chosen or any(other in chosen for other in providers.get(name, ())):
                return name if name in chosen else next(
                    other for other in providers[name] if other in chosen)
        for name in names:
            if name in self._candidates:
                return name
            if providers.get(name):
                return min(providers[name], key=self._priority)
        raise ResolveError(
            f"{self._suite} has nothing that meets {clause.strip()!r} of {needed_by}",
            where="the Debian mirror", fix="set image.mirror to a complete mirror")

    def _priority(self, name: str) -> tuple[int, str]:
        priority = self._candidates[name][0].field("Priority") or "extra"
        return _PRIORITIES.index(priority), name


def _pinned(chosen: dict[str, _Candidate]) -> tuple[DebianPackage, ...]:
    return tuple(
        DebianPackage(
            name=name, version=found.field("Version"), architecture=found.field("Architecture"),
            archive=found.archive, path=found.field("Filename"), size=int(found.field("Size")),
            sha256=Digest(found.field("SHA256")),
        )
        for name, found in sorted(chosen.items())
    )


def _check_installed(clause: str, name: str, installed: Mapping[str, str], needed_by: str) -> None:
    """Raise ResolveError if the installed version is not one that the clause allows."""
    from debian.debian_support import Version

    if name not in installed:
        return
    for part in clause.split("|"):
        match = re.match(r"([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*\((<<|<=|=|>=|>>)\s*([^)]+)\)",
                         part.strip())
        if match is None or match[1] != name:
            continue
        has, wants = Version(installed[name]), Version(match[3].strip())
        allowed = {"<<": has < wants, "<=": has <= wants, "=": has == wants,
                   ">=": has >= wants, ">>": has > wants}
        if not allowed[match[2]]:
            raise ResolveError(
                f"{needed_by} needs {part.strip()}, and the base has {name} {installed[name]}",
                where="apt", fix="pin the base anew: doit resolve upgrade=1")


def _newest(candidates: list[_Candidate]) -> _Candidate:
    from debian.debian_support import Version

    return max(candidates, key=lambda candidate: Version(candidate.field("Version")))

"""What packages offer to update-alternatives -> the links that it would make, and its records.

Rule 1: the choice is update-alternatives' own: the highest priority; among equals, who was there
first. Packages come in the order of their names, those of a base before those on top of it.
Rule 2: a link is made where its file is in the image, and never in place of a file.
Source: update-alternatives(1); the records are those of dpkg's admindir.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import field

from toolchain.layer.archive import Entry
from toolchain.layer.deb import Deb, is_dropped, merged
from toolchain.layer.postinst import Offer, read
from toolchain.values import dataclass

RECORDS = "var/lib/dpkg/alternatives/"
_LINKS = "etc/alternatives/"
_MOST_LINKS = 20  # that are followed for one path


@dataclass(slots=True)
class Choice:
    """What one path offers: its priority, and slave's name -> path."""

    priority: int
    slaves: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Group:
    """One name. `slaves`: name -> link. `choices`: path -> choice. `best`: the path that is taken.

    is_chosen: whether somebody chose by hand, which no priority overrules.
    """

    link: str
    is_chosen: bool = False
    slaves: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    best: str = ""

    def add(self, offer: Offer) -> None:
        self.link = offer.link
        self.slaves.update({name: link for name, (link, _) in offer.slaves.items()})
        self.choices = {path: self.choices[path] for path in sorted(self.choices)}
        self.choices[offer.path] = Choice(
            offer.priority, {name: path for name, (_, path) in offer.slaves.items()})
        used = {name for choice in self.choices.values() for name in choice.slaves}
        self.slaves = {name: link for name, link in self.slaves.items() if name in used}
        self.choose()

    def choose(self) -> None:
        """Take the highest priority. What was taken before stays, unless that is higher."""
        best = self.choices.get(self.best)
        for path, choice in self.choices.items():
            if best is None or choice.priority > best.priority:
                self.best, best = path, choice

    def record(self) -> str:
        """As dpkg keeps it."""
        slaves = sorted(self.slaves)
        lines = ["manual" if self.is_chosen else "auto", self.link]
        for name in slaves:
            lines += [name, self.slaves[name]]
        lines.append("")
        for path, choice in sorted(self.choices.items()):
            lines += [path, str(choice.priority), *(choice.slaves.get(name, "") for name in slaves)]
        return "\n".join([*lines, "", ""])


def parse(record: str) -> Group:
    """Read what dpkg keeps. Raises ValueError."""
    lines = iter(record.split("\n"))
    try:
        status, group = next(lines), Group(link=next(lines))
        group.is_chosen = status != "auto"
        while name := next(lines):
            group.slaves[name] = next(lines)
        while path := next(lines):
            choice = group.choices[path] = Choice(int(next(lines)))
            choice.slaves = {name: file for name in group.slaves if (file := next(lines))}
    except StopIteration:
        raise ValueError("it ends too early") from None
    if status not in ("auto", "manual") or not group.choices:
        raise ValueError("it is no record of alternatives")
    group.choose()
    return group


class Files:
    """The paths of an image, as far as they are known.

    is_all: whether these are all, so that what is not among them is not there.
    """

    def __init__(self, entries: Iterable[Entry], *, is_all: bool) -> None:
        self._links: dict[str, str] = {}
        self._there: set[str] = set()
        self._is_all = is_all
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        if entry.kind == tarfile.SYMTYPE:
            self._links[entry.path] = entry.link
        path = entry.path
        while path and path not in self._there:
            self._there.add(path)
            path = path.rpartition("/")[0]

    def exists(self, path: str) -> bool | None:
        """Whether an absolute path is there; None where that is not known."""
        if is_dropped(inside(path)) or path.startswith(("/proc/", "/sys/", "/dev/")):
            return None
        if path.startswith("/run/"):
            return False
        there = self.followed(inside(path)) in self._there
        return True if there else (False if self._is_all else None)

    def is_file(self, path: str) -> bool:
        """Whether something else than a link is there."""
        return path in self._there and path not in self._links

    def followed(self, path: str) -> str:
        """A path of entries with the links in it followed; itself where they go in circles."""
        left, done = path.split("/"), ""
        for _ in range(_MOST_LINKS):
            while left:
                step = posixpath.join(done, left.pop(0))
                if step in self._links:
                    target = posixpath.normpath(
                        posixpath.join("/", posixpath.dirname(step), self._links[step]))
                    left, done = [*inside(target).split("/"), *left], ""
                    break
                done = step
            else:
                return done
        return path


def inside(path: str) -> str:
    """An absolute path as entries have it: below /usr what Debian merged into it."""
    return merged(posixpath.normpath(path).lstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """notes: for people, what is missing; undone: what else the scripts would have done."""

    entries: tuple[Entry, ...]
    groups: dict[str, Group]
    notes: tuple[str, ...]
    undone: tuple[str, ...]


def make(debs: Mapping[str, Deb], architecture: str, files: Files,
         before: Mapping[str, Group]) -> Made:
    """The links for packages, name -> package, on top of the groups that are there `before`."""
    offers: list[tuple[str, Offer]] = []
    notes: list[str] = []
    undone: list[str] = []
    for package in sorted(debs):
        found = read(debs[package].postinst, package, architecture, files.exists)
        offers += [(package, offer) for offer in found.offers]
        notes += found.notes
        undone += found.undone
    groups, links = dict(before), _links_of(before.values())
    links |= {inside(offer.link) for _, offer in offers}
    links |= {inside(link) for _, offer in offers for link, _ in offer.slaves.values()}
    changed: dict[str, set[str]] = {}
    for package, offer in offers:
        if is_dropped(inside(offer.path)):
            continue
        if files.exists(offer.path) is False and inside(offer.path) not in links:
            notes.append(f"{package}: its script links {offer.link} to {offer.path}, which is not "
                         "there; that link is missing")
            continue
        if offer.name not in changed:
            changed[offer.name] = set()
            groups[offer.name] = _copy(groups[offer.name]) if offer.name in groups else Group(
                link=offer.link)
        groups[offer.name].add(offer)
        changed[offer.name].add(offer.path)
    entries: list[Entry] = []
    for name in sorted(changed):
        group = groups[name]
        entries.append(Entry(path=f"{RECORDS}{name}", mode=0o644, data=group.record().encode()))
        if group.best in changed[name] and not group.is_chosen:
            entries += _links(name, group, files, links)
    return Made(entries=tuple(entries), groups=groups, notes=tuple(notes), undone=tuple(undone))


def _links(name: str, group: Group, files: Files, links: set[str]) -> list[Entry]:
    best = group.choices[group.best]
    wanted = [(group.link, name, group.best)]
    wanted += [(group.slaves[slave], slave, path) for slave, path in sorted(best.slaves.items())
               if path and not is_dropped(inside(path))
               and (files.exists(path) is not False or inside(path) in links)]
    found = []
    for link, label, path in wanted:
        found.append(_symlink(f"{_LINKS}{label}", path))
        if not files.is_file(inside(link)):
            found.append(_symlink(inside(link), f"/{_LINKS}{label}"))
    return found


def _links_of(groups: Iterable[Group]) -> set[str]:
    return {inside(link) for group in groups for link in (group.link, *group.slaves.values())}


def _copy(group: Group) -> Group:
    return Group(link=group.link, is_chosen=group.is_chosen, slaves=dict(group.slaves),
                 choices=dict(group.choices), best=group.best)


def _symlink(path: str, target: str) -> Entry:
    return Entry(path=path, mode=0o777, kind=tarfile.SYMTYPE, link=target)

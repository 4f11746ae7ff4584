"""The words of one call of doit: what is asked for, and its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from toolchain.config import reference
from toolchain.errors import ConfigError, nearest

# Commands of doit that look at tasks without asking whether they are up to date.
_LOOKING = frozenset({"list", "info", "clean", "forget", "help", "ignore", "tabcompletion",
                      "dumpdb", "reset-dep"})
_RUNNING = frozenset({"run", "auto", "strace"})
# Options of doit whose value is a word of its own, and no number.
_VALUED = frozenset({"-f", "--file", "-o", "--output-file", "-r", "--reporter", "--db-file",
                     "--backend", "-P", "--parallel-type"})
# Of several words that give a setting the last counts; these are lists, and go on.
_JOINED = {"project": ",", "params": " "}


class Asked(NamedTuple):
    """One task that is asked for: `what`, or `what:project`, which may be a pattern of doit's."""

    what: str
    project: str

    @property
    def is_pattern(self) -> bool:
        return "*" in self.project


class Words:
    """What one call asks for.

    command: doit's own, "run" if none is said; tasks: in the order they are named.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._all = tuple(words)
        plain = [word for before, word in zip(("", *self._all), self._all, strict=False)
                 if "=" not in word and not word.startswith("-") and not word.isdecimal()
                 and before not in _VALUED]
        said = next((word for word in plain if word in _LOOKING or word in _RUNNING), "")
        self.command = said or "run"
        named = (word.partition(":") for word in plain[plain.index(said) + 1 if said else 0:])
        self.tasks = tuple(Asked(what, project) for what, _, project in named)

    @property
    def is_looking(self) -> bool:
        """Whether no task is run."""
        return self.command in _LOOKING

    @property
    def only_looks(self) -> bool:
        """Whether nothing is made that would have to be put on record."""
        return self.command in ("list", "info", "help") or (
            bool(self.tasks) and {task.what for task in self.tasks} <= {"explain", "prune"})

    @property
    def describes(self) -> bool:
        """Whether a person will read what each project's entry points are."""
        return self.command == "info" or (self.command == "list" and bool(
            self.tasks or not {"-a", "--all"}.isdisjoint(self._all)))

    def runs(self, *what: str) -> bool:
        """Whether one of these is to be run, for whichever project."""
        return not self.is_looking and any(task.what in what for task in self.tasks)

    def settings(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The settings of the command line, `project` among them.

        variables: what doit made of it. Raises ConfigError for a setting that is not known.
        """
        values: dict[str, list[str]] = {}
        for word in self._all:
            name, is_given, value = word.partition("=")
            if is_given and not word.startswith("-") and name in variables:
                values.setdefault(name, []).append(value)
        found = dict(variables)
        for name, several in values.items():
            if name in _JOINED:
                found[name] = _JOINED[name].join(several)
        known = [name for name, *_ in reference()]
        for name in found:
            if name not in known and name != "project":
                raise ConfigError(f"unknown setting {name!r}{nearest(name, [*known, 'project'])}",
                                  where="command line",
                                  fix="a parameter of the entry point is given as "
                                  f'params="{name}=…"; known settings: project, '
                                  + ", ".join(sorted(known)))
        return found

"""What is known of a script's variables and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toolchain.layer.shell.condition import Value
from toolchain.layer.shell.fields import Fields

# Variables that a script has from elsewhere.
_OUTSIDE = frozenset({
    "HOME", "PATH", "PWD", "OLDPWD", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "IFS",
    "SHELL", "TERM", "TMPDIR", "HOSTNAME", "DEBIAN_FRONTEND", "PPID", "RANDOM", "UID", "EUID",
    "LINENO", "OPTIND", "PS1", "PS2", "PS4", "_", "$", "!", "?", "-"})


class Scope:
    """Values by name; None is a value that is not known.

    arguments: those of the script, or of the function that is followed.
    hidden: what variables were before that function made them its own; None: not set.
    """

    def __init__(self, values: Mapping[str, Value], arguments: Fields, *,
                 is_foreign: bool = False) -> None:
        self.arguments = arguments
        self.hidden: dict[str, tuple[Value] | None] = {}
        self._values = dict(values)
        self._is_foreign = is_foreign  # whether another script may have set any variable

    def copy(self) -> Scope:
        """For a subshell, which keeps to itself what it assigns."""
        scope = Scope(self._values, self.arguments, is_foreign=self._is_foreign)
        scope.hidden = dict(self.hidden)
        return scope

    def is_like(self, other: Scope) -> bool:
        """Whether nothing was assigned in between."""
        return (self._values, self.arguments, self._is_foreign) == (
            other._values, other.arguments, other._is_foreign)

    def set(self, name: str, value: Value) -> None:
        self._values[name] = value

    def saved(self, names: Iterable[str]) -> dict[str, tuple[Value] | None]:
        """What `restore` takes."""
        return {name: (self._values[name],) if name in self._values else None for name in names}

    def restore(self, saved: Mapping[str, tuple[Value] | None]) -> None:
        for name, value in saved.items():
            if value is not None:
                self._values[name] = value[0]
            elif self._is_foreign:
                self._values[name] = None
            else:
                self._values.pop(name, None)

    def hide(self, name: str) -> None:
        """The function's own from here on, until the function ends."""
        if name not in self.hidden:
            self.hidden |= self.saved([name])

    def forget(self) -> None:
        """Another script may have changed every variable."""
        self._values = dict.fromkeys(self._values)
        self._is_foreign = True

    def is_assigned(self, name: str) -> bool:
        """Whether the script itself has set it."""
        return name in self._values

    def is_unset(self, name: str) -> bool | None:
        """Whether it has no value, not even an empty one; None where that is not known."""
        if name.isdigit():
            count = self.arguments.count
            return None if count is None else int(name) > count
        if name in self._values:
            return None if not self._values[name] else False  # `unset` leaves an empty one here
        return None if self._is_foreign or name in _OUTSIDE else True

    def get(self, name: str) -> Value:
        """What `$name` is; empty if it was never set."""
        if name.isdigit() or name in ("@", "*", "#"):
            return self._argument(name)
        if name in self._values:
            return self._values[name]
        return None if self._is_foreign or name in _OUTSIDE else ""

    def _argument(self, name: str) -> Value:
        if name.isdigit():
            place = int(name) if len(name) < 4 else 1000
            return self.arguments.at(place - 1) if place else None
        if name == "#":
            count = self.arguments.count
            return None if count is None else str(count)
        known = [value for value in self.arguments.values if value is not None]
        is_joined = len(known) < 2 or not self.is_assigned("IFS")
        return " ".join(known) if len(known) == self.arguments.count and is_joined else None

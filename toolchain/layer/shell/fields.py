"""Values by their place, as a command or a script gets them."""

from __future__ import annotations

from toolchain.layer.shell.condition import Value
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True)
class Fields:
    """is_counted: whether each value is just one; else each that is not known may be any number."""

    values: tuple[Value, ...]
    is_counted: bool = True

    @property
    def count(self) -> int | None:
        return len(self.values) if self.is_counted else None

    def at(self, place: int) -> Value:
        """The value there, from 0; empty behind the last."""
        if not self._is_known_before(place + 1):
            return None
        return self.values[place] if place < len(self.values) else ""

    def after(self, count: int) -> Fields:
        """Without the first `count`."""
        if not self._is_known_before(count):
            return UNKNOWN
        return Fields(self.values[count:], self.is_counted)

    def _is_known_before(self, count: int) -> bool:
        return self.is_counted or None not in self.values[:count]


UNKNOWN = Fields((None,), is_counted=False)

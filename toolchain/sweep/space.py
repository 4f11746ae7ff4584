"""The space that a sweep searches: its parameters, the points of its grid, the text of a value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Union

from toolchain.values import dataclass

Value = Union[str, int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter: `choices` as texts, else numbers from `low` to `high`, both included.

    whole: the numbers are integers. step: only multiples of it, counted from `low`; zero is none.
    log: drawn evenly by their logarithm, then put on the nearest multiple.
    """

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float = 0
    whole: bool = False
    log: bool = False

    def text(self, value: Value) -> str:
        """A drawn value as the entry point gets it."""
        if isinstance(value, str):
            return value
        if self.step:
            drawn = Decimal(repr(float(value))) - Decimal(repr(self.low))
            number = round(drawn / Decimal(repr(self.step)))
            return self._point(min(max(number, 0), self.count - 1))
        return str(round(value)) if self.whole else repr(float(value))

    def points(self) -> tuple[str, ...]:
        """Every value there is; only for choices and steps."""
        return self.choices or tuple(map(self._point, range(self.count)))

    @property
    def last(self) -> str:
        """The last of the points; only for choices and steps."""
        return self.choices[-1] if self.choices else self._point(self.count - 1)

    @property
    def count(self) -> int:
        """How many values there are; only for choices and steps."""
        if self.choices:
            return len(self.choices)
        width = Decimal(repr(self.high)) - Decimal(repr(self.low))
        return int(width / Decimal(repr(self.step))) + 1

    @property
    def is_exact(self) -> bool:
        """Whether floats can count the steps: they have the last point as it is, and others as
        near as a thousand-millionth of a step."""
        return (Decimal(self.last) == self._multiple(self.count - 1)
                and math.ulp(max(abs(self.low), abs(self.high))) < self.step * 1e-9)

    def _point(self, number: int) -> str:
        # Decimal: multiples of 0.1 are to read 0.3, not 0.30000000000000004.
        found = self._multiple(number)
        return str(round(found)) if self.whole else repr(float(found))

    def _multiple(self, number: int) -> Decimal:
        return Decimal(repr(self.low)) + Decimal(repr(self.step)) * number

    @property
    def numbers(self) -> tuple[Value, ...]:
        """The choices, as numbers if all of them are: what a plot can put in order."""
        try:
            found = tuple(float(text) for text in self.choices)
        except ValueError:
            return self.choices
        if len(set(found)) < len(found) or not all(map(math.isfinite, found)):
            return self.choices
        return found

    def to_json(self) -> dict[str, Any]:
        if self.choices:
            return {"name": self.name, "choices": list(self.choices)}
        return {"name": self.name, "low": repr(self.low), "high": repr(self.high),
                "step": repr(self.step), "whole": self.whole, "log": self.log}


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters, sorted by name: a file's order changes nothing."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters",
                           tuple(sorted(self.parameters, key=lambda item: item.name)))

    @property
    def size(self) -> int:
        """How many points the grid has."""
        return math.prod(item.count for item in self.parameters)

    def grid(self) -> Iterator[dict[str, str]]:
        names = [item.name for item in self.parameters]
        for point in itertools.product(*(item.points() for item in self.parameters)):
            yield dict(zip(names, point, strict=True))

    def texts(self, values: Mapping[str, Value]) -> dict[str, str]:
        return {item.name: item.text(values[item.name]) for item in self.parameters}

    def to_json(self) -> list[Any]:
        return [item.to_json() for item in self.parameters]

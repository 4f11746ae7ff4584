"""The space that a sweep searches: its parameters, the points of its grid, the text of a value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Union

Value = Union[str, int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter: `choices` as texts, else numbers from `low` to `high`, both included.

    whole: the numbers are integers. step: only multiples of it, counted from `low` (for `log`:
    rounded to it); zero is none. log: drawn evenly by their logarithm.
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
        if self.whole:
            return str(round(value))
        if self.step and self.log:
            value = round(value / self.step) * self.step
        if self.step:
            # Multiples of 0.1 are to read 0.3, not 0.30000000000000004.
            value = float(f"{value:.12g}")
        return repr(float(value))

    def points(self) -> tuple[str, ...]:
        """Every value there is; only for choices and steps."""
        if self.choices:
            return self.choices
        low, step = Decimal(repr(self.low)), Decimal(repr(self.step))
        return tuple(self.text(float(low + step * number)) for number in range(self.count))

    @property
    def count(self) -> int:
        """How many values there are; only for choices and steps."""
        if self.choices:
            return len(self.choices)
        width = Decimal(repr(self.high)) - Decimal(repr(self.low))
        return int(width / Decimal(repr(self.step))) + 1

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

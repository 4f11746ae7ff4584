"""One entry of `parameters:` -> Parameter."""

from __future__ import annotations

import math

from toolchain.errors import SpecError, nearest
from toolchain.spec.yamltext import Located
from toolchain.sweep.space import Parameter

_KEYS = ("value", "values", "min", "max", "distribution", "q", "log")
# W&B's that have no meaning here, and what to do instead.
_FOREIGN = {
    "probabilities": "take it out: choices are drawn evenly",
    "parameters": "an entry point's parameters are flat: list these beside the others, by the "
                  "names that MLproject declares",
}
# W&B's distributions that exist here: integers, by logarithm, in steps.
_RANGES = {
    "uniform": (False, False, False), "int_uniform": (True, False, False),
    "q_uniform": (False, False, True), "log_uniform_values": (False, True, False),
    "q_log_uniform_values": (False, True, True), "log_uniform": (False, True, False),
    "q_log_uniform": (False, True, True),
    # That log(1/X) is even says the same as that log(X) is.
    "inv_log_uniform_values": (False, True, False), "inv_log_uniform": (False, True, False),
}
_CHOICES = ("constant", "categorical")
# Whose min and max are natural logarithms.
_EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_BELLS = ("normal", "q_normal", "log_normal", "q_log_normal")  # which no sampler here draws
_KNOWN = (*_CHOICES, *_RANGES)
_LARGEST_GRID = 100_000
_FINEST = 16  # the least q, in the distance between one float and the next


def parameter(name: str, at: Located, path: str, *, grid: bool) -> Parameter:
    """Raises SpecError with file, line and the parameter's name."""
    return _Reading(name, at, path).parameter(grid=grid)


class _Reading:
    """One parameter of one file."""

    def __init__(self, name: str, at: Located, path: str) -> None:
        self._name = name
        self._at = at
        self._path = path
        self._fields: dict[str, Located] = {}

    def parameter(self, *, grid: bool) -> Parameter:
        if not isinstance(self._at.value, dict):
            raise self._error("not a mapping", "", "write {values: [1, 2]} or {min: 0, max: 1}")
        self._refuse_bells()
        for key, value in self._at.value.items():
            if key in _FOREIGN:
                raise self._error(f"{key} is W&B's, and not known here", key, _FOREIGN[key])
            if key not in _KEYS:
                raise self._error(f"unknown key {key!r}{nearest(key, _KEYS)}", key,
                                  f"known keys: {', '.join(_KEYS)}")
            if value.value is not None:
                self._fields[key] = value
        kind = self._text("distribution")
        if kind and kind not in _KNOWN:
            raise self._error(f"unknown distribution {kind!r}{nearest(kind, _KNOWN)}",
                              "distribution", f"known: {', '.join(_KNOWN)}")
        if "value" in self._fields or "values" in self._fields:
            return self._choices(kind)
        return self._range(kind, grid=grid)

    def _refuse_bells(self) -> None:
        """Optuna draws evenly from a range; say which range holds what was asked for."""
        assert isinstance(self._at.value, dict)
        asked: dict[str, Located] = self._at.value
        at = asked.get("distribution")
        kind = at.text if at is not None else ""
        if kind in ("beta", "q_beta"):
            raise self._error(f"{kind} cannot be drawn here", "distribution",
                              "write {min: 0.0, max: 1.0}, which is even")
        if kind not in _BELLS:
            return
        self._fields = {key: value for key, value in asked.items()
                        if key in ("mu", "sigma") and value.value is not None}
        middle = self._number("mu") if "mu" in self._fields else 0.0
        width = 3 * (self._number("sigma") if "sigma" in self._fields else 1.0)
        low, high = middle - width, middle + width
        words = f"min: {low:g}, max: {high:g}"
        if "log" in kind:
            words = f"min: {low:g}, max: {high:g}, distribution: log_uniform"
        step = asked.get("q")
        raise self._error(
            f"{kind} cannot be drawn here: a range has ends", "distribution",
            f"write {{{words}}}, three sigma to each side, which is even within"
            + (f"; with q: {step.text}" if step is not None and kind == "q_normal" else ""))

    def _choices(self, kind: str) -> Parameter:
        for key in ("min", "max", "q", "log"):
            if key in self._fields:
                raise self._error(f"values and {key} are given", key, "keep one of them")
        if "value" in self._fields and "values" in self._fields:
            raise self._error("value and values are given", "values", "keep one of them")
        if kind in _RANGES:
            raise self._error(f"{kind} takes min and max, not values", "distribution",
                              "leave distribution out")
        if "value" in self._fields:
            return Parameter(name=self._name, choices=(self._scalar(self._fields["value"]),))
        values = self._fields["values"].value
        if not isinstance(values, list) or not values:
            raise self._error("values is not a list of values", "values",
                              "write values: [0.1, 1.0]")
        texts = tuple(self._scalar(item) for item in values)
        for number, text in enumerate(texts):
            if text in texts[:number]:
                raise self._error(f"the value {text!r} is there twice", "values", "keep one")
        return Parameter(name=self._name, choices=texts)

    def _range(self, kind: str, *, grid: bool) -> Parameter:
        for key in ("min", "max"):
            if key not in self._fields:
                raise self._error("neither values nor min and max" if key == "min"
                                  and "max" not in self._fields else f"no {key} is given", "",
                                  "write {values: [1, 2]} or {min: 0, max: 1}")
        if kind in _CHOICES:
            raise self._error(f"{kind} takes values, not min and max", "distribution",
                              "leave distribution out")
        low, high = self._number("min"), self._number("max")
        whole, log, stepped = _RANGES.get(kind, (
            self._is_whole("min") and self._is_whole("max") and self._is_whole("q"), False, False))
        log = log or self._flag("log")
        step = self._number("q") if "q" in self._fields else float(stepped)
        if kind in _EXPONENTS:
            if kind.startswith("inv_"):
                low, high = -high, -low
            low, high = self._exponential(low, "min"), self._exponential(high, "max")
        if low > high:
            raise self._error(f"min is more than max: {low:g} > {high:g}", "min",
                              "give them in order")
        if low == high:
            raise self._error(f"min and max are the same: {low:g}", "min",
                              f"write value: {self._fields['min'].text}")
        if log and low <= 0:
            raise self._error(f"a logarithm needs min above zero, not {low:g}", "min",
                              "give a small number, as in min: 0.0001")
        for key, number in (("min", low), ("max", high), ("q", step)):
            if whole and number != int(number):
                raise self._error("int_uniform takes whole numbers", key,
                                  "give whole numbers, or distribution: uniform")
        if "q" in self._fields and step <= 0:
            raise self._error(f"q is more than zero, not {step:g}", "q", "as in q: 0.1")
        if step > high - low:
            raise self._error(f"q is more than max - min: {step:g}", "q", "make it smaller")
        if step and step < _FINEST * math.ulp(max(abs(low), abs(high))):
            raise self._error(f"q is too small to be told apart beside {max(abs(low), abs(high)):g}"
                              f": {step:g}", "q", "leave q out, or make it larger")
        found = Parameter(name=self._name, low=low, high=high, whole=whole, log=log,
                          step=step or float(whole and grid))
        if grid:
            self._check_grid(found)
        return found

    def _check_grid(self, found: Parameter) -> None:
        if found.log or not found.step:
            raise self._error("a grid cannot have every number between min and max", "min",
                              "list values, or give q: the distance between two points"
                              if not found.log else "list values, as in values: [0.01, 0.1, 1]")
        if found.count > _LARGEST_GRID:
            raise self._error(
                f"a grid cannot have {found.count:,} values of one parameter",
                "q" if "q" in self._fields else "max",
                f"{_LARGEST_GRID:,} are the most: give a larger q, or use method: bayes")

    def _text(self, key: str) -> str:
        return self._scalar(self._fields[key]) if key in self._fields else ""

    def _scalar(self, at: Located) -> str:
        if isinstance(at.value, (dict, list)):
            raise self._error("a value is not a single one", "", "parameters are texts or numbers",
                              at.line)
        return "" if at.value is None else at.text

    def _is_whole(self, key: str) -> bool:
        """W&B's rule: min: 1, max: 8 are integers, min: 1.0 is not."""
        return key not in self._fields or type(self._fields[key].value) is int

    def _number(self, key: str) -> float:
        text = self._text(key)
        try:
            # YAML 1.1 takes 1e-3 for text; whoever writes it means the number.
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._error(f"{key} is not a number: {text!r}", key, f"as in {key}: 0.1")
        return number

    def _exponential(self, value: float, key: str) -> float:
        try:
            return math.exp(value)
        except OverflowError:
            raise self._error(f"e to the power of {value:g} is no number", key,
                              "min and max are natural logarithms here; log_uniform_values takes "
                              "them as they are") from None

    def _flag(self, key: str) -> bool:
        if key not in self._fields:
            return False
        value = self._fields[key].value
        if not isinstance(value, bool):
            raise self._error(f"{key} is true or false", key, f"write {key}: true")
        return value

    def _error(self, what: str, key: str, fix: str, line: int = 0) -> SpecError:
        found = self._at.value.get(key) if isinstance(self._at.value, dict) else None
        line = line or (found.line if found is not None else self._at.line)
        inner = f".{key}" if key else ""
        return SpecError(what, where=f"{self._path}:{line}, parameters.{self._name}{inner}",
                         fix=fix)

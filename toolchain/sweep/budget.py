"""`40` or `30m` -> Budget: how many trials, or how long."""

from __future__ import annotations

import re

from toolchain.errors import SpecError
from toolchain.values import dataclass

_TEXT = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?"
                   r"(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One of the two is set: a number of trials, or seconds after which none is begun."""

    trials: int | None = None
    seconds: float | None = None


def read(text: str, where: str) -> Budget:
    """Raises SpecError for what is neither."""
    text = text.strip().replace(" ", "")
    if text.isdecimal() and int(text) > 0:
        return Budget(trials=int(text))
    found = _TEXT.fullmatch(text.lower())
    parts = found.groups() if found else ()
    seconds = sum(float(part) * unit
                  for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False) if part)
    if seconds <= 0:
        raise SpecError(f"not a budget: {text!r}", where=where,
                        fix="give a number of trials, as in budget=40, or a time, as in "
                            "budget=90s, budget=30m or budget=1h30m")
    return Budget(seconds=seconds)


def read_count(name: str, text: str, where: str, least: int = 1) -> int:
    """A whole number. Raises SpecError."""
    if not text.strip().isdecimal() or int(text) < least:
        raise SpecError(f"{name} is a whole number from {least} on, not {text!r}", where=where,
                        fix=f"write it as {name}: 20 in sweep.yaml, or {name}=20")
    return int(text)

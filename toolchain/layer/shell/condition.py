"""`test` and `[`, as far as their answer is known without a system to look at."""

from __future__ import annotations

import re
from collections.abc import Callable

Value = str | None  # None: not known
Exists = Callable[[str], "bool | None"]  # of an absolute path; None where that is unknown

_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b, "-ne": lambda a, b: a != b, "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b, "-gt": lambda a, b: a > b, "-ge": lambda a, b: a >= b,
}


def test(words: list[Value], exists: Exists) -> bool | None:
    """What `test` says of its arguments; None where that is not known."""
    for operator, decides in (("-o", True), ("-a", False)):
        if operator in words[1:-1] and len(words) > 3:
            at = words.index(operator, 1)
            sides = (test(words[:at], exists), test(words[at + 1:], exists))
            if decides in sides:
                return decides
            return None if None in sides else not decides
    if words[:1] == ["!"] and len(words) > 1:
        inner = test(words[1:], exists)
        return None if inner is None else not inner
    if None in words:
        return None
    known = [word for word in words if word is not None]
    if len(known) <= 1:
        return bool(known and known[0])
    if len(known) == 2:
        return _test_one(known[0], known[1], exists)
    if len(known) == 3:
        return _compared(known[0], known[1], known[2])
    return None


def _test_one(operator: str, value: str, exists: Exists) -> bool | None:
    if operator in ("-n", "-z"):
        return bool(value) == (operator == "-n")
    if operator not in ("-e", "-f", "-d", "-x", "-r", "-s", "-L", "-h"):
        return None
    if not value.startswith("/"):
        return False if not value else None
    there = exists(value)
    # Of what is there, whether it is of that kind is not looked into.
    return there if not there or operator in ("-e", "-r") else (
        None if operator in ("-L", "-h", "-s", "-d") else True)


def _compared(left: str, operator: str, right: str) -> bool | None:
    if operator in ("=", "=="):
        return left == right
    if operator == "!=":
        return left != right
    if operator in _NUMBERS and re.fullmatch(r"-?\d{1,15}", left) and re.fullmatch(
            r"-?\d{1,15}", right):
        return _NUMBERS[operator](int(left), int(right))
    return None

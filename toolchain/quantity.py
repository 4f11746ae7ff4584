"""Text -> seconds, bytes, processors: quantities as people write them in settings."""

from __future__ import annotations

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# As Kubernetes and the SI have them. A small letter alone is 1000 for some and 1024 for others.
_BYTES = {"": 1, "B": 1, **{f"{letter}{end}": base**power
                            for power, letter in enumerate("KMGT", 1)
                            for ends, base in ((("i", "iB"), 1024), (("", "B"), 1000))
                            for end in ends}, "kB": 1000, "k": 1000}
_NUMBER = r"\d+(?:\.\d+)?"


def seconds(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1h30m`, `1d`. Raises ValueError, which says what is meant."""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not text or not re.fullmatch(rf"({_NUMBER}[smhd])+", text):
        raise ValueError("seconds, or a time such as 90s, 30m, 2h or 1h30m")
    return sum(float(number) * _SECONDS[unit]
               for number, unit in re.findall(rf"({_NUMBER})([smhd])", text))


def size(text: str) -> int:
    """Bytes: `512MiB`, `512Mi`, `2G`, `1.5GB`, `1048576`. Raises ValueError."""
    found = re.fullmatch(rf"({_NUMBER})\s*([A-Za-z]*)", text)
    if found is None or found[2] not in _BYTES:
        raise ValueError("bytes with a unit, such as 512MiB or 2GiB (1024), 500MB or 2GB (1000)")
    return int(float(found[1]) * _BYTES[found[2]])


def processors(text: str) -> float:
    """`2`, `0.5`, `500m`. Raises ValueError."""
    if re.fullmatch(r"\d+m", text):
        return int(text[:-1]) / 1000
    if not re.fullmatch(_NUMBER, text):
        raise ValueError("a number of processors, such as 2 or 0.5")
    return float(text)


def count(text: str) -> int:
    """`1`. Raises ValueError."""
    if not re.fullmatch(r"\d+", text):
        raise ValueError("a whole number")
    return int(text)

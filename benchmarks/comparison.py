"""Times of several builders -> a Markdown table, and which goals are met."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from benchmarks.table import in_words
from benchmarks.timing import Times


class Scenario(enum.Enum):
    """What is measured, in the words of the table."""

    COLD = "cold, base and wheels at hand"
    PLAIN = "the same without byte-code"
    NULL = "nothing to do"
    EDIT = "one line of code changed"
    ADDED = "one dependency added"
    UPGRADED = "one dependency at another version"
    SECOND = "another machine, empty cache, image in the registry"
    THREE = "three projects with overlapping locks, the first of the ten"
    TEN = "ten projects with overlapping locks"


Taken = Mapping[str, Mapping[Scenario, Times]]
_OURS, _DOCKER = "this package", "docker build"


Stored = Mapping[Scenario, Mapping[str, int]]  # bytes, of three projects and of ten
_BYTES = ((Scenario.THREE, "three"), (Scenario.TEN, "ten"))


def markdown(taken: Taken, stored: Stored, reasons: Mapping[str, str],
             facts: str) -> str:
    """A column for each builder; the first is this package, which the others' ratios refer to."""
    names = [*taken]
    lines = [("build and push", *names), ("---", *("---:" for _ in names))]
    for scenario in Scenario:
        lines.append((scenario.value, *(_cell(taken, name, scenario) for name in names)))
    lines += [(f"bytes stored for these {word}, besides the base",
               *(_stored(stored.get(scenario, {}), name) for name in names))
              for scenario, word in _BYTES]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    parts = [text, *_goals(taken, stored)]
    parts += [f"Not measured: {name}: {reason}." for name, reason in reasons.items()]
    return "\n\n".join([*parts, facts]) + "\n"


def _cell(taken: Taken, name: str, scenario: Scenario) -> str:
    times, ours = taken[name].get(scenario), taken[_OURS].get(scenario)
    if times is None:
        return ""
    text = f"{in_words(times.median)} ({len(times.seconds)})"
    return text if name == _OURS or ours is None else f"{text} {times.median / ours.median:.1f}×"


def _stored(stored: Mapping[str, int], name: str) -> str:
    if name not in stored:
        return ""
    text = f"{stored[name] / 1e6:.0f} MB"
    return text if name == _OURS else f"{text} {stored[name] / stored[_OURS]:.1f}×"


def _goals(taken: Taken, stored: Stored) -> list[str]:
    """The goals against `docker build`, those of them that were measured."""
    def ratio(scenario: Scenario) -> float | None:
        ours, theirs = (taken.get(name, {}).get(scenario) for name in (_OURS, _DOCKER))
        return theirs.median / ours.median if ours and theirs else None

    ten = stored.get(Scenario.TEN, {})
    bytes_ratio = ten[_DOCKER] / ten[_OURS] if _DOCKER in ten and _OURS in ten else None
    lines = [("goal, against `docker build`", "wanted", "measured", ""),
             ("---", "---:", "---:", "---")]
    for what, least, found in (
        ("cold", 8, ratio(Scenario.COLD)),
        ("cold, without byte-code", 8, ratio(Scenario.PLAIN)),
        ("one dependency added", 50, ratio(Scenario.ADDED)),
        ("one line of code changed: not slower", 1, ratio(Scenario.EDIT)),
        ("bytes stored for ten projects: at most a third", 3, bytes_ratio),
    ):
        if found is not None:
            lines.append((what, f"≥ {least}×", f"{found:.1f}×",
                          "met" if found >= least else "**missed**"))
    return ["\n".join(f"| {' | '.join(cells)} |" for cells in lines)] if len(lines) > 2 else []

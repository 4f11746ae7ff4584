"""Times -> a Markdown table, printed or put between its markers in docs/benchmarks.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Times

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a table. A target is a number of seconds, alone or above the baseline, or of times
    the baseline, or none."""

    what: str
    times: Times
    baseline: Times
    most_seconds: float | None = None
    most_above: float | None = None
    most_times: float | None = None

    @property
    def ratio(self) -> float:
        return self.times.median / self.baseline.median

    @property
    def target(self) -> str:
        if self.most_seconds is not None:
            return f"≤ {self.most_seconds:g} s"
        if self.most_above is not None:
            return f"≤ {self.most_above:g} s more"
        return f"≤ {self.most_times:g}×" if self.most_times is not None else ""

    @property
    def is_met(self) -> bool:
        above = self.times.median - self.baseline.median
        return (self.times.median <= (self.most_seconds or float("inf"))
                and above <= (self.most_above or float("inf"))
                and self.ratio <= (self.most_times or float("inf")))

    def cells(self) -> tuple[str, ...]:
        seconds = self.times.seconds
        return (self.what, in_words(self.times.median),
                f"{in_words(min(seconds))}–{in_words(max(seconds))}", str(len(seconds)),
                f"{self.ratio:.2f}×" if self.ratio < 100 else f"{self.ratio:.0f}×", self.target,
                ("met" if self.is_met else "**missed**") if self.target else "")


def markdown(rows: list[Row], baseline: str, facts: str) -> str:
    """The table with what it was measured on. `baseline` names what ratios refer to."""
    header = ("what", "median", "range", "runs", f"to {baseline}", "target", "")
    lines = [header, tuple("---:" if 0 < at < 5 else "---" for at in range(len(header))),
             *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{facts}\n"


def write(name: str, text: str) -> None:
    """Put the text between `<!-- name -->` and `<!-- /name -->` of the document."""
    document = DOCUMENT.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"{DOCUMENT.name} has no marker {begin.strip()}")
    DOCUMENT.write_text(pattern.sub(lambda _: f"{begin}{text}{end}", document), encoding="utf-8")


def in_words(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else (
        f"{value * 1000:.0f} ms")

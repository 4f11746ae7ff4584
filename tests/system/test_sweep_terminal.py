"""What somebody at a terminal sees of a sweep, and Ctrl-C there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import sweeps
from tests.support.monorepo import Monorepo
from tests.support.terminal import on_terminal

# The board as a sweep draws it, with trials that take as long as is said.
_BOARD = """\
import time
from toolchain import report
from toolchain.sweep import Metric
from toolchain.sweep.board import HEADER, Board, Score
from toolchain.sweep.trial import COMPLETE, FAILED, Ended, Trial
board = Board(report.emit)
board.scores = {"one": Score(metric=Metric(name="loss"), most=4)}
with report.live(HEADER, board.rows, board.caption) as board.on_show:
    for number, loss in enumerate((4.0, 1.0, None)):
        trial = Trial(number=number, params={"x": str(number), "kind": "plain"})
        board.begin("one", trial)
        board.show()
        print(f"one/{number} | said by the trial", flush=True)
        time.sleep(0.1)
        board.end("one", trial, Ended(state=COMPLETE, value=loss) if loss else
                  Ended(state=FAILED, reason="exited with status 3"))
        board.show()
report.table(board.summary())
"""
_LINES = [
    "one/0 | said by the trial",
    "sweep one  trial 0 (1 of 4)  complete  x=0 kind=plain  loss=4  best 4 (trial 0)  ",
    "sweep one  trial 1 (2 of 4)  complete  x=1 kind=plain  loss=1  best 1 (trial 1)  ",
    "sweep one  trial 2 (2 of 4)  failed  x=2 kind=plain  exited with status 3  ",
    "one      2       2         0       1       0       loss=1  1",
]


def seen(tmp_path: Path, columns: int = 120, **changes: str) -> tuple[str, str]:
    """What a terminal gets: with its control sequences, and as text."""
    environ = {name: value for name, value in os.environ.items()
               if name not in ("NO_COLOR", "CI", "FORCE_COLOR", "COLUMNS", "LINES")}
    environ |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path), **changes}
    with on_terminal([sys.executable, "-c", _BOARD], folder=tmp_path, environ=environ,
                     columns=columns) as terminal:
        assert terminal.read_to_the_end(60) == 0, terminal.text
    return terminal.raw, terminal.text


def test_a_table_is_drawn_below_the_lines(tmp_path: Path) -> None:
    raw, text = seen(tmp_path)
    for line in _LINES:
        assert line in text
    header = " +┃ ".join(("project", "trial", "state", "parameters", "metric", "elapsed"))
    assert re.search(header, text)
    assert re.search(r"│ one +│ 1 +│ running +│ x=1 kind=plain +│ +│ \d+ s +│", text)
    assert re.search(r"│ one +│ 0 +│ complete +│ x=0 kind=plain +│ 4 +│ \d+ s +│", text)
    assert re.search(r"│ one +│ 2 +│ failed +│ x=2 kind=plain +│ +│ \d+ s +│", text)
    # How far it is, the best so far, and how long it may take.
    assert re.search(r"^one 0 of 4 *$", text, re.MULTILINE)
    for far in (r"1 of 4, best loss=4 \(trial 0\)", r"2 of 4, best loss=1 \(trial 1\)"):
        assert re.search(rf"^one {far}, about \d+ s left *$", text, re.MULTILINE)
    assert "\x1b[1A" in raw, "it is drawn in the same place again"
    # In the end the table is taken away, and the cursor is there again.
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")
    assert "┃" not in raw[raw.rindex("\x1b[2K"):]


def test_a_narrow_terminal_is_enough(tmp_path: Path) -> None:
    _, text = seen(tmp_path, columns=60)
    assert "running" in text
    assert max(map(len, text.splitlines())) <= max(60, *map(len, _LINES))


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("CI", "true")])
def test_plain_lines_where_nothing_should_move(tmp_path: Path, name: str, value: str) -> None:
    raw, text = seen(tmp_path, 120, **{name: value})
    assert "\x1b" not in raw
    assert "┃" not in raw
    for line in _LINES:
        assert line in text


def test_ctrl_c_ends_a_sweep_and_leaves_the_terminal_as_it_was(monorepo: Monorepo) -> None:
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nparameters:\n"
                                "  wait: {values: [0, 600]}\n  x: {value: 1}\n")
    environ = {name: value for name, value in monorepo.environment.items()
               if name not in ("NO_COLOR", "CI")} | {"TERM": "xterm", "COLUMNS": "120"}
    with on_terminal([sys.executable, "-m", "doit", "sweep"], folder=monorepo.folder,
                     environ=environ) as terminal:
        waiting = re.compile(r"│ one +│ 1 +│ running +│ wait=600 x=1 +│ +│ [1-9]\d* s +│")
        terminal.read_until(lambda: bool(waiting.search(terminal.text)))
        assert "one 1 of 2, best loss=1 (trial 0)" in terminal.text
        terminal.press(b"\x03")
        assert terminal.read_to_the_end(60) == 130, terminal.text
    assert "Traceback" not in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
    [(parent, status)] = sweeps.parents(monorepo)
    assert status == "KILLED"
    assert sorted(sweeps.children(monorepo, parent).values()) == ["FINISHED", "KILLED"]

"""Progress is shown on a terminal, and nothing moves anywhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.terminal import on_terminal
from toolchain import report
from toolchain.progress import Progress

_WORK = """
import time
from toolchain import report
from toolchain.progress import Progress
with report.progress(Progress(), "push iris") as progress:
    progress.expect(80_000_000, layers=4)
    for _ in range(30):
        progress.advance(2_000_000)
        time.sleep(0.1)
    progress.advance(0, layers=3)
    time.sleep(0.6)
"""


def _on_a_terminal(**environ: str) -> str:
    """What the work above writes where stderr is a terminal."""
    main, other = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen([sys.executable, "-c", _WORK], stderr=other, stdout=other,
                               env={**clean, "TERM": "xterm", "COLUMNS": "160", **environ})
    os.close(other)
    shown = b""
    while True:
        try:
            data = os.read(main, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(main)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_shows_bytes_layers_rate_and_what_is_left() -> None:
    shown = _on_a_terminal()
    assert "push iris" in shown
    assert re.search(r"\d+(\.\d)?/80\.0 MB", shown)
    assert "0/4 layers" in shown
    assert "3/4 layers" in shown
    assert re.search(r"\d+\.\d MB/s", shown)
    assert re.search(r"0:00:\d\d", shown)


def _without_a_terminal() -> str:
    return subprocess.run([sys.executable, "-c", _WORK], stderr=subprocess.STDOUT,
                          stdout=subprocess.PIPE, text=True, check=True).stdout


def test_nothing_moves_where_one_said_so_or_there_is_no_terminal() -> None:
    silent = [lambda: _on_a_terminal(CI="true"), lambda: _on_a_terminal(NO_COLOR="1"),
              lambda: _on_a_terminal(TERM="dumb"), _without_a_terminal]
    with ThreadPoolExecutor(len(silent)) as pool:  # each takes as long as the work
        assert [done.result() for done in [pool.submit(show) for show in silent]] == [""] * 4


def _run(**values: object) -> dict[str, object]:
    return {"train": {"run_id": "r1", "experiment_id": "7", "metrics": {}, "model_uri": "",
                      **values}}


def test_where_a_run_is_recorded_is_said() -> None:
    assert report.result("one", _run(), "mlflow ui", "sqlite:///mlflow.db") == [
        "one: run r1", "one: see it with `mlflow ui`"]
    assert report.result("one", _run(), "", "https://mlflow.example/at/") == [
        "one: run r1", "one: see it at https://mlflow.example/at/#/experiments/7/runs/r1"]
    assert report.result("one", _run(), "", "postgresql://db.example/mlflow") == [
        "one: run r1", "one: it is recorded in postgresql://db.example/mlflow"]


def test_progress_begins_anew() -> None:
    counter = Progress()
    counter.expect(5, layers=1)
    counter.advance(3, layers=1)
    assert (counter.expected, counter.done, counter.layers_expected, counter.layers_done) == (
        5, 3, 1, 1)
    with report.progress(counter, "next"):
        assert (counter.expected, counter.done, counter.layers_expected, counter.layers_done) == (
            0, 0, 0, 0)


@pytest.mark.parametrize("err", [False, True])
def test_progress_is_silenced_on_a_terminal(tmp_path: Path, err: bool) -> None:
    program = ("import time\nfrom toolchain import progress, report\n"
               f"with report.silenced(out={err}, err={err}):\n"
               "    with report.progress(progress.Progress(), 'title'):\n"
               "        report.emit('a line')\n        time.sleep(3)\n")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TERM": "xterm"}
    for name in ("CI", "NO_COLOR"):
        environ.pop(name, None)
    with on_terminal([sys.executable, "-c", program], folder=tmp_path,
                     environ=environ) as terminal:
        assert terminal.read_to_the_end() == 0
    assert ("title" in terminal.text) is not err
    assert ("a line" in terminal.text) is not err

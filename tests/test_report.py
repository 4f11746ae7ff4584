"""Progress moves on a terminal; elsewhere what takes long says a line now and then."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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


@pytest.mark.parametrize(("done", "expected", "layers", "rate", "words"), [
    (1_200_000_000, 5_000_000_000, (4, 12), 11_040_000.0,
     "1.2 of 5.0 GB, 4 of 12 layers, 11.0 MB/s"),
    (1_000, 5_000_000, (0, 1), 0.0, "0.0 of 5.0 MB, 0 of 1 layer, 0 B/s"),
    (80, 999, (0, 0), 2_500.0, "80 of 999 B, 2.5 kB/s"),
    (0, 0, (2, 3), 0.0, "2 of 3 layers"),
    (0, 0, (0, 0), 0.0, "90 s so far"),
])
def test_a_line_has_what_was_counted(done: int, expected: int, layers: tuple[int, int],
                                     rate: float, words: str) -> None:
    counter = Progress()
    counter.expect(expected, layers=layers[1])
    counter.advance(done, layers=layers[0])
    assert report.how_far(counter, rate, 90.4) == words


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_lines_without_a_terminal_end_with_the_block(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    before, counter = set(threading.enumerate()), Progress()
    with contextlib.suppress(ValueError, KeyboardInterrupt), \
            report.progress(counter, "push iris", every=0.01):
        counter.expect(80_000_000, layers=4)
        counter.advance(2_000_000)
        _wait_for(lambda: log.getvalue().count("\n") > 2)
        counter.advance(-1_000_000, layers=1)  # an upload broke
        _wait_for(lambda: "1.0 of 80.0 MB, 1 of 4 layers, 0 B/s\n" in log.getvalue())
        if error is not None:
            raise error
    said = log.getvalue()
    assert set(threading.enumerate()) <= before  # who could say more is gone
    assert said.endswith("\n")
    for line in said.splitlines()[1:]:
        assert re.fullmatch(
            r"push iris  [12]\.0 of 80\.0 MB, [01] of 4 layers, \d+(\.\d)? [kMG]?B/s", line)


def test_nothing_is_said_of_what_ends_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with report.progress(Progress(), "layer iris"):
        before = set(threading.enumerate())
    assert log.getvalue() == ""
    assert set(threading.enumerate()) < before  # nor is it waited for


def test_lines_are_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    said: list[str] = []

    def write(text: str) -> int:
        said.append(text)
        return len(text)

    with report.silenced(out=True, err=True):
        monkeypatch.setattr(sys.stderr, "write", write)
        with report.progress(Progress(), "prepare iris", every=0.01):
            _wait_for(lambda: len(said) > 2)
    assert log.getvalue() == ""
    with report.silenced(out=True, err=False), \
            report.progress(Progress(), "prepare iris", every=0.01):
        _wait_for(lambda: "prepare iris  0 s so far\n" in log.getvalue())


_SEVERAL = """
import sys
from toolchain import report
from toolchain.progress import Progress
with report.progress(Progress(), sys.argv[1], every=0.001) as progress:
    progress.expect(80_000_000, layers=4)
    sys.stdin.read()
print(sorted({"rich", "requests"} & set(sys.modules)))
"""


def test_lines_of_several_processes_are_whole_and_need_nothing_heavy(tmp_path: Path) -> None:
    with open(tmp_path / "log", "a+") as log:
        running = [subprocess.Popen([sys.executable, "-c", _SEVERAL, f"push {name}"], text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
                   for name in ("one", "two", "three", "four")]
        _wait_for(lambda: all(f"push {name}  0.0" in (tmp_path / "log").read_text()
                              for name in ("one", "two", "three", "four")))
        assert [process.communicate()[0] for process in running] == ["[]\n"] * 4
    lines = (tmp_path / "log").read_text().splitlines()
    words = re.compile(r"push (one|two|three|four)  "
                       r"(0\.0 of 80\.0 MB, 0 of 4 layers, 0 B/s|0 s so far)")
    assert [line for line in lines if not words.fullmatch(line)] == []


_UNREAD = """
import os, sys, time
from toolchain import report
from toolchain.progress import Progress
nowhere = os.stat(os.devnull).st_rdev
with report.progress(Progress(), "push iris", every=0.001):
    while os.fstat(2).st_rdev != nowhere:  # a line met the broken pipe
        time.sleep(0.005)
print("done")
"""


def test_work_goes_on_where_nobody_reads_its_lines() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", _UNREAD], text=True, stdout=subprocess.PIPE,
                          stderr=writer, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "done\n")


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

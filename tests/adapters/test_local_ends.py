"""However a job or its parent ends, signals reach the job and no process of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DRIVER = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.adapters.machine import Machine, locked
from toolchain.adapters.local import LocalEngine
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.digest import Digest
from toolchain.image import Image
from toolchain.push import Pushed
from toolchain.run import Job

folder = Path(sys.argv[1])
machine = Machine(folder, folder / "index")
with ThreadPoolExecutor(1) as pool, LayerWriter(machine.store, "project", pool) as writer:
    writer.add(Entry(path="project/file", mode=0o644))
engine = LocalEngine(cache=folder / "cache", store=machine.store, trace=machine.trace,
                     wheels=machine.wheels, environments=machine.environments,
                     conda=lambda: sys.exit("no conda"), environ=os.environ)
try:
    none = Digest.of(b"")
    sys.exit(engine.execute(Job(
        name="one", command=sys.argv[2], lock=locked(), project=writer.layer, environment={},
        image=Image(layers=(), config=b"{}", manifest=b"{}"),
        pushed=Pushed(reference="r", tag="t", digest=none, config=none))).code)
except KeyboardInterrupt:
    sys.exit(130)
"""
# A job's own child that would outlive everything; its number goes to a file.
_GRANDCHILD = "python -c 'import os, time; print(os.getpid(), flush=True); time.sleep(100)'"


class Parent:
    """A process that runs a job with the local engine, as doit does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self._process: subprocess.Popen[str] | None = None

    def start(self, command: str) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.folder), command], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "NOTES": str(self.notes)})
        return self._process

    def noted(self, count: int) -> list[str]:
        """The words in the notes as soon as there are so many."""
        def words() -> list[str]:
            return self.notes.read_text().split() if self.notes.exists() else []

        _wait_until(lambda: len(words()) >= count)
        return words()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    made = Parent(tmp_path)
    yield made
    made.end()
    for word in made.notes.read_text().split() if made.notes.exists() else []:
        if word.isdigit() and _is_alive(int(word)):
            os.kill(int(word), signal.SIGKILL)


def _wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _all_gone(pids: list[str]) -> bool:
    return not any(_is_alive(int(pid)) for pid in pids)


def _read_to_end(process: subprocess.Popen[str], seconds: float = 10) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        pytest.fail(f"the engine still waits {seconds} s after the job's end")


def test_output_comes_while_the_job_runs(parent: Parent) -> None:
    process = parent.start("echo first; sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    assert process.poll() is None


@pytest.mark.parametrize(("number", "name", "status"), [
    (signal.SIGTERM, "TERM", 143), (signal.SIGINT, "INT", 130)])
def test_a_signal_reaches_the_job_which_may_clean_up(
    parent: Parent, number: signal.Signals, name: str, status: int
) -> None:
    # It waits by itself: bash forgets a SIGINT that comes when a program which it waits for ends.
    process = parent.start(
        f"exec 9<> <(:); trap 'echo cleaned-up-after-{name} >> $NOTES; exit 1' {name};"
        "echo $$ >> $NOTES; while true; do read -t 1 -u 9; done")
    pids = parent.noted(1)
    process.send_signal(number)
    _read_to_end(process)
    assert process.returncode == status
    assert parent.noted(2)[1:] == [f"cleaned-up-after-{name}"]
    _wait_until(lambda: _all_gone(pids))
    assert list((parent.folder / "cache/work").iterdir()) == []


def test_a_signal_reaches_the_training_script_behind_the_shell(parent: Parent) -> None:
    process = parent.start(
        "python -c 'import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.5); print(\"script-ended\", flush=True); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end); print(\"ready\", flush=True); time.sleep(100)'"
        " >> $NOTES; echo never")
    parent.noted(1)
    process.send_signal(signal.SIGTERM)
    output = _read_to_end(process)
    assert process.returncode == 143
    assert parent.noted(2) == ["ready", "script-ended"]
    assert "never" not in output


def test_the_job_dies_with_a_parent_that_is_killed(parent: Parent) -> None:
    process = parent.start("echo $$ >> $NOTES; exec sleep 100")
    pids = parent.noted(1)
    process.kill()
    process.wait()
    _wait_until(lambda: _all_gone(pids), 5)


def test_the_whole_job_dies_with_a_parent_that_is_killed(parent: Parent) -> None:
    """`python train.py; …` is a child of bash, which alone would not take it along."""
    process = parent.start(f"echo $$ >> $NOTES; {_GRANDCHILD} >> $NOTES; echo never")
    pids = parent.noted(2)
    process.kill()
    process.wait()
    _wait_until(lambda: _all_gone(pids), 5)


def test_nothing_that_a_job_left_running_survives_it(parent: Parent) -> None:
    process = parent.start(f"{_GRANDCHILD} >> $NOTES 2>&1 & sleep 0.5; echo done")
    pids = parent.noted(1)
    assert _read_to_end(process) == "done\n"
    assert process.returncode == 0
    _wait_until(lambda: _all_gone(pids), 5)


def test_a_job_is_over_when_its_shell_is_even_if_a_process_holds_its_output(
    parent: Parent
) -> None:
    """A server or logger left in the background has the job's stdout open."""
    process = parent.start("sleep 100 & echo $! >> $NOTES; echo done; exit 4")
    assert _read_to_end(process) == "done\n"
    assert process.returncode == 4
    _wait_until(lambda: _all_gone(parent.noted(1)), 5)


def test_a_job_whose_output_nobody_reads_any_more_comes_to_an_end(parent: Parent) -> None:
    """As in `doit train | head -1`."""
    process = parent.start("echo $$ >> $NOTES; yes | head -n 1000000; echo end >> $NOTES")
    assert process.stdout is not None
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("the job waits for ever for a reader")
    _wait_until(lambda: _all_gone(parent.noted(1)[:1]), 5)


def test_nothing_survives_an_interrupted_job(parent: Parent) -> None:
    process = parent.start(f"echo $$ >> $NOTES; trap '' TERM; {_GRANDCHILD} >> $NOTES & wait")
    pids = parent.noted(2)
    process.send_signal(signal.SIGINT)
    _read_to_end(process, 40)  # it is given its 10 s, as it does not want to end
    assert process.returncode == 130
    _wait_until(lambda: _all_gone(pids), 5)


def test_what_an_interrupted_job_left_in_the_background_is_not_waited_for(parent: Parent) -> None:
    """A shell starts it so that it takes no notice of SIGINT."""
    process = parent.start(f"echo $$ >> $NOTES; {_GRANDCHILD} >> $NOTES & wait")
    pids = parent.noted(2)
    process.send_signal(signal.SIGINT)
    _read_to_end(process, 9)
    assert process.returncode == 130
    _wait_until(lambda: _all_gone(pids), 5)


def test_the_folder_of_a_killed_parent_is_swept_by_the_next(parent: Parent) -> None:
    process = parent.start("echo ready >> $NOTES; sleep 100")
    parent.noted(1)
    process.kill()
    process.wait()
    assert len(list((parent.folder / "cache/work").iterdir())) == 1
    assert _read_to_end(parent.start("ls .. | wc -l")) == "1\n"
    assert list((parent.folder / "cache/work").iterdir()) == []

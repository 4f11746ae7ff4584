"""Trainings of several processes wait for one another, and for nobody who is dead."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from toolchain.adapters.machine_shares import MachineShares
from toolchain.errors import EngineError
from toolchain.run import Resources

_ROOT = Path(__file__).parents[2]
_GIB = 1 << 30
# Takes a share of 4 processors and 4 GiB, and holds it until it is told to end.
_HOLD = """\
import sys
from pathlib import Path
from toolchain.adapters.machine_shares import MachineShares
from toolchain.run import Resources
shares = MachineShares(Path(sys.argv[1]), 4, 4 << 30, lambda text: print("waits", flush=True))
with shares.take(Resources(cpus=float(sys.argv[2]), memory=int(sys.argv[3])), "x"):
    print("has", flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process with a share."""

    def __init__(self, folder: Path, cpus: float = 0, memory: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(folder), str(cpus), str(memory)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)})

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end_now(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate("", timeout=20)


@pytest.mark.parametrize(("one", "other"), [
    ({"cpus": 3.0}, {"cpus": 1.5}), ({"memory": 3 * _GIB}, {"memory": 2 * _GIB})])
def test_what_does_not_fit_beside_another_waits_and_says_so(
    tmp_path: Path, one: dict[str, float], other: dict[str, float]
) -> None:
    first = Holder(tmp_path, **one)  # type: ignore[arg-type]
    assert first.says() == "has"
    second = Holder(tmp_path, **other)  # type: ignore[arg-type]
    assert second.says() == "waits"
    time.sleep(0.3)
    assert second.process.poll() is None
    first.end()
    assert second.says() == "has"
    second.end()
    assert [path.name for path in tmp_path.iterdir()] == ["queue"]


@pytest.mark.parametrize("behind", [False, True])
def test_one_that_waits_can_be_cancelled_from_another_thread(tmp_path: Path, behind: bool) -> None:
    """At the head of the queue, and behind another that waits; who comes next is not held up."""
    first = Holder(tmp_path, cpus=4)
    assert first.says() == "has"
    second = Holder(tmp_path, cpus=3)
    if behind:
        assert second.says() == "waits"
    cancel, got, said = threading.Event(), list[bool](), threading.Event()
    shares = MachineShares(tmp_path, 4, 4 * _GIB, lambda _: said.set())

    def wait() -> None:
        with shares.take(Resources(cpus=2), "x", cancel) as has:
            got.append(has)

    if not behind:
        second.end_now()
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert said.wait(20)
    time.sleep(0.3)
    cancel.set()
    waiting.join(5)
    assert got == [False]
    first.end()
    if behind:
        assert second.says() == "has"
        second.end()
    third = Holder(tmp_path, cpus=4)
    assert third.says() == "has"
    third.end()
    assert [path.name for path in tmp_path.iterdir()] == ["queue"]


def test_what_fits_does_not_wait(tmp_path: Path) -> None:
    holders = [Holder(tmp_path, cpus=2, memory=_GIB), Holder(tmp_path, cpus=2), Holder(tmp_path)]
    assert [holder.says() for holder in holders] == ["has"] * 3
    for holder in holders:
        holder.end()


def test_another_that_only_takes_its_share_is_not_said_to_be_waited_for(tmp_path: Path) -> None:
    said = list[str]()
    with (tmp_path / "queue").open("w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        threading.Timer(0.1, fcntl.flock, (queue.fileno(), fcntl.LOCK_UN)).start()
        with MachineShares(tmp_path, 4, 4 * _GIB, said.append).take(Resources(cpus=2), "x") as has:
            assert has
    assert said == []


def test_one_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    first = Holder(tmp_path, cpus=4)
    assert first.says() == "has"
    second = Holder(tmp_path, cpus=4)
    assert second.says() == "waits"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert second.says() == "has"
    second.end()


def test_a_large_one_is_not_overtaken(tmp_path: Path) -> None:
    first = Holder(tmp_path, cpus=2)
    assert first.says() == "has"
    large = Holder(tmp_path, cpus=4)
    assert large.says() == "waits"
    small = Holder(tmp_path, cpus=1)
    assert small.says() == "waits"
    first.end()
    assert large.says() == "has"
    time.sleep(0.3)
    assert small.process.poll() is None
    large.end()
    assert small.says() == "has"
    small.end()


def test_more_than_there_is_at_all_is_refused(tmp_path: Path) -> None:
    shares = MachineShares(tmp_path, 4, 4 * _GIB, pytest.fail)
    with (pytest.raises(EngineError, match="8 processors were asked for and there are 4") as caught,
          shares.take(Resources(cpus=8), "digits")):
        raise AssertionError("it ran")
    assert caught.value.where == "digits"

"""Threads that stop together."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from toolchain.workers import Workers


def test_each_gives_what_was_made_in_order() -> None:
    with Workers(4) as workers:
        assert workers.each(lambda number: number * 2, range(20)) == [*range(0, 40, 2)]
        assert workers.each(str, ()) == []


def test_the_first_failure_is_raised_at_once_and_nothing_more_begins() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("the second")
        gate.wait(60)

    threading.Timer(0.5, gate.set).start()  # the others' end, which is waited for
    with pytest.raises(ValueError, match="the second"), Workers(2) as workers:
        workers.each(work, range(100))
    # The thread of the one that failed may have taken one more before it was known.
    assert len(begun) < 5


def test_what_a_task_started_stops_with_it() -> None:
    begun: list[int] = []
    inside = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        inside.set()
        time.sleep(0.05)

    def many(_: int) -> None:
        with pytest.raises(CancelledError), Workers(1) as below:
            below.each(work, range(1000))

    with Workers(1) as above:
        above.submit(many, 0)
        assert inside.wait(60)
        above.stop()
    assert len(begun) < 100
    with pytest.raises(CancelledError):
        above.submit(work, 1)


@pytest.mark.parametrize(("error", "status"), [("KeyboardInterrupt", 130), ("SystemExit", 143)])
def test_a_signal_does_not_wait_for_what_hangs(error: str, status: int) -> None:
    program = f"""\
import time
from toolchain import workers
try:
    with workers.Workers(1) as pool:
        pool.submit(time.sleep, 60)
        raise {error}
except {error}:
    print("interrupted")
    workers.end_with({status})
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (status, "interrupted\n", "")
    assert time.monotonic() - started < 20

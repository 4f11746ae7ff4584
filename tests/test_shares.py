"""Trials that share a machine: never more than there is, in the order they came."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolchain.errors import ConfigError, EngineError
from toolchain.run import Resources
from toolchain.shares import THREADS, Share, Shares, thread_variables

_GIB = 1 << 30


class Trial:
    """One that holds its share until it is told to end."""

    def __init__(self, shares: Shares, resources: Resources) -> None:
        self.share: Share | None = None
        self._over = threading.Event()
        self._shares = shares
        self._resources = resources
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._shares.take(self._resources) as share:
            self.share = share
            self._over.wait()

    @property
    def runs(self) -> bool:
        return self.share is not None

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def begin(shares: Shares, *wishes: Resources) -> list[Trial]:
    """Trials that came in this order."""
    begun = []
    for wish in wishes:
        begun.append(Trial(shares, wish))
        time.sleep(0.03)
    return begun


def test_no_more_run_at_once_than_was_said() -> None:
    trials = begin(Shares(8, 0, 2), *[Resources()] * 3)
    assert [trial.runs for trial in trials] == [True, True, False]
    trials[0].end()
    assert soon(lambda: trials[2].runs)
    for trial in trials[1:]:
        trial.end()


def test_one_without_a_wish_has_its_part_of_the_processors() -> None:
    for cpus, parallel, threads in ((2, 1, 2), (2, 2, 1), (2, 8, 1), (8, 3, 2), (3, 3, 1),
                                    (0.5, 1, 1), (8, 2, 4)):
        with Shares(cpus, 0, parallel).take(Resources()) as share:
            assert share.cpus == pytest.approx(cpus / parallel)
            assert share.threads == threads
            assert set(share.variables().values()) == {str(threads)}
            assert share.resources == Resources(threads=threads)


def test_as_many_as_were_said_run_though_their_parts_are_no_round_numbers() -> None:
    shares = Shares(1, 0, 7)
    trials = begin(shares, *[Resources()] * 7)
    assert all(trial.runs for trial in trials)
    for trial in trials:
        trial.end()


@pytest.mark.parametrize(("first", "second"), [
    (Resources(cpus=3), Resources(cpus=2)),
    (Resources(memory=3 * _GIB), Resources(memory=2 * _GIB)),
    (Resources(cpus=4), Resources())])
def test_one_that_does_not_fit_waits(first: Resources, second: Resources) -> None:
    one, two = begin(Shares(4, 4 * _GIB, 4), first, second)
    assert (one.runs, two.runs) == (True, False)
    one.end()
    assert soon(lambda: two.runs)
    assert two.share is not None
    assert two.share.resources.memory == second.memory
    two.end()


def test_a_large_one_is_not_overtaken() -> None:
    """Small ones come faster than they end; the large one has its turn all the same."""
    shares = Shares(4, 0, 4)
    small, large, *late = begin(shares, Resources(cpus=1), Resources(cpus=4),
                                *[Resources(cpus=1)] * 3)
    assert [trial.runs for trial in (small, large, *late)] == [True, False, False, False, False]
    small.end()
    assert soon(lambda: large.runs)
    assert not any(trial.runs for trial in late)
    large.end()
    assert soon(lambda: all(trial.runs for trial in late))
    for trial in late:
        trial.end()


def test_a_wait_that_is_broken_off_does_not_stop_those_behind_it() -> None:
    shares = Shares(2, 0, 2)
    holder = begin(shares, Resources(cpus=2))[0]
    broken = threading.Event()

    def wait() -> None:
        import ctypes

        me = ctypes.c_ulong(threading.get_ident())
        threading.Timer(0.1, lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(
            me, ctypes.py_object(KeyboardInterrupt))).start()
        try:
            with shares.take(Resources(cpus=2)):
                raise AssertionError("it had its turn")
        except KeyboardInterrupt:
            broken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    behind = begin(shares, Resources(cpus=1))[0]
    time.sleep(0.1)
    holder.end()
    thread.join(10)
    assert broken.is_set()
    assert soon(lambda: behind.runs)
    behind.end()


def test_a_trial_that_fails_gives_its_share_back() -> None:
    shares = Shares(1, 0, 1)
    for _ in range(3):
        with pytest.raises(EngineError, match="failed"), shares.take(Resources()):
            raise EngineError("failed")
    with shares.take(Resources()):
        pass


@pytest.mark.parametrize(("wish", "words"), [
    (Resources(cpus=4.5), "4.5 processors were asked for and there are 4"),
    (Resources(memory=5 * _GIB), "5 GiB of memory were asked for and there are 512 MiB")])
def test_more_than_there_is_at_all_is_refused_at_once(wish: Resources, words: str) -> None:
    shares = Shares(4, _GIB // 2, 1)
    with pytest.raises(EngineError) as caught, shares.take(wish):
        raise AssertionError("it ran")
    assert caught.value.what == words
    assert "larger machine" in caught.value.fix
    with shares.take(Resources()):
        pass


def test_memory_that_nobody_knows_is_not_counted() -> None:
    with Shares(1, 0, 1).take(Resources(memory=1 << 60)) as share:
        assert share.memory == 1 << 60


def test_parallel_is_a_number_of_trials() -> None:
    with pytest.raises(ConfigError, match="parallel is at least 1, not 0"):
        Shares(1, 0, 0)


def test_many_at_once_never_have_more_than_there_is() -> None:
    shares, lock, seeds = Shares(4, 4 * _GIB, 3), threading.Lock(), random.Random(5)
    now, most = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]

    def trial(wish: Resources) -> None:
        with shares.take(wish) as share:
            has = (share.cpus, float(share.memory), 1.0)
            with lock:
                for index, part in enumerate(has):
                    now[index] += part
                    most[index] = max(most[index], now[index])
            time.sleep(0.001)
            with lock:
                for index, part in enumerate(has):
                    now[index] -= part

    wishes = [Resources(cpus=seeds.choice((0, 0.5, 1, 2, 4)),
                        memory=seeds.choice((0, _GIB, 3 * _GIB))) for _ in range(300)]
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(trial, wishes))
    assert now == pytest.approx([0, 0, 0])
    assert most[0] <= 4 + 1e-6
    assert most[1] <= 4 * _GIB
    assert most[2] == 3


def test_real_libraries_start_no_more_threads_than_they_are_told() -> None:
    said = subprocess.run(
        [sys.executable, "-c",
         "import numpy, threadpoolctl\n"
         "print({item['num_threads'] for item in threadpoolctl.threadpool_info()})\n"
         "import joblib; print(joblib.cpu_count())"],
        env={"PATH": "/usr/bin:/bin", **thread_variables(1)}, text=True, capture_output=True)
    assert said.stdout == "{1}\n1\n", said.stderr
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} <= set(THREADS)

"""Sweeps whose record is in a real PostgreSQL, shared by what would be several machines."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import sweeps
from tests.support.monorepo import Monorepo
from tests.support.postgresql import PASSWORD, QUOTED, PostgreSQL, postgresql
from toolchain.adapters.optuna import OptunaStudies
from toolchain.journal import Journal
from toolchain.sweep import read
from toolchain.sweep.draws import Draws
from toolchain.sweep.trial import COMPLETE, Ended
from toolchain.trace import Trace

_GRID = """\
method: grid
metric: {name: loss}
parallel: 2
parameters:
  x: {min: 0, max: 19}
  wait: {value: 0.15}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as found:
        yield found


@pytest.fixture
def pair(monorepo: Monorepo, another_monorepo: Callable[[str], Monorepo]) -> list[Monorepo]:
    """Two caches, with one record of trials and one tracking store: as two machines have it."""
    return [monorepo, another_monorepo("other")]


@pytest.mark.parametrize("driver", ["", "psycopg2"])
def test_either_driver_will_do(monorepo: Monorepo, server: PostgreSQL, driver: str) -> None:
    address = server.database(driver)
    sweeps.add(monorepo, "one", "method: bayes\nmetric: {name: loss}\ntrials: 3\nseed: 1\n"
                                "parameters:\n  x: {min: 0.0, max: 4.0}\n")
    monorepo.environment["OPTUNA_STORAGE"] = address
    output = monorepo.doit("sweep")
    assert re.search(r"^one +3 +3 ", output, re.MULTILINE), output
    assert states(server, address) == {"COMPLETE": 3}
    assert not (monorepo.folder / "cache/sweeps.db").exists()
    more = monorepo.doit("sweep", "trials=5")
    assert re.search(r"^one +5 +5 ", more, re.MULTILINE), more
    assert states(server, address) == {"COMPLETE": 5}
    assert len(set(sweeps.lines(monorepo, "ended"))) == 5
    assert "doit train project=one params=" in monorepo.doit("best")
    assert_hidden(monorepo, server, output + more)


def test_killed_again_and_again_a_sweep_there_ends_with_each_trial_once(
        monorepo: Monorepo, server: PostgreSQL) -> None:
    address = server.database()
    sweeps.add(monorepo, "one", _GRID)
    monorepo.environment["OPTUNA_STORAGE"] = address
    monorepo.doit("push")
    moments = random.Random(7)
    for _ in range(3):
        before = len(sweeps.lines(monorepo, "begun"))
        call = monorepo.start("sweep")
        wait_until(partial(has_begun, monorepo, before), call)
        time.sleep(moments.uniform(0, 0.5))
        os.killpg(call.pid, signal.SIGKILL)
        call.communicate()
    assert sweeps.lines(monorepo, "ended"), "the sweep was killed too early each time"
    output = monorepo.doit("sweep")
    assert re.search(r"^one +20 +20 +0 +0 ", output, re.MULTILINE), output
    assert states(server, address) == {"COMPLETE": 20}
    # A kill may come between a script's last line and its run's end; then it is run again.
    assert max(Counter(sweeps.lines(monorepo, "ended")).values()) <= 2
    assert len(sweeps.lines(monorepo, "begun")) <= 20 + 2 * 3
    assert finished(monorepo) == 20


def test_a_machine_that_is_lost_leaves_its_part_to_the_other(
        pair: list[Monorepo], server: PostgreSQL) -> None:
    address = server.database()
    calls = begin(pair, address, _GRID)
    wait_until(lambda: len(sweeps.lines(pair[0], "ended")) >= 6, *calls)
    os.killpg(calls[1].pid, signal.SIGKILL)
    calls[1].communicate()
    output, _ = calls[0].communicate(timeout=240)
    assert calls[0].returncode == 0, output
    assert re.search(r"^one +20 +20 +0 +0 ", output, re.MULTILINE), output
    assert states(server, address) == {"COMPLETE": 20}
    assert finished(pair[0]) == 20
    begun = Counter(sweeps.lines(pair[0], "begun"))
    assert len(begun) == 20
    assert sum(begun.values()) <= 20 + 2, "only what was killed is run again"


def test_two_machines_do_together_what_was_asked_for(
        pair: list[Monorepo], server: PostgreSQL) -> None:
    """Both draw, from one seed; both see all of it in the end."""
    address = server.database()
    calls = begin(pair, address, "method: random\nmetric: {name: loss}\ntrials: 16\nparallel: 2\n"
                                 "seed: 3\nparameters:\n  x: {min: 0.0, max: 4.0}\n"
                                 "  wait: {value: 0.3}\n")
    for call in calls:
        output, _ = call.communicate(timeout=240)
        assert call.returncode == 0, output
        assert "Traceback" not in output
        assert re.search(r"^one +16 +16 +0 +0 ", output, re.MULTILINE), output
    assert states(server, address) == {"COMPLETE": 16}
    assert finished(pair[0]) == 16
    assert sorted(Counter(sweeps.lines(pair[0], "begun")).values()) == [1] * 16


def test_a_target_that_one_machine_reaches_is_reached_for_the_other(
        server: PostgreSQL, tmp_path: Path) -> None:
    address = server.database()
    sweep = read.given(read.read(_GRID.replace("loss}", "loss, target: 0}"), "sweep.yaml"), {})
    one, other = (OptunaStudies(address, Trace(tmp_path / name, Journal(tmp_path / name)))
                  .open("shared", sweep) for name in ("one", "other"))
    mine, theirs = Draws(one, sweep), Draws(other, sweep)
    for value in (0.5, 0.0):
        assert mine.next() is not None
        trial = theirs.next()
        assert trial is not None
        other.settle(trial.number, Ended(state=COMPLETE, value=value))
    assert mine.next() is None
    assert mine.score.best == 0


def begin(pair: list[Monorepo], address: str, text: str) -> list[subprocess.Popen[str]]:
    """The same sweep on both, at the same moment, on an empty database."""
    for repo in pair:
        sweeps.add(repo, "one", text)
        repo.environment["OPTUNA_STORAGE"] = address
        repo.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{pair[0].folder / 'mlflow.db'}"
        repo.doit("push")
    assert len({repo.receipt("one", "push")["digest"] for repo in pair}) == 1
    return [repo.start("sweep") for repo in pair]


def states(server: PostgreSQL, address: str) -> dict[str, int]:
    rows = server.query(address, "select state, count(*) from trials group by state")
    return {row.split("|")[0]: int(row.split("|")[1]) for row in rows}


def has_begun(repo: Monorepo, before: int) -> bool:
    return len(sweeps.lines(repo, "begun")) > before


def finished(repo: Monorepo) -> int:
    """How many keys have a finished run; each has one."""
    found = Counter(key for (key,) in sweeps.rows(
        repo, "select t.value from runs r join tags t on t.run_uuid = r.run_uuid where "
              "t.key = 'toolchain.key' and r.status = 'FINISHED' and r.lifecycle_stage='active'"))
    assert max(found.values()) == 1, "a finished trial was repeated"
    return len(found)


def wait_until(condition: Callable[[], bool], *calls: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        for call in calls:
            assert call.poll() is None, call.communicate()[0]
        time.sleep(0.02)


def assert_hidden(repo: Monorepo, server: PostgreSQL, output: str) -> None:
    """The password is in nothing that was shown or kept."""
    for secret in (PASSWORD, QUOTED):
        assert secret not in output
        assert secret not in server.log
        for path in repo.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert secret.encode() not in path.read_bytes(), path

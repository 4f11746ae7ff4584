"""A sweep that is killed or interrupted at any moment: nothing is lost, repeated or too much."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support import sweeps
from tests.support.monorepo import Monorepo

_TRIALS = 24


def finished(repo: Monorepo) -> dict[str, str]:
    """run id -> training key of every finished trial."""
    if not repo.database.exists():
        return {}
    return dict(sweeps.rows(
        repo, "select r.run_uuid, t.value from runs r join tags t on t.run_uuid = r.run_uuid "
              "where t.key = 'toolchain.key' and r.status = 'FINISHED'"))


@pytest.mark.parametrize("method", ["grid", "random"])
def test_killed_again_and_again_a_sweep_ends_with_each_trial_once(monorepo: Monorepo,
                                                                  method: str) -> None:
    """Twenty kills: ten of each method."""
    points = "{min: 0.0, max: 2.3, q: 0.1}" if method == "grid" else "{min: 0.0, max: 4.0}"
    sweeps.add(monorepo, "one", f"method: {method}\nmetric: {{name: loss}}\ntrials: {_TRIALS}\n"
                                f"parallel: 2\nparameters:\n  x: {points}\n"
                                "  wait: {value: 0.1}\n")
    monorepo.doit("push")
    moments = random.Random(f"{method} 3")
    killed, seen = 0, dict[str, str]()
    for _ in range(10):
        killed += _kill_at(monorepo, moments)
        now = finished(monorepo)
        assert seen.items() <= now.items(), "a finished trial was lost"
        assert len(now) <= _TRIALS
        seen = now
    assert killed >= 5, "the sweep was too fast to be killed"
    assert seen, "the sweep was killed too early each time"
    monorepo.doit("sweep")
    assert list((monorepo.folder / "cache/work").iterdir()) == []
    done = finished(monorepo)
    assert seen.items() <= done.items()
    assert len(done) == _TRIALS
    assert max(Counter(done.values()).values()) == 1, "a finished trial was repeated"
    [(parent, status)] = sweeps.parents(monorepo)
    assert status == "FINISHED"
    statuses = Counter(sweeps.children(monorepo, parent).values())
    assert set(statuses) <= {"FINISHED", "FAILED"}
    database = sqlite3.connect(monorepo.folder / "cache/sweeps.db")
    assert database.execute("select state, count(*) from trials group by state").fetchall() == [
        ("COMPLETE", _TRIALS)]
    # What a kill cuts short is at most what was running.
    assert len(sweeps.lines(monorepo, "begun")) <= _TRIALS + 2 * killed


def _kill_at(repo: Monorepo, moments: random.Random) -> bool:
    """Kill -9 the whole call, at a moment from its start to the middle of its trials."""
    before = len(sweeps.lines(repo, "begun"))
    call = repo.start("sweep")
    if moments.random() < 0.8:
        deadline = time.monotonic() + 60
        while (len(sweeps.lines(repo, "begun")) == before and call.poll() is None
               and time.monotonic() < deadline):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
    else:
        time.sleep(moments.uniform(0.2, 2))
    running = call.poll() is None
    if running:
        os.killpg(call.pid, signal.SIGKILL)
    call.communicate()
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_running_trials(monorepo: Monorepo, number: signal.Signals) -> None:
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nparallel: 2\nparameters:\n"
                                "  x: {values: [0, 1, 2, 3]}\n  wait: {value: 60}\n")
    call = monorepo.start("sweep")
    deadline = time.monotonic() + 120
    while len(sweeps.lines(monorepo, "begun")) < 2:
        assert time.monotonic() < deadline, call.communicate()[0]
        assert call.poll() is None, call.communicate()[0]
        time.sleep(0.05)
    os.kill(call.pid, number)
    output, _ = call.communicate(timeout=60)
    assert call.returncode in (130, 143), output
    assert "Traceback" not in output
    [(parent, status)] = sweeps.parents(monorepo)
    assert status == "KILLED"
    assert list(sweeps.children(monorepo, parent).values()) == ["KILLED", "KILLED"]
    assert not _alive("train.py 0 plain 60", "train.py 1 plain 60")
    project = Path(monorepo.folder, "projects/one/sweep.yaml")
    project.write_text(project.read_text().replace("value: 60", "value: 0"))
    monorepo.doit("sweep")
    assert len(sweeps.lines(monorepo, "ended")) == 4


# Has all processors of a monorepo's cache until it is killed.
_HOLD = """\
import os, sys, time
from pathlib import Path
from toolchain.adapters.machine_shares import MachineShares
from toolchain.run import Resources
cpus = len(os.sched_getaffinity(0))
with MachineShares(Path(sys.argv[1]), cpus, 0, print).take(Resources(cpus=cpus), "x"):
    print("has", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("command", "number"), [
    ("sweep", signal.SIGINT), ("sweep", signal.SIGTERM), ("train", signal.SIGTERM)])
def test_a_signal_ends_what_waits_for_processors(monorepo: Monorepo, command: str,
                                                 number: signal.Signals) -> None:
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nparallel: 2\nparameters:\n"
                                "  x: {values: [0, 1, 2]}\n")
    monorepo.doit("push")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(monorepo.folder / "cache/shares")], text=True,
        stdout=subprocess.PIPE, env=monorepo.environment
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has\n"
        call = monorepo.start(command, "cpus=0.5")
        said = ""
        assert call.stdout is not None
        while said.count("other trainings have the processors") < (2 if command == "sweep" else 1):
            line = call.stdout.readline()
            assert line, said
            said += line
        began = time.monotonic()
        os.kill(call.pid, number)
        output, _ = call.communicate(timeout=120)
        assert time.monotonic() - began < 30, "it waited for what others have"
        assert call.returncode == 128 + number, said + output
        assert "Traceback" not in output
    finally:
        holder.kill()
        holder.communicate()
    statuses = [status for (status,) in sweeps.rows(monorepo, "select status from runs")]
    assert statuses == ["KILLED"] * (3 if command == "sweep" else 1)
    assert not sweeps.lines(monorepo, "begun")
    if number == signal.SIGINT:
        monorepo.doit("sweep", "cpus=0.5")
        assert Counter(sweeps.lines(monorepo, "ended")) == Counter(
            ["0.0 plain", "1.0 plain", "2.0 plain"])


def test_a_signal_ends_what_waits_for_another_process(monorepo: Monorepo) -> None:
    """`doit train` has the only trial's training in the same cache."""
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nparameters:\n"
                                "  x: {values: [0]}\n  wait: {value: 60}\n")
    monorepo.doit("push")
    train = monorepo.start("train", "params=x=0,wait=60")
    deadline = time.monotonic() + 120
    while not sweeps.lines(monorepo, "begun"):
        assert time.monotonic() < deadline
        assert train.poll() is None, train.communicate()[0]
        time.sleep(0.05)
    call = monorepo.start("sweep")
    said = ""
    assert call.stdout is not None
    while "has the training of trial 0; waiting for it" not in said:
        line = call.stdout.readline()
        assert line, said
        said += line
    began = time.monotonic()
    os.kill(call.pid, signal.SIGINT)
    output, _ = call.communicate(timeout=120)
    assert time.monotonic() - began < 30, "it waited for what another has"
    assert call.returncode == 130, said + output
    assert train.poll() is None
    train.send_signal(signal.SIGINT)
    train.communicate(timeout=120)
    assert len(sweeps.lines(monorepo, "begun")) == 1


def _alive(*commands: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [text for command in commands if command in text]
    return found

"""`kill -9` at any moment, and two calls at once: nothing is lost, nothing is made twice."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import time

import pytest

from tests.support.monorepo import STAGES, Monorepo, ran
from toolchain.digest import Digest, canonical_json

PROJECTS = ("one", "two", "three")


def made(repo: Monorepo) -> list[tuple[str, str]]:
    """(stage, key) of everything that was ever made in this cache, in order."""
    path = repo.folder / "cache/state.db"
    if not path.exists():
        return []
    connection = sqlite3.connect(path, timeout=30)
    try:
        return connection.execute("select stage, key from made order by seq").fetchall()
    except sqlite3.OperationalError:
        return []  # killed before its tables were there
    finally:
        connection.close()


def fill(repo: Monorepo) -> None:
    """Three projects; the tracking store is still to be made, which a kill may hit too."""
    repo.database.unlink()
    for name, requirements in zip(PROJECTS, ("alpha\n", "beta\n", "alpha\ndelta\n"), strict=True):
        repo.add(name, requirements=requirements, files={"data.txt": name * 1000})


def is_done(repo: Monorepo) -> bool:
    return all((repo.folder / "cache/out" / name / "register.json").exists() for name in PROJECTS)


def begin_anew(repo: Monorepo) -> None:
    """As before the first build."""
    for name in ("cache", "mlruns"):
        shutil.rmtree(repo.folder / name, ignore_errors=True)
    for path in (*repo.folder.glob("mlflow.db*"), *repo.folder.rglob("*.lock")):
        path.unlink()


def partial_files(repo: Monorepo) -> list[str]:
    """What killed processes left beside receipts and locks. Those are whole, and so are blobs,
    beside which `doit prune` clears up."""
    folders = [repo.folder, *(repo.folder / "projects" / name for name in PROJECTS),
               *(repo.folder / "cache/out" / name for name in PROJECTS)]
    found = [str(path) for folder in folders for path in folder.glob(".*.tmp")]
    for path in (repo.folder / "cache/blobs/sha256").glob("[0-9a-f]*"):
        assert Digest.of(path.read_bytes()).hex == path.name
    for name in PROJECTS:
        for stage in STAGES:
            data = (repo.folder / "cache/out" / name / f"{stage}.json").read_bytes()
            assert canonical_json(json.loads(data)) == data.rstrip(b"\n")
        lock = (repo.folder / "projects" / name / "requirements.lock").read_text()
        assert lock.endswith("\n")
        assert lock.count("--hash=sha256:") == len(repo.receipt(name, "resolve")["packages"])
    assert (repo.folder / "base.lock").read_text().endswith("]\n")
    return found


@pytest.mark.timeout(900)
def test_killed_twenty_times_a_build_ends_well_and_repeats_nothing(monorepo: Monorepo) -> None:
    fill(monorepo)
    seconds = random.Random(7)
    killed = 0
    deadline = time.monotonic() + 400
    while killed < 20:
        assert time.monotonic() < deadline, f"only {killed} builds were there to be killed"
        if is_done(monorepo):  # one that has nothing to do cannot be hurt
            begin_anew(monorepo)
        # From before anything is on record to the middle of training.
        killed += monorepo.kill_after(seconds.uniform(0.15, 2.5), "register")
    if is_done(monorepo):
        begin_anew(monorepo)
        assert monorepo.kill_after(1.0, "register")
    output = monorepo.doit("register")
    for name in PROJECTS:
        assert set(ran(output, name)) == set(STAGES)
        assert monorepo.receipt(name, "train")["status"] == "FINISHED"
    record = made(monorepo)
    assert len(record) == len(set(record)), "something was made twice"
    assert partial_files(monorepo) == []
    assert all(value == "fresh" for name in PROJECTS
               for value in ran(monorepo.doit("register"), name).values())
    database = sqlite3.connect(monorepo.database)
    statuses = [status for (status,) in database.execute("select status from runs")]
    assert statuses.count("FINISHED") == len(PROJECTS)
    assert "RUNNING" not in statuses
    assert database.execute("select count(*) from model_versions").fetchone() == (3,)


def test_two_calls_at_once_make_each_key_once(monorepo: Monorepo) -> None:
    fill(monorepo)
    calls = [monorepo.start("register") for _ in range(2)]
    outputs = [call.communicate(timeout=300)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], outputs
    record = made(monorepo)
    assert len(record) == len(set(record)), "something was made twice"
    database = sqlite3.connect(monorepo.database)
    assert database.execute("select count(*) from runs").fetchone() == (len(PROJECTS),)


def test_four_processes_of_one_call_make_each_key_once(monorepo: Monorepo) -> None:
    fill(monorepo)
    output = monorepo.doit("-n", "4", "register")
    for name in PROJECTS:
        assert set(ran(output, name)) == set(STAGES)
    record = made(monorepo)
    assert len(record) == len(set(record)), "something was made twice"
    assert set(ran(monorepo.doit("-n", "4", "register"), "two").values()) == {"fresh"}


def test_four_threads_of_one_call_work_too(monorepo: Monorepo) -> None:
    fill(monorepo)
    monorepo.doit("-n", "4", "-P", "thread", "push")
    record = made(monorepo)
    assert len(record) == len(set(record)), "something was made twice"
    assert set(ran(monorepo.doit("push"), "three").values()) == {"fresh"}


def test_an_interrupt_marks_the_run_killed_and_reaches_the_job(monorepo: Monorepo) -> None:
    import os
    import signal

    folder = monorepo.add("one")
    (folder / "train.py").write_text(
        "import os, signal, time, pathlib\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"  # ends without a word of its own
        "pathlib.Path(os.environ['WITNESS'], 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n")
    monorepo.environment["WITNESS"] = str(monorepo.folder)
    for number in (signal.SIGINT, signal.SIGTERM):
        call = monorepo.start("train")
        witness = monorepo.folder / "pid"
        deadline = time.monotonic() + 60
        while not (witness.exists() and witness.read_text()):
            assert time.monotonic() < deadline, call.communicate()[0]
            time.sleep(0.05)
        os.kill(call.pid, number)
        output, _ = call.communicate(timeout=60)
        assert call.returncode != 0
        assert "Traceback" not in output, output
        pid = int(witness.read_text())
        witness.unlink()
        assert not _is_alive(pid), "the job outlived its call"
    database = sqlite3.connect(monorepo.database)
    assert database.execute("select status from runs").fetchall() == [("KILLED",), ("KILLED",)]


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_said_at_the_end_of_a_call_that_failed_in_another_process(
        monorepo: Monorepo) -> None:
    """The process that asks what is fresh has loaded little when its helpers did the work."""
    monorepo.add("one")
    monorepo.add("two")
    monorepo.doit("parse")
    monorepo.doit("-n", "2", "resolve", "image.platform=linux/arm64", expect=2)

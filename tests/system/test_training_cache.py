"""One training for one key, wherever it is asked for; and whether it can be repeated."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.monorepo import Monorepo, ran

# Trains for a while, and logs a metric and a model as the database and the run's folder have them.
# What it does besides is said in files of the workspace, so that the key is the same.
_TRAIN = '''\
import os, pathlib, sqlite3, sys, time
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
run, told = os.environ["MLFLOW_RUN_ID"], pathlib.Path(os.environ["TOLD"])
with open(told / "began", "a") as witness:
    witness.write(run + "\\n")
time.sleep(float((told / "seconds").read_text()))
if (told / "edit").exists():
    pathlib.Path((told / "edit").read_text()).write_text("edited meanwhile")
if (told / "fail").exists():
    raise SystemExit(3)
score = 0.5 + ((told / "began").read_text().count("\\n") if (told / "unsteady").exists() else 0)
with sqlite3.connect(database, timeout=60) as connection:
    for table in ("metrics", "latest_metrics"):
        connection.execute(f"insert into {table} (key, value, timestamp, run_uuid, step, is_nan)"
                           " values ('score', ?, 1, ?, 0, 0)", (score, run))
    uri, = connection.execute("select artifact_uri from runs where run_uuid=?", (run,)).fetchone()
model = pathlib.Path(uri.removeprefix("file://"), "model")
model.mkdir(parents=True)
(model / "MLmodel").write_text(
    f"flavors: {{}}\\nrun_id: {run}\\nutc_time_created: {time.time()}\\n")
(model / "weights").write_bytes(os.urandom(8) if (told / "random").exists() else b"weights")
'''
_MLPROJECT = """\
name: one
entry_points:
  main:
    parameters:
      rows: {type: path, default: rows.csv}
    command: python train.py {rows}
"""


class Told:
    """What the training scripts of a test are told, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.say("seconds", "0")

    def say(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    @property
    def began(self) -> list[str]:
        path = self.folder / "began"
        return path.read_text().split() if path.exists() else []

    def until_begun(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.began) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "told")


@pytest.fixture
def machine(tmp_path: Path, told: Told, another_monorepo: Callable[[str], Monorepo],
            empty_store: Path) -> Callable[[str], Monorepo]:
    """Clones with caches of their own and one tracking store."""
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store")

    def make(name: str) -> Monorepo:
        repo = another_monorepo(name)
        repo.environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/store/mlflow.db",
                             "TOLD": str(told.folder)}
        project = repo.add("one", mlproject=_MLPROJECT, files={"rows.csv": "1,2\n"})
        (project / "train.py").write_text(_TRAIN)
        repo.doit("push")
        return repo

    return make


def statuses(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "store/mlflow.db") as connection:
        return dict(connection.execute(
            "select run_uuid, status from runs where lifecycle_stage='active'").fetchall())


def tags(folder: Path, run_id: str) -> dict[str, str]:
    with sqlite3.connect(folder / "store/mlflow.db") as connection:
        return dict(connection.execute("select key, value from tags where run_uuid=?",
                                       (run_id,)).fetchall())


def opened_by(pid: int) -> list[str]:
    """The files that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return found


def test_two_machines_at_once_train_once(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    told.say("seconds", "4")
    (tmp_path / "store/mlflow.db").unlink()  # they make it at the same moment, too
    clones = [machine("a"), machine("b")]
    calls = [clone.start("train") for clone in clones]
    outputs = [call.communicate(timeout=200)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], outputs
    (run_id,) = told.began
    assert statuses(tmp_path) == {run_id: "FINISHED"}
    assert [clone.receipt("one", "train")["run_id"] for clone in clones] == [run_id, run_id]
    waiting = [line for output in outputs for line in output.splitlines() if "waiting for" in line]
    assert len(waiting) == 1, outputs
    assert waiting[0].startswith(f"train one  run {run_id} of ")
    assert all(ran(clone.doit("train"), "one")["train"] == "fresh" for clone in clones)


def test_another_machine_goes_on_when_one_is_killed(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    import signal

    told.say("seconds", "60")
    first, second = machine("a"), machine("b")
    call = first.start("train")
    told.until_begun(1)
    told.say("seconds", "0")
    waiting = second.start("train")
    time.sleep(4)
    os.killpg(call.pid, signal.SIGKILL)
    call.communicate()
    output, _ = waiting.communicate(timeout=100)
    assert waiting.returncode == 0, output
    dead, new = told.began
    assert statuses(tmp_path) == {dead: "FAILED", new: "FINISHED"}
    assert f"reused run {new}" in first.doit("train")


def test_a_failure_is_not_shared(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    told.say("seconds", "3")
    told.say("fail")
    first, second = machine("a"), machine("b")
    call = first.start("train")
    told.until_begun(1)
    waiting = second.start("train")
    output, _ = call.communicate(timeout=100)
    assert call.returncode == 1, output
    (told.folder / "fail").unlink()
    output, _ = waiting.communicate(timeout=100)
    assert waiting.returncode == 0, output
    assert sorted(statuses(tmp_path).values()) == ["FAILED", "FINISHED"]


def test_a_training_that_can_be_repeated_is_proved_so(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    repo = machine("a")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    repo.environment["TMPDIR"] = str(scratch)
    output = repo.doit("train", "check=1")
    assert list(scratch.iterdir()) == []
    first, second = told.began
    assert f"run {second} gave the same: 1 metrics, model (2 files)" in output
    assert repo.receipt("one", "train")["run_id"] == first
    assert tags(tmp_path, first)["toolchain.check"] == f"the same (run {second})"
    assert tags(tmp_path, second)["toolchain.check"] == f"the same (run {first})"
    assert "toolchain.key" not in tags(tmp_path, second)
    # The run of the key is still the first, and there is nothing to do.
    assert ran(repo.doit("train"), "one")["train"] == "fresh"
    assert "check=1" not in repo.doit("train", "check=1")
    assert len(told.began) == 3


@pytest.mark.parametrize(("what", "words"), [
    ("unsteady", "metric score: 1.5 and 2.5"), ("random", "model file weights")])
def test_a_training_that_cannot_be_repeated_is_found_out(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo], what: str, words: str
) -> None:
    told.say(what)
    repo = machine("a")
    output = repo.doit("train", "check=1", expect=1)
    first, second = told.began
    assert f"two trainings with the same key differ: {words}" in output
    assert f"at runs {first} and {second}" in output
    assert "fix: seed every source of randomness" in output
    assert tags(tmp_path, first)["toolchain.check"] == f"differs: {words} (run {second})"
    assert statuses(tmp_path) == {first: "FINISHED", second: "FINISHED"}
    # The training itself went well.
    assert f"reused run {first}" in repo.doit("train")


def test_an_input_that_changes_while_it_is_used_spoils_the_run(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    rows = tmp_path / "outside.csv"
    rows.write_text("1,2\n")
    told.say("edit", str(rows))
    repo = machine("a")
    asked = ("train", "project=one", f"params=rows={rows}")
    output = repo.doit(*asked, expect=1)
    (spoiled,) = told.began
    assert f"changed while it was used: parameter 'rows' ({rows})" in output
    assert f"run {spoiled}" in output
    assert statuses(tmp_path) == {spoiled: "FINISHED"}
    assert "toolchain.key" not in tags(tmp_path, spoiled)
    assert tags(tmp_path, spoiled)["toolchain.changed"] == f"parameter 'rows' ({rows})"
    # Neither the old content nor the new one has a run.
    for text in ("1,2\n", "edited meanwhile"):
        rows.write_text(text)
        (told.folder / "edit").unlink(missing_ok=True)
        assert "reused" not in repo.doit(*asked)
    assert len(told.began) == 3


def test_an_input_that_changes_before_the_job_begins_spoils_the_run_as_well(
    tmp_path: Path, told: Told, machine: Callable[[str], Monorepo]
) -> None:
    rows = tmp_path / "outside.csv"
    rows.write_text("1,2\n")
    repo = machine("a")
    asked = ("train", "project=one", f"params=rows={rows}")
    with sqlite3.connect(tmp_path / "store/mlflow.db", isolation_level=None) as connection:
        connection.execute("begin exclusive")  # so that it waits with its key in hand
        call = repo.start(*asked)
        deadline = time.monotonic() + 60
        while str(tmp_path / "store/mlflow.db") not in opened_by(call.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rows.write_text("3,4\n")
        connection.execute("rollback")
    output = call.communicate(timeout=120)[0]
    assert f"changed while it was used: parameter 'rows' ({rows})" in output
    rows.write_text("1,2\n")
    assert "reused" not in repo.doit(*asked)
    assert len(told.began) == 2


def test_a_file_of_the_project_that_is_edited_meanwhile_is_named(
    told: Told, machine: Callable[[str], Monorepo]
) -> None:
    """The job has a copy of its own, so its run is good for what it was begun with."""
    repo = machine("a")
    path = repo.folder / "projects/one/rows.csv"
    told.say("edit", str(path))
    output = repo.doit("train")
    (run_id,) = told.began
    assert (f"note: one: rows.csv changed meanwhile; run {run_id} is of the files as they were "
            "when it began") in output
    assert "reused" not in repo.doit("train")
    path.write_text("1,2\n")
    assert f"reused run {run_id}" in repo.doit("train") or "up to date" in repo.doit("train")
    assert repo.receipt("one", "train")["run_id"] == run_id

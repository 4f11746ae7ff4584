"""What changed x which stages run: the table that an incremental build stands on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.debs import Mirror
from tests.support.monorepo import STAGES, Monorepo, ran

# m: made anew; r: reused from the record; -: up to date, nothing done.
# Columns:                                parse resolve base layer push train register
TABLE = {
    "nothing":                            "-------",
    "touch every file":                   "-------",
    "comment in MLproject":               "m------",
    "order of keys in MLproject":         "m------",
    "comment in requirements.txt":        "m------",
    "line ends of requirements.txt":      "m------",
    "source file edited":                 "---mmmm",
    "same size, same mtime edit":         "---mmmm",
    "source edited and reverted":         "-------",
    "new file":                           "---mmmm",
    "new file that .dockerignore names":  "-------",
    "new secret file":                    "-------",
    "file made executable":               "---mmmm",
    "dependency added":                   "mmmmmmm",
    "default of a parameter":             "m--mmmm",
    "receipt deleted":                    "---r---",
    "blob of a package layer corrupted":  "--m-m--",
    "blob of the project layer deleted":  "---mm--",
    "image layout deleted":               "----m--",
    "trained run deleted":                "-----mm",
}


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory, mirror: Mirror, wheels: Path) -> Monorepo:
    """Project `one`, every stage done; the first of them makes the tracking store."""
    repo = Monorepo(tmp_path_factory.mktemp("table") / "workspace", mirror, wheels)
    repo.add("one", files={"data/rows.csv": "1,2\n", ".dockerignore": "ignored*\n"})
    repo.doit("register", "project=one")
    _copy(repo.folder, repo.folder.with_name("master"))
    return repo


@pytest.fixture
def built(master: Monorepo) -> Monorepo:
    """The same workspace at the same place, as it was when it was built."""
    shutil.rmtree(master.folder)
    _copy(master.folder.with_name("master"), master.folder)
    return master


@pytest.mark.parametrize("change", TABLE)
def test_only_what_depends_on_a_change_runs(built: Monorepo, change: str) -> None:
    CHANGES[change](built, built.folder / "projects/one")
    stages = ran(built.doit("register", "project=one"), "one")
    letters = {"made": "m", "reused": "r", "fresh": "-"}
    assert "".join(letters[stages[stage]] for stage in STAGES) == TABLE[change]
    # Whatever ran, nothing is left to do.
    assert set(ran(built.doit("register", "project=one"), "one").values()) == {"fresh"}


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)  # keeps hard links, unlike shutil


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _touch_all(repo: Monorepo, folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path)


def _reorder(repo: Monorepo, folder: Path) -> None:
    (folder / "MLproject").write_text(
        "entry_points:\n    main:\n        command: 'python train.py {rate}'\n"
        "        parameters: {rate: {default: 0.5, type: float}}\nname: one\n")


def _same_size_and_mtime(repo: Monorepo, folder: Path) -> None:
    path = folder / "data/rows.csv"
    before = path.stat()
    path.write_text("1,3\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _edit_and_revert(repo: Monorepo, folder: Path) -> None:
    _edit(folder / "train.py", "trained with", "TRAINED WITH")
    _edit(folder / "train.py", "TRAINED WITH", "trained with")


def _corrupt_package_layer(repo: Monorepo, folder: Path) -> None:
    (layer,) = [item for item in repo.receipt("one", "base")["layers"]
                if item["label"].startswith("alpha ")]
    path = repo.folder / "cache/blobs/sha256" / layer["digest"].removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def _delete_project_layer(repo: Monorepo, folder: Path) -> None:
    (layer,) = repo.receipt("one", "layer")["layers"]
    name = layer["digest"].removeprefix("sha256:")
    for path in (repo.folder / "cache").rglob(name):
        path.unlink()


def _delete_layout(repo: Monorepo, folder: Path) -> None:
    shutil.rmtree(repo.folder / "cache/registry")


def _delete_run(repo: Monorepo, folder: Path) -> None:
    connection = sqlite3.connect(repo.database)
    connection.execute("update runs set lifecycle_stage='deleted'")
    connection.commit()
    connection.close()


CHANGES: dict[str, Callable[[Monorepo, Path], object]] = {
    "nothing": lambda repo, folder: None,
    "touch every file": _touch_all,
    "comment in MLproject":
        lambda repo, folder: _edit(folder / "MLproject", "entry_points:", "# new\nentry_points:"),
    "order of keys in MLproject": _reorder,
    "comment in requirements.txt":
        lambda repo, folder: (folder / "requirements.txt").write_text("# why\nalpha  # so\n"),
    "line ends of requirements.txt":
        lambda repo, folder: (folder / "requirements.txt").write_bytes(b"\r\nalpha\r\n"),
    "source file edited":
        lambda repo, folder: _edit(folder / "train.py", "trained with", "TRAINED WITH"),
    "same size, same mtime edit": _same_size_and_mtime,
    "source edited and reverted": _edit_and_revert,
    "new file": lambda repo, folder: (folder / "more.py").write_text("x = 1\n"),
    "new file that .dockerignore names":
        lambda repo, folder: (folder / "ignored.bin").write_text("x"),
    "new secret file": lambda repo, folder: (folder / ".env.local").write_text("KEY=1"),
    "file made executable": lambda repo, folder: (folder / "train.py").chmod(0o755),
    "dependency added":
        lambda repo, folder: (folder / "requirements.txt").write_text("alpha\nbeta\n"),
    "default of a parameter": lambda repo, folder: _edit(folder / "MLproject", "0.5", "0.7"),
    "receipt deleted":
        lambda repo, folder: (repo.folder / "cache/out/one/layer.json").unlink(),
    "blob of a package layer corrupted": _corrupt_package_layer,
    "blob of the project layer deleted": _delete_project_layer,
    "image layout deleted": _delete_layout,
    "trained run deleted": _delete_run,
}


def test_a_second_project_with_the_same_lock_builds_no_base(built: Monorepo) -> None:
    built.add("two", files={"other.txt": "two\n"})
    output = built.doit("push", "project=two")
    assert "base two  reused  " in output
    assert built.receipt("two", "base") == built.receipt("one", "base")


def test_one_more_package_builds_one_layer(built: Monorepo) -> None:
    built.add("two", requirements="alpha\ndelta\n")
    assert "base two  reused 4 layers, built 1 (" in built.doit("push", "project=two")


def test_other_parameters_train_again_and_known_ones_do_not(built: Monorepo) -> None:
    first = built.receipt("one", "train")["run_id"]
    assert ran(built.doit("train", "project=one", "params=rate=0.9"), "one")["train"] == "made"
    assert built.receipt("one", "train")["run_id"] != first
    again = ran(built.doit("train", "project=one", "params=rate=5e-1"), "one")
    assert again["train"] == "reused"
    assert built.receipt("one", "train")["run_id"] == first


def test_force_trains_again(built: Monorepo) -> None:
    first = built.receipt("one", "train")["run_id"]
    assert ran(built.doit("train", "project=one", "force=1"), "one")["train"] == "made"
    assert built.receipt("one", "train")["run_id"] != first


def test_a_run_is_found_by_its_key_when_the_cache_is_gone(built: Monorepo) -> None:
    first = built.receipt("one", "train")
    shutil.rmtree(built.folder / "cache")
    assert f"reused run {first['run_id']}" in built.doit("train", "project=one")
    assert built.receipt("one", "train") == first


def test_a_path_parameter_counts_by_content(monorepo: Monorepo) -> None:
    folder = monorepo.add("one", mlproject=(
        "name: one\nentry_points:\n  main:\n    parameters:\n      data: path\n"
        "    command: python train.py {data}\n"))
    outside = monorepo.folder / "rows.csv"
    outside.write_text("1\n")
    call = ("train", "project=one", f"params=data={os.path.relpath(outside, folder)}")
    assert ran(monorepo.doit(*call), "one")["train"] == "made"
    assert ran(monorepo.doit(*call), "one")["train"] == "fresh"
    outside.write_text("2\n")
    assert ran(monorepo.doit(*call), "one")["train"] == "made"


def test_the_shortcut_sees_data_outside_the_project(monorepo: Monorepo) -> None:
    folder = monorepo.add("one", mlproject=(
        "name: one\nentry_points:\n  main:\n    parameters:\n      data: path\n"
        "    command: python train.py {data}\n"))
    data = monorepo.folder / "data"
    (data / "empty").mkdir(parents=True)
    (data / "rows.csv").write_text("1\n")
    call = ("train", "project=one", f"params=data={os.path.relpath(data, folder)}")
    assert ran(monorepo.doit(*call), "one")["train"] == "made"
    for change in (lambda: (data / "rows.csv").write_text("2\n"),
                   lambda: (data / "empty/more.csv").write_text("3\n"),
                   lambda: (data / "rows.csv").rename(data / "other.csv")):
        time.sleep(2.5)  # until times are believed (toolchain.tree, rule 2)
        assert ran(monorepo.doit(*call), "one")["train"] == "fresh"
        assert recorded(monorepo)
        change()
        assert ran(monorepo.doit(*call), "one")["train"] == "made"


def test_upgrade_moves_the_pins_and_nothing_else_does(built: Monorepo) -> None:
    lock = built.folder / "projects/one/requirements.lock"
    text = lock.read_text().replace("alpha==1.1", "alpha==1.0")
    wheels = {path.name: path for path in built.wheels.glob("alpha-*")}
    old = hashlib.sha256(wheels["alpha-1.0-py3-none-any.whl"].read_bytes()).hexdigest()
    new = hashlib.sha256(wheels["alpha-1.1-py3-none-any.whl"].read_bytes()).hexdigest()
    lock.write_text(text.replace(new, old))
    built.doit("push", "project=one")
    assert built.receipt("one", "resolve")["packages"][0]["version"] == "1.0"
    assert "alpha 1.0 -> 1.1" in built.doit("push", "project=one", "upgrade=1")
    assert built.receipt("one", "resolve")["packages"][0]["version"] == "1.1"


def recorded(monorepo: Monorepo) -> list[tuple[str, ...]]:
    """The stages that the shortcut vouches for."""
    with contextlib.closing(sqlite3.connect(monorepo.folder / "cache/state.db")) as database:
        return database.execute("select project, stages from fresh").fetchall()


def test_the_shortcut_keeps_what_it_knew(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("base")
    time.sleep(2.1)
    monorepo.doit("base")
    assert recorded(monorepo) == [("one", "base parse resolve")]
    monorepo.doit("push")
    time.sleep(2.1)
    monorepo.doit("base")  # its receipts are there; those of push came after
    for _ in range(2):
        monorepo.doit("push")
        assert recorded(monorepo) == [("one", "base layer parse push resolve")]


@pytest.mark.parametrize("gone", ["digest", "config", "layer"])
def test_the_shortcut_misses_what_is_gone_from_the_layout(monorepo: Monorepo, gone: str) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    time.sleep(2.1)
    monorepo.doit("push")
    assert recorded(monorepo)
    digest = (monorepo.receipt("one", "base")["layers"][0]["digest"] if gone == "layer"
              else monorepo.receipt("one", "push")[gone])
    blob = monorepo.folder / "cache/registry/mlflow/trainer/blobs/sha256" / digest[7:]
    blob.unlink()
    assert ran(monorepo.doit("push"), "one")["push"] == "made"
    assert blob.exists()


def test_the_shortcut_misses_a_layer_that_is_gone(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("base")
    time.sleep(2.1)
    monorepo.doit("base")
    assert recorded(monorepo)
    digest = monorepo.receipt("one", "base")["layers"][0]["digest"]
    (monorepo.folder / "cache/blobs/sha256" / digest[7:]).unlink()
    assert ran(monorepo.doit("base"), "one")["base"] == "made"


def test_an_edit_during_a_long_call_is_seen_by_the_next(monorepo: Monorepo) -> None:
    one = monorepo.add("one")
    with open(monorepo.folder / "dodo.py", "a") as file:
        file.write("def task_slow():\n    return {'actions': ['echo slow', 'sleep 4'], "
                   "'verbosity': 2}\n")
    monorepo.doit("push")
    time.sleep(2.1)
    call = monorepo.start("push", "slow")
    assert call.stdout is not None
    while call.stdout.readline().strip() != "slow":
        assert call.poll() is None
    (one / "train.py").write_text("print('edited')\n")
    call.communicate(timeout=60)
    assert ran(monorepo.doit("push", "project=one"), "one")["layer"] == "made"


def test_the_shortcut_sees_what_the_stages_see(built: Monorepo) -> None:
    time.sleep(2.1)  # the grain of file times: before that nothing is trusted
    for _ in range(2):  # the first call puts the shortcut on record, the second takes it
        assert set(ran(built.doit("register", "project=one"), "one").values()) == {"fresh"}
    _same_size_and_mtime(built, built.folder / "projects/one")
    assert ran(built.doit("register", "project=one"), "one")["layer"] == "made"


def test_explain_names_the_input_that_changed(built: Monorepo) -> None:
    assert built.doit("explain", "project=one").count("up to date") == len(STAGES)
    (built.folder / "projects/one/train.py").write_text("print(1)\n")
    output = built.doit("explain", "project=one")
    assert "layer one  would run: changed files.train.py" in output
    assert "base one  up to date" in output
    assert "push one  runs if the result of layer changes" in output

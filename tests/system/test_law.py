"""A cached build equals a clean build, byte for byte; and a broken cache fails that law."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.monorepo import Monorepo

Make = Callable[[str], Monorepo]


def manifest(repo: Monorepo, project: str) -> str:
    """The pushed manifest's digest, after checking that every blob it names is what it says."""
    import hashlib

    blobs = repo.folder / "cache/registry/mlflow/trainer/blobs/sha256"
    digest: str = repo.receipt(project, "push")["digest"]
    parsed = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    for item in [{"digest": digest}, parsed["config"], *parsed["layers"]]:
        name = item["digest"].removeprefix("sha256:")
        assert hashlib.sha256((blobs / name).read_bytes()).hexdigest() == name
    return digest


def copy_sources(source: Monorepo, target: Monorepo) -> None:
    """What a clone has: everything but the cache and the tracking store."""
    shutil.rmtree(target.folder / "projects")
    shutil.copytree(source.folder / "projects", target.folder / "projects")
    for name in ("base.lock", "pyproject.toml"):
        shutil.copy(source.folder / name, target.folder / name)


def test_an_incremental_build_equals_a_clean_one(
    monorepo: Monorepo, another_monorepo: Make
) -> None:
    folder = monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.doit("push")
    (folder / "train.py").write_text("print('second')\n")
    (folder / "requirements.txt").write_text("alpha\nbeta\ndelta\n")
    monorepo.doit("push")
    (folder / "extra").mkdir()
    (folder / "extra/notes.txt").write_text("third\n")
    monorepo.doit("push")

    clean = another_monorepo("elsewhere/and/deeper")
    copy_sources(monorepo, clean)
    clean.doit("push")
    assert manifest(clean, "one") == manifest(monorepo, "one")
    for stage in ("parse", "resolve", "base", "layer", "push"):
        assert clean.receipt("one", stage) == monorepo.receipt("one", stage)


def test_a_cache_that_lies_fails_the_law(monorepo: Monorepo, another_monorepo: Make) -> None:
    """The law can fail: a record that gives one project's layer to another's key breaks it."""
    import sqlite3

    monorepo.add("one")
    monorepo.add("two", files={"two.txt": "2\n"})
    monorepo.doit("push")
    state = sqlite3.connect(monorepo.folder / "cache/state.db")
    keys = dict(state.execute("select project, key from current where stage='layer'").fetchall())
    state.execute("update trace set value = (select value from trace where stage='layer' and "
                  "key=?) where stage='layer' and key=?", (keys["two"], keys["one"]))
    state.execute("delete from trace where stage='push'")
    state.execute("delete from fresh")
    state.commit()
    state.close()
    shutil.rmtree(monorepo.folder / "cache/registry")
    monorepo.doit("push", "project=one")

    clean = another_monorepo("clean")
    copy_sources(monorepo, clean)
    clean.doit("push", "project=one")
    assert manifest(clean, "one") != manifest(monorepo, "one")


def test_a_clone_with_a_warm_registry_builds_nothing(
    monorepo: Monorepo, another_monorepo: Make
) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    second = another_monorepo("second")
    copy_sources(monorepo, second)
    (second.folder / "cache").mkdir()
    shutil.copytree(monorepo.folder / "cache/registry", second.folder / "cache/registry")
    output = second.doit("push")
    assert "base one  4 layers in the registry" in output
    assert "layer one  in the registry" in output
    assert "push one  already at " in output
    assert list((second.folder / "cache/blobs/sha256").glob("*")) == []
    assert second.receipt("one", "base") == monorepo.receipt("one", "base")
    # What only the registry had is made when it is needed here.
    assert "trained with" in second.doit("train")


def test_a_lock_names_no_place(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    monorepo.doit("push")
    for path in (folder / "requirements.lock", monorepo.folder / "base.lock"):
        text = path.read_text()
        assert "://" not in text
        assert str(monorepo.folder) not in text
        assert str(monorepo.wheels) not in text


def test_receipts_hold_nothing_of_the_machine(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    for path in (monorepo.folder / "cache/out/one").glob("*.json"):
        text = path.read_text()
        assert str(monorepo.folder) not in text
        assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_one_project_does_not_wait_for_a_broken_one(monorepo: Monorepo) -> None:
    monorepo.add("good")
    monorepo.add("broken", mlproject="name: broken\nentry_points: [\n")
    assert "push good" in monorepo.doit("push", "project=good")
    output = monorepo.doit("--continue", "push", expect=2)  # doit's own status
    assert "not valid YAML" in output
    assert "projects/broken/MLproject:" in output
    assert "push good  up to date" in output


def test_folders_of_the_cache_can_be_elsewhere(monorepo: Monorepo, tmp_path: Path) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", f"cache={tmp_path / 'far'}")
    assert "push one  sent" in output
    assert (tmp_path / "far/out/one/push.json").exists()
    assert not (monorepo.folder / "cache").exists()

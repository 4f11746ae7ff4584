"""The shortcut vouches for stages only while nothing that decided them has moved."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain import attest, image, layer, lock, model, run
from toolchain.attest import sbom
from toolchain.digest import Digest
from toolchain.fresh import GENERATION, Shortcut, settings_key
from toolchain.journal import Journal
from toolchain.layer import runner
from toolchain.layer.compression import LIBDEFLATE
from toolchain.lock import conda
from toolchain.stages import parse, push
from toolchain.tree import walk

STAGES = frozenset({"parse", "push"})


@pytest.fixture(autouse=True)
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock ten seconds on: what the tests write lies beyond the grain of file times."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a project and two outputs."""
    root = tmp_path / "workspace"
    (root / "projects/one/sub").mkdir(parents=True)
    (root / "projects/one/MLproject").write_text("name: one\n")
    (root / "projects/one/sub/train.py").write_text("print(1)\n")
    (root / "base.lock").write_text("pins\n")
    (root / "receipt.json").write_text("{}\n")
    return root


def recorded(root: Path, journal: Journal, *more: str) -> None:
    outputs = [root / name for name in ("base.lock", "receipt.json", *more)]
    Shortcut(root, journal).record("one", list(walk(root / "projects/one")), "settings", STAGES,
                                   outputs, time.time_ns())


def fresh(root: Path, journal: Journal, settings: str = "settings") -> frozenset[str]:
    """What the next call finds."""
    return Shortcut(root, journal).stages("one", root / "projects/one", settings)


def test_nothing_is_fresh_before_it_was_recorded(root: Path, journal: Journal) -> None:
    assert fresh(root, journal) == frozenset()


def test_what_was_recorded_stays_fresh_while_nothing_moves(root: Path, journal: Journal) -> None:
    recorded(root, journal)
    assert fresh(root, journal) == fresh(root, journal) == STAGES
    assert Shortcut(root, journal).stages("two", root / "projects/one", "settings") == frozenset()
    assert fresh(root, journal, "other settings") == frozenset()


def same_size_same_mtime(root: Path) -> None:
    path = root / "projects/one/sub/train.py"
    before = path.stat()
    time.sleep(0.02)  # the clock of files ticks every 10 ms at least
    path.write_text("print(2)\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [
    lambda root: (root / "projects/one/sub/train.py").write_text("print(22)\n"),
    same_size_same_mtime,
    lambda root: (root / "projects/one/sub/train.py").unlink(),
    lambda root: (root / "projects/one/sub/train.py").rename(root / "projects/one/train.py"),
    lambda root: (root / "projects/one/new.py").touch(),
    lambda root: (root / "projects/one/sub/train.py").chmod(0o755),
    lambda root: shutil.rmtree(root / "projects/one"),
    lambda root: os.mkfifo(root / "projects/one/pipe"),
    lambda root: (root / "receipt.json").unlink(),
    lambda root: (root / "receipt.json").write_text("{...}\n"),
    lambda root: (root / "base.lock").write_text("other pins\n"),
])
def test_any_change_of_files_or_outputs_ends_it(
    root: Path, journal: Journal, change: Callable[[Path], object]
) -> None:
    recorded(root, journal)
    change(root)
    assert fresh(root, journal) == frozenset()


@pytest.mark.parametrize("path", [".git/HEAD", ".env", "__pycache__/a.pyc", "mlruns/0/x"])
def test_what_is_never_part_of_a_project_does_not_count(
    root: Path, journal: Journal, path: str
) -> None:
    recorded(root, journal)
    (root / "projects/one" / path).parent.mkdir(parents=True, exist_ok=True)
    (root / "projects/one" / path).touch()
    assert fresh(root, journal) == STAGES


def test_an_output_that_comes_later_ends_it(root: Path, journal: Journal) -> None:
    recorded(root, journal, "mlflow.db")
    assert fresh(root, journal) == STAGES
    (root / "mlflow.db").touch()
    assert fresh(root, journal) == frozenset()


@pytest.mark.parametrize("path", ["projects/one/MLproject", "receipt.json"])
def test_what_changed_a_moment_ago_is_not_recorded(
    root: Path, journal: Journal, path: str
) -> None:
    ahead = time.time_ns()
    os.utime(root / path, ns=(ahead, ahead))
    recorded(root, journal)
    assert fresh(root, journal) == frozenset()


@pytest.mark.parametrize("path", ["projects/one/sub/train.py", "receipt.json"])
def test_what_changed_during_a_long_call_is_not_recorded(
    root: Path, journal: Journal, path: str
) -> None:
    looked_at, since = list(walk(root / "projects/one")), time.time_ns()
    ahead = since + 5_000_000_000
    os.utime(root / path, ns=(ahead, ahead))
    Shortcut(root, journal).record("one", looked_at, "settings", STAGES,
                                   [root / "receipt.json"], since)
    assert fresh(root, journal) == frozenset()


def test_what_was_deleted_during_a_call_is_not_recorded(root: Path, journal: Journal) -> None:
    looked_at = list(walk(root / "projects/one"))
    (root / "projects/one/sub/train.py").unlink()
    Shortcut(root, journal).record("one", looked_at, "settings", STAGES, [], time.time_ns())
    assert fresh(root, journal) == frozenset()


def test_who_changes_what_stages_make_raises_the_generation() -> None:
    """If this fails, raise toolchain.fresh.GENERATION and put down here what both are now."""
    versions = [attest.VERSION, sbom.SCHEMA, image._SCHEMA, layer.LAYOUT_VERSION,
                layer.SYSTEM_VERSION, LIBDEFLATE.identity, lock._SCHEMA, conda._SCHEMA,
                model._SCHEMA, parse._SCHEMA, push._SCHEMA, run._SCHEMA, runner.key().hex]
    assert (GENERATION, Digest.of_json(versions).hex[:12]) == (2, "829c8d0910fa")


def test_settings_are_told_apart_by_value_not_by_order() -> None:
    assert settings_key({"a": 1, "b": "x"}) == settings_key({"b": "x", "a": 1})
    assert settings_key({"a": 1, "b": "x"}) != settings_key({"a": 1, "b": "y"})

"""What is a result's stays with all that it was made of; the rest goes by its last use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.access import let_in
from tests.support.services import need_root
from toolchain.digest import Digest
from toolchain.errors import StoreError
from toolchain.journal import Journal
from toolchain.lease import Lease
from toolchain.prune import Freed, last_used, mark_used, needed, prune, removed
from toolchain.trace import Trace

A, B, C, D = (Digest.of(letter.encode()) for letter in "abcd")


def test_results_name_what_they_were_made_of(journal: Journal, trace: Trace) -> None:
    trace.record("wheel", B, {"of": C.hex}, {})
    trace.record("base", A, {}, {"layers": [str(B)]})
    trace.record("base", D, {}, {})
    trace.set_current("one", "base", A)
    trace.set_current("gone", "base", D)
    assert needed(journal, {"one"}) == {A.hex, B.hex, C.hex}
    assert needed(journal, {"one", "gone"}) == {A.hex, B.hex, C.hex, D.hex}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x" * 5000)
    return path


def test_folders_go_whole_with_what_says_that_they_are(tmp_path: Path, journal: Journal) -> None:
    cache = tmp_path / "cache"
    kept = [_folder(cache / "roots" / A.hex), _folder(cache / "layers" / A.hex)]
    gone = [_folder(cache / "roots" / B.hex), _folder(cache / "layers" / B.hex),
            _folder(cache / "envs" / B.hex[:32]), _folder(cache / "inputs" / B.hex[:32])]
    for digest in (A, B):
        (cache / "layers" / f"{digest.hex}.json").write_text("{}")
    (cache / "layers/tmp").mkdir()
    (gone[2] / "toolchain.json").write_text("{}")  # without it, it was never finished
    assert prune(cache, journal, {A.hex}, time.time() - 60) == Freed()
    freed = prune(cache, journal, {A.hex}, time.time() + 60)
    assert freed.number == 4
    assert freed.size >= 4 * 5000
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert sorted(path.name for path in (cache / "layers").iterdir()) == sorted(
        [A.hex, f"{A.hex}.json", "tmp"])
    assert not (cache / "work").exists() or not list((cache / "work").iterdir())


def test_what_has_another_name_frees_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 5000)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert removed(tmp_path / "one") == Freed(1, 0)
    assert removed(tmp_path / "two").size >= 5000


def test_one_is_alone_only_where_nobody_else_is(tmp_path: Path) -> None:
    mine, other = Lease(tmp_path, pytest.fail), Lease(tmp_path, pytest.fail)
    with pytest.raises(StoreError, match="another call works"), mine.alone():
        pass
    del other
    with mine.alone():
        pass
    another = Lease(tmp_path, pytest.fail)
    del another, mine


def test_whoever_comes_while_one_is_alone_waits(tmp_path: Path) -> None:
    mine, said, come = Lease(tmp_path, pytest.fail), threading.Event(), threading.Event()

    def work() -> None:
        Lease(tmp_path, said.set)
        come.set()

    with mine.alone():
        thread = threading.Thread(target=work)
        thread.start()
        assert said.wait(10)
        assert not come.is_set()
    thread.join(10)
    assert come.is_set()


def test_use_is_noted_without_a_new_date_of_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not mark_used(path)
    path.write_bytes(b"x")
    os.utime(path, (1000, 1000))
    began = time.time()
    assert mark_used(path)
    assert path.stat().st_mtime == 1000
    assert last_used(path) >= path.stat().st_atime >= began - 1


def test_what_is_somebody_elses_is_used_without_a_note(tmp_path: Path) -> None:
    """The file's owner alone may set its times."""
    need_root("give a file away")
    let_in(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.seteuid(65534)
    try:
        assert mark_used(path)
        assert not mark_used(tmp_path / "none")
    finally:
        os.seteuid(0)

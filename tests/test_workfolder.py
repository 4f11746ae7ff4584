"""Folders for one job: gone with it, and never taken from somebody who lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolchain.workfolder import remove, sweep, work_folder

_NOBODY = 2**22 + 1  # higher than any process number


def _dead(parent: Path, name: str = "left") -> Path:
    folder = parent / f"{_NOBODY}-{name}"
    folder.mkdir(parents=True)
    (folder / "file").write_text("left")
    return folder


def test_it_is_gone_afterwards_whatever_is_in_it(tmp_path: Path) -> None:
    with work_folder(tmp_path / "work") as folder:
        (folder / "closed").mkdir()
        (folder / "closed/file").write_text("")
        (folder / "closed").chmod(0)
        folder.chmod(0)
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    left, others = _dead(tmp_path), tmp_path / "name-of-no-process"
    others.mkdir()
    mine = tmp_path / f"{os.getpid()}-other-thread"
    mine.mkdir()
    with work_folder(tmp_path) as folder:
        assert not left.exists()
        assert {*tmp_path.iterdir()} == {others, mine, folder}
    assert {*tmp_path.iterdir()} == {others, mine}


def test_one_that_its_owner_may_not_look_into_is_removed(tmp_path: Path) -> None:
    left = _dead(tmp_path)
    left.chmod(0)
    sweep(tmp_path)
    assert not left.exists()


_HOLD = """
import sys, time
from pathlib import Path
from toolchain import workfolder
if len(sys.argv) > 2:
    workfolder.os.getpid = lambda: int(sys.argv[2])  # as in a container with numbers of its own
with workfolder.work_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("pid", [[], [str(_NOBODY)]], ids=["seen", "of another container"])
def test_one_that_is_in_use_stays_until_its_process_is_killed(tmp_path: Path,
                                                              pid: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path, *pid],
                          stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        assert folder.is_dir()
        assert folder.name.startswith(pid[0] if pid else str(child.pid))
        sweep(tmp_path)
        assert folder.is_dir()
        child.kill()
    sweep(tmp_path)
    assert not folder.exists()


def test_two_make_and_sweep_at_the_same_time(tmp_path: Path) -> None:
    """Each as if it were in another container: the other's numbers mean nothing to it."""
    loop = _HOLD.replace("    print(folder, flush=True)\n    time.sleep(600)\n",
                         "    (folder / 'mine').write_text('')\n")
    body = loop.replace("with workfolder", "for _ in range(300):\n  with workfolder")
    children = [subprocess.Popen([sys.executable, "-c", body, tmp_path, str(_NOBODY + number)],
                                 stderr=subprocess.PIPE, text=True) for number in range(2)]
    deadline = time.monotonic() + 120
    for child in children:
        _, errors = child.communicate(timeout=deadline - time.monotonic())
        assert (child.returncode, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_removed_without_a_word(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")

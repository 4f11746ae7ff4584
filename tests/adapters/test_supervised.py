"""A child belongs to us from the moment it is started."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toolchain.adapters.log import Log
from toolchain.adapters.supervised import supervise
from toolchain.run import Outcome


@pytest.mark.parametrize(("number", "ends"), [
    (signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_comes_while_the_child_is_started_ends_it(
    number: signal.Signals, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def interrupted(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        child = start(command, **options)
        if command[0] == "sleep":
            started.append(child)
            os.kill(os.getpid(), number)
        return child

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(ends):
        supervise(["sleep", "100"], environ=os.environ, folder=None, log=Log())
    assert started[0].returncode == -number
    assert signal.getsignal(number) == before


def test_a_program_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        supervise([str(tmp_path / "nothing")], environ=os.environ, folder=None, log=Log())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_program_runs_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(["pwd"], environ=os.environ, folder=tmp_path, log=Log()) == Outcome(code=0)
    assert capsys.readouterr().out == f"{tmp_path}\n"

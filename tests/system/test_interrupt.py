"""Ctrl-C ends a call soon, with one line and its exit status; so does what fails beside others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time

import pytest

from tests.support.gate import Gate
from tests.support.monorepo import Monorepo


def _without_cache(monorepo: Monorepo) -> None:
    """A project that is pinned, and nothing of it built."""
    monorepo.add("one")
    monorepo.doit("resolve")
    shutil.rmtree(monorepo.folder / "cache")


def test_a_mirror_that_is_gone_is_noticed_by_its_first_package(monorepo: Monorepo) -> None:
    _without_cache(monorepo)
    started = time.monotonic()
    output = monorepo.doit("push", "image.mirror=http://127.0.0.1:9/d", expect=1)
    assert "Connection refused" in output
    assert "set image.mirror to another mirror" in output
    assert time.monotonic() - started < 40  # four tries of one package take 4 to 7 seconds


def test_ctrl_c_does_not_wait_for_downloads(monorepo: Monorepo) -> None:
    _without_cache(monorepo)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        port = silent.getsockname()[1]
        call = monorepo.start("push", f"image.mirror=http://127.0.0.1:{port}/d")
        asked, _ = silent.accept()
        time.sleep(0.5)
        started = time.monotonic()
        call.send_signal(signal.SIGINT)
        output, _ = call.communicate(timeout=50)
        asked.close()
    assert call.returncode == 130, output
    assert time.monotonic() - started < 10, output  # on a machine that is busy
    assert "base one  interrupted\n" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("who", ["all", "first"])
def test_ctrl_c_ends_calls_of_several_processes(monorepo: Monorepo, who: str) -> None:
    with Gate() as gate:
        for name in ("one", "two"):
            monorepo.add(name, mlproject=(
                f"name: {name}\nentry_points:\n  main:\n    command: echo has begun; "
                f"{gate.wait}\n"))
        monorepo.doit("push")
        call = monorepo.start("-n", "2", "train")
        assert call.stdout is not None
        begun = 0
        while begun < 2:
            begun += "has begun" in call.stdout.readline()
        os.killpg(call.pid, signal.SIGINT) if who == "all" else call.send_signal(signal.SIGINT)
        output, _ = call.communicate(timeout=60)
    assert call.returncode == 130, output
    assert "interrupted\n" in output
    assert "Traceback" not in output

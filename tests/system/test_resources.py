"""timeout, cpus and memory, as a user gives them."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.monorepo import Monorepo, ran

_TRAIN = """\
import os, sys, time
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_a_timeout_ends_the_run_and_is_in_no_key(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    (folder / "train.py").write_text(_TRAIN)
    (folder / "pyproject.toml").write_text("[tool.toolchain]\ntimeout = 2\ncpus = 1\n")
    output = monorepo.doit("train", "project=one", "params=rate=60", expect=1)
    assert "threads 1" in output
    assert "entry point 'main' ran longer than its timeout of 2 s" in output
    monorepo.doit("train", "project=one", "params=rate=0.1")
    again = monorepo.doit("train", "project=one", "params=rate=0.1", "timeout=1h", "cpus=0.5")
    assert ran(again, "one")["train"] == "fresh"


def test_what_a_training_says_is_not_kept_in_memory(monorepo: Monorepo) -> None:
    """The same training, silent and with 48 MB of output that goes by."""
    folder = monorepo.add("one")
    (folder / "train.py").write_text(
        "import sys\nline = 'x' * 999 + chr(10)\n"
        "for _ in range(int(float(sys.argv[1]))):\n    sys.stdout.write(line * 1000)\n")
    peaks = []
    for megabytes in (0, 48):
        with open(monorepo.folder / "output.txt", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "doit", "train", f"params=rate={megabytes}"],
                cwd=monorepo.folder, env=monorepo.environment, stdout=output,
                stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        text = (monorepo.folder / "output.txt").read_text()
        assert process.returncode == 0, text[-2000:]
        assert text.count("x" * 999) == megabytes * 1000
        peaks.append(used.ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 30, peaks


def test_more_than_this_machine_has_is_said_before_anything_is_trained(
    monorepo: Monorepo
) -> None:
    monorepo.add("one")
    output = monorepo.doit("train", "cpus=4096", "engine=local", expect=1)
    assert "4096 processors were asked for and there are" in output
    assert "at one, engine local" in output
    output = monorepo.doit("train", "memory=2g", expect=3)
    assert "memory is not a quantity: '2g'" in output
    assert "512MiB" in output


def test_trainings_of_one_call_wait_for_one_another(monorepo: Monorepo) -> None:
    """Each asks for most of what there is."""
    for name in ("one", "two"):
        folder = monorepo.add(name, files={"name.txt": name})
        (folder / "train.py").write_text(
            "import os, pathlib, time\nhere = pathlib.Path(os.environ['WITNESS'], 'busy')\n"
            "here.mkdir()\ntime.sleep(1.5)\nhere.rmdir()\n")  # two at once would fail
    monorepo.environment["WITNESS"] = str(monorepo.folder)
    monorepo.doit("push")
    cpus = len(os.sched_getaffinity(0)) * 0.75
    output = monorepo.doit("-n", "2", "train", f"cpus={cpus}")
    assert "waiting" in output
    assert {ran(output, name)["train"] for name in ("one", "two")} == {"made"}

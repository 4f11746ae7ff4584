"""What this machine does not have is refused; libraries start as many threads as they are told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolchain.errors import EngineError
from toolchain.run import Resources
from toolchain.shares import THREADS, check, thread_variables

_GIB = 1 << 30


@pytest.mark.parametrize(("wish", "words"), [
    (Resources(cpus=4.5), "4.5 processors were asked for and there are 4"),
    (Resources(memory=5 * _GIB), "5 GiB of memory were asked for and there are 512 MiB")])
def test_more_than_there_is_at_all_is_refused(wish: Resources, words: str) -> None:
    with pytest.raises(EngineError) as caught:
        check(wish, 4, _GIB // 2, "one")
    assert caught.value.what == words
    assert caught.value.where == "one"
    assert "larger machine" in caught.value.fix
    check(Resources(), 4, _GIB // 2, "one")
    check(Resources(cpus=4, memory=_GIB // 2), 4, _GIB // 2, "one")


def test_memory_that_nobody_knows_is_not_counted() -> None:
    check(Resources(memory=1 << 60), 1, 0, "one")


def test_real_libraries_start_no_more_threads_than_they_are_told() -> None:
    said = subprocess.run(
        [sys.executable, "-c",
         "import numpy, threadpoolctl\n"
         "print({item['num_threads'] for item in threadpoolctl.threadpool_info()})\n"
         "import joblib; print(joblib.cpu_count())"],
        env={"PATH": "/usr/bin:/bin", **thread_variables(1)}, text=True, capture_output=True)
    assert said.stdout == "{1}\n1\n", said.stderr
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} <= set(THREADS)

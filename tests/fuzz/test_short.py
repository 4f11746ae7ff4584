"""A short run of each fuzzer; the long ones are started by hand (see the modules)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.fuzz import archives, command, locks, mlproject
from tests.fuzz.mutation import run


@pytest.mark.parametrize(("attempt", "runs"), [
    (mlproject.attempt, 1500), (command.attempt, 5000), (locks.attempt, 1500),
    (archives.attempt_wheel, 1000),
    (archives.attempt_deb, 1000), (archives.attempt_layer, 1000), (archives.attempt_conda, 1500)])
def test_only_toolchain_errors_come_out(attempt: Callable[[random.Random], None],
                                        runs: int) -> None:
    accepted = run(attempt, seed=7, first=0, runs=runs)
    assert runs / 20 < accepted < runs, "inputs that are nearly right, and not all of them"


def test_a_bug_is_found() -> None:
    """The test above can fail."""
    def attempt(chance: random.Random) -> None:
        mlproject.attempt(chance)
        if chance.random() < 0.5:
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(attempt, seed=7, first=0, runs=200)

"""Where Optuna's studies are: addresses, drivers, locks, and what goes wrong without a password."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.postgresql import PASSWORD, QUOTED, PostgreSQL, postgresql
from toolchain.adapters.optuna import OptunaStudies
from toolchain.adapters.study_database import StudyDatabase
from toolchain.errors import SweepError
from toolchain.journal import Journal
from toolchain.sweep import read
from toolchain.sweep.trial import COMPLETE, Ended
from toolchain.trace import Trace

_SWEEP = read.given(read.read("method: random\nmetric: {name: loss}\ntrials: 9\nparameters:\n"
                              "  x: {min: 0.0, max: 1.0}\n", "sweep.yaml"), {})


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as found:
        yield found


@pytest.mark.parametrize(("change", "said", "place"), [
    (("s3%2F", "s4%2F"), "password authentication failed", "postgresql://127.0.0.1:"),
    (("/sweeps", "/swoops"), 'database "swoops', "postgresql://127.0.0.1:"),
    (("me:", "noone:"), "password authentication failed", "postgresql://127.0.0.1:"),
    (("127.0.0.1", "no-such-host.invalid"), "no-such-host.invalid", "no-such-host.invalid:"),
    (("%40", "@"), "", "postgresql://"),
    (("postgresql", "postgresql+nope"), "postgresql.nope", "postgresql+nope://127.0.0.1:"),
    (("postgresql", "postgresql+pg8000"), "not installed: pg8000", "postgresql+pg8000://127"),
    (("postgresql", "redis"), "redis", "redis://127.0.0.1:"),
])
def test_what_is_wrong_is_said_without_the_password(
        server: PostgreSQL, trace: Trace, change: tuple[str, str], said: str, place: str) -> None:
    address = server.database().replace(*change, 1)
    with pytest.raises(SweepError) as caught:
        OptunaStudies(address, trace).open("one", _SWEEP)
    text = str(caught.value)
    assert said in caught.value.what
    assert place in caught.value.where
    assert caught.value.fix
    for secret in (PASSWORD, QUOTED, QUOTED[3:], PASSWORD[3:], "cr%3Ft", "cr?t"):
        assert secret not in text


def test_a_password_in_the_query_is_not_shown(server: PostgreSQL, trace: Trace) -> None:
    address = f"postgresql://127.0.0.1:{server.port}/postgres?user=me&password=wrong-one"
    with pytest.raises(SweepError, match="password authentication failed") as caught:
        OptunaStudies(address, trace).open("one", _SWEEP)
    assert caught.value.where == f"postgresql://127.0.0.1:{server.port}/postgres"
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_a_driver_that_is_missing_is_named_with_what_to_install(
        tmp_path: Path, scheme: str) -> None:
    """In an interpreter that does not find them, as where the extra is not installed."""
    (tmp_path / "sitecustomize.py").write_text('''\
import importlib.machinery, sys
class Lacking(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ("psycopg", "psycopg2"):
            return None
        return super().find_spec(name, path, target)
sys.meta_path[:] = [Lacking if item is importlib.machinery.PathFinder else item
                    for item in sys.meta_path]
''')
    code = (f"from pathlib import Path\nfrom {__name__} import *\n"
            f"cache = Path({str(tmp_path / 'cache')!r})\n"
            f"OptunaStudies('{scheme}://me:hush/ed@127.0.0.1:1/x', Trace(cache, Journal(cache)))"
            ".open('one', _SWEEP)")
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import _SWEEP\n{code}"], cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}, capture_output=True,
        text=True, timeout=300)
    said = done.stderr.partition("SweepError: ")[2]
    assert said.startswith("a package that this sweep needs is not installed: "), done.stderr
    assert f"at {scheme}://127.0.0.1:1/x" in said
    assert "fix: pip install 'mlproject-toolchain[postgresql]'" in said
    assert "hush" not in done.stderr


def test_many_open_an_empty_database_at_once(server: PostgreSQL, tmp_path: Path) -> None:
    """Each with a cache of its own: only the server can put them in order."""
    address = server.database()

    def drawn(number: int) -> int:
        cache = tmp_path / str(number)
        study = OptunaStudies(address, Trace(cache, Journal(cache))).open("one", _SWEEP)
        trial = study.draw()
        study.settle(trial.number, Ended(state=COMPLETE, value=1.0))
        return trial.number

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(drawn, range(6))) == list(range(6))


def test_one_at_a_time_is_alone_in_a_study(server: PostgreSQL, trace: Trace) -> None:
    address = server.database()
    first, second = (StudyDatabase(address, trace) for _ in range(2))
    assert first.is_shared
    entered = threading.Event()

    def other(name: str) -> None:
        with second.alone(name):
            entered.set()

    with first.alone("one"):
        waiting = threading.Thread(target=other, args=("one",))
        waiting.start()
        assert not entered.wait(0.5), "two were in it at once"
        with second.alone("two"):
            pass
    waiting.join(30)
    assert entered.is_set()


def test_a_connection_that_was_lost_is_made_again(server: PostgreSQL, trace: Trace) -> None:
    address = server.database()
    study = OptunaStudies(address, trace).open("one", _SWEEP)
    server.query("postgres", "select pg_terminate_backend(pid) from pg_stat_activity where "
                             f"datname='{address.rpartition('/')[2]}'")
    assert study.draw().number == 0

"""Results are on record at once, for every process; a key is held by one at a time."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from toolchain.digest import Digest
from toolchain.errors import Cancelled, StoreError
from toolchain.journal import Journal
from toolchain.trace import Trace

KEY = Digest.of(b"key")
# Not forked from pytest: a fork inherits the locks that pytest's threads hold at that moment.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])


def open_trace(cache: Path) -> Trace:
    return Trace(cache, Journal(cache))


def test_a_record_holds_plan_and_value(trace: Trace) -> None:
    assert trace.get("base", KEY) is None
    trace.record("base", KEY, {"a": 1}, {"layers": []}, project="one")
    assert trace.get("base", KEY) == {"layers": []}
    assert trace.plan("base", KEY) == {"a": 1}
    assert trace.get("layer", KEY) is None
    assert trace.values("base") == [{"layers": []}]
    trace.forget("base", KEY)
    assert trace.get("base", KEY) is None


def test_a_note_is_no_making(trace: Trace, journal: Journal) -> None:
    trace.note("hint", KEY, [1])
    assert trace.get("hint", KEY) == [1]
    assert journal.rows("select count(*) from made") == [(0,)]
    trace.record("base", KEY, {}, {})
    assert journal.rows("select stage, key from made") == [("base", KEY.hex)]


def test_current_keys_are_per_project_and_stage(trace: Trace) -> None:
    assert trace.current("one", "base") is None
    trace.set_current("one", "base", KEY)
    assert trace.current("one", "base") == KEY
    assert trace.current("two", "base") is None
    trace.set_current("one", "base", None)
    assert trace.current("one", "base") is None


def _record_and_die(cache: Path) -> None:
    open_trace(cache).record("base", KEY, {}, {"from": "elsewhere"})
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_does_not_lose_what_it_recorded(tmp_path: Path) -> None:
    process = CLEAN.Process(target=_record_and_die, args=(tmp_path,), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert open_trace(tmp_path).get("base", KEY) == {"from": "elsewhere"}


def test_a_key_is_held_by_one_thread(trace: Trace) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with trace.holding("base", KEY):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def _add_one(cache: Path) -> None:
    trace = open_trace(cache)
    for _ in range(20):
        with trace.holding("base", KEY):
            trace.record("base", KEY, {}, (trace.get("base", KEY) or 0) + 1)


def test_a_key_is_held_by_one_process(tmp_path: Path) -> None:
    processes = [CLEAN.Process(target=_add_one, args=(tmp_path,), daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert open_trace(tmp_path).get("base", KEY) == 80


def _hold(cache: Path, held: Path) -> None:
    with open_trace(cache).holding("base", KEY):
        held.touch()
        time.sleep(60)


def test_a_key_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    held = tmp_path / "held"
    process = CLEAN.Process(target=_hold, args=(tmp_path, held), daemon=True)
    process.start()
    while not held.exists():
        time.sleep(0.01)
    waited: list[str] = []
    started = time.monotonic()
    threading.Timer(1.5, process.kill).start()
    with open_trace(tmp_path).holding("base", KEY, waited.append):
        assert time.monotonic() - started > 1.4
    assert waited == [f"another process ({process.pid})"]
    process.join()


def test_a_wait_for_a_key_can_be_given_up(trace: Trace) -> None:
    cancel, waited = threading.Event(), threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled), trace.holding("base", KEY, lambda who: waited.set(), cancel):
            raise AssertionError("two have it")

    with trace.holding("base", KEY):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waited.wait(60)
        cancel.set()
        thread.join(60)
        assert not thread.is_alive()
    with trace.holding("base", KEY, cancel=cancel):
        pass


def test_whoever_could_give_up_gets_the_key_when_it_is_free(trace: Trace) -> None:
    waited, got = threading.Event(), threading.Event()

    def wait() -> None:
        with trace.holding("base", KEY, lambda who: waited.set(), threading.Event()):
            got.set()

    with trace.holding("base", KEY):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waited.wait(60)
        assert not got.is_set()
    assert got.wait(60)
    thread.join()


def test_another_key_is_not_held(trace: Trace) -> None:
    with trace.holding("base", KEY), trace.holding("base", Digest.of(b"other")), \
            trace.holding("layer", KEY):
        pass


def test_a_damaged_journal_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="journal") as caught:
        open_trace(tmp_path).get("base", KEY)
    assert caught.value.fix.startswith("delete it")


def test_many_processes_open_a_journal_that_is_not_there_yet(tmp_path: Path) -> None:
    """Write-ahead mode is set up once; sqlite does not wait for that by itself."""
    for number in range(8):
        cache = tmp_path / str(number)
        start = CLEAN.Barrier(8)
        processes = [CLEAN.Process(target=_open_at_once, args=(cache, start),
                                   daemon=True)
                     for _ in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0] * 8


def _open_at_once(cache: Path, start: Barrier) -> None:
    faulthandler.dump_traceback_later(20, exit=True)
    start.wait(15)
    Journal(cache).rows("select * from trace")


def test_several_statements_are_all_or_none(journal: Journal) -> None:
    with pytest.raises(StoreError):
        journal.write_all([("insert into made (stage) values (?)", ("x",)),
                           ("insert into nowhere values (1)", ())])
    assert journal.rows("select count(*) from made") == [(0,)]

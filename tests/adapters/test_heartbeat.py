"""The thread that says that runs live."""

from __future__ import annotations

import threading

from toolchain.adapters.heartbeat import Heartbeat


def test_a_beat_that_fails_is_not_the_last() -> None:
    """Whatever the store's client raises: a run that is silent is taken for dead, and repeated."""
    beats: list[str] = []
    third = threading.Event()

    def beat(run_id: str) -> None:
        beats.append(run_id)
        if len(beats) >= 3:
            third.set()
        raise RuntimeError("not an error of ours")

    heartbeat = Heartbeat(beat, 0.01)
    heartbeat.add("one")
    assert third.wait(60)
    heartbeat.drop("one")
    assert not heartbeat.has("one")

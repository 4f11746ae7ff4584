"""What is waited for is said, once."""

from __future__ import annotations

import threading
import time

from toolchain.adapters.patience import Patience


def test_what_takes_long_is_said_once_for_all_that_wait() -> None:
    told: list[str] = []
    patience = Patience(told.append, after=0.05, again=60)
    said = threading.Event()

    def wait() -> None:
        with patience.waiting("waiting for it"):
            said.wait(0.5)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["waiting for it"]


def test_what_is_over_soon_is_not_said() -> None:
    told: list[str] = []
    patience = Patience(told.append, after=0.2)
    with patience.waiting("waiting for it"):
        pass
    time.sleep(0.4)
    assert told == []

"""A process that wants a run of a key. It says what comes of it, a line each: `ready`, `waits …`,
`began ID`, `has ID`, `ended STATUS`.

The processes are forked from one that has mlflow loaded, which takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

_LOADED = multiprocessing.get_context("forkserver")
_LOADED.set_forkserver_preload(["mlflow", "toolchain.adapters.mlflow", __name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    uri: str
    folder: Path
    key: str
    start: Path | None
    seconds: float
    stop: Path | None
    status: str
    patience: float


class Claimant:
    """Such a process. It begins when `start` exists, if that is given, and trains for `seconds`,
    or until `stop` exists; `status`: how that ends."""

    def __init__(self, uri: str, folder: Path, key: str, *, start: Path | None = None,
                 seconds: float = 0.0, stop: Path | None = None, status: str = "FINISHED",
                 patience: float = 60) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        wish = _Wish(uri=uri, folder=folder, key=key, start=start, seconds=seconds, stop=stop,
                     status=status, patience=patience)
        self.said: list[str] = []
        self._lines, other = _LOADED.Pipe(duplex=False)
        self._process = _LOADED.Process(target=_want, args=(wish, other), daemon=True)
        self._process.start()
        other.close()  # so that the lines end with the process

    def until(self, word: str) -> str:
        """What stands behind that word, once it was said."""
        while (line := self._line()) is not None:
            if line.split()[0] == word:
                return line.partition(" ")[2].strip()
        raise AssertionError(f"{word} was never said, but {self.said}")

    def end(self) -> list[str]:
        """All that it said, when it has ended; it is to end well."""
        while self._line() is not None:
            pass
        self._process.join(120)
        assert self._process.exitcode == 0
        return self.said

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _line(self) -> str | None:
        assert self._lines.poll(120), self.said
        try:
            line: str = self._lines.recv()
        except EOFError:
            return None
        self.said.append(line)
        return line


def _want(wish: _Wish, lines: Connection) -> None:
    from toolchain.adapters.mlflow import Mlflow
    from toolchain.digest import Digest
    from toolchain.journal import Journal
    from toolchain.run import KEY_TAG, Run
    from toolchain.trace import Trace

    say: Callable[[str], None] = lines.send
    os.chdir(wish.folder)
    key, folder = Digest.parse(wish.key), str(wish.folder)
    trace = Trace(wish.folder / "cache", Journal(wish.folder / "cache"))
    mlflow = Mlflow(wish.uri, wish.folder, trace, {}, beat=0.3, patience=wish.patience)
    mlflow.find(Digest.of(b"opens the store"), "")
    say("ready")
    _await(wish.start)

    def waits(text: str) -> None:
        say(f"waits {text}")

    begun = mlflow.follow(key, waits) or mlflow.claim(
        "claims", "one", {KEY_TAG: str(key)}, folder, waits)
    if isinstance(begun, Run):
        say(f"has {begun.run_id}")
        return
    say(f"began {begun.run_id}")
    time.sleep(wish.seconds)
    _await(wish.stop)
    mlflow.finish(begun, wish.status, {})
    say(f"ended {wish.status}")


def _await(path: Path | None) -> None:
    """Return when that file exists, or at once if none is named."""
    while path is not None and not path.exists():
        time.sleep(0.001)

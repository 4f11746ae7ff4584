"""Lock -> a virtual environment on this machine, made by uv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.adapters.scratch import scratch_folder
from toolchain.adapters.uv import Uv, last_lines
from toolchain.errors import ResolveError
from toolchain.store import Store

if TYPE_CHECKING:
    from toolchain.layer.wheel import Wheel


class Environments:
    """Makes environments of wheels in `store`, or of what uv fetches."""

    def __init__(self, uv: Uv, store: Store) -> None:
        self._uv = uv
        self._store = store

    def make(self, folder: Path, lock_text: str, wheels: tuple[Wheel, ...],
             python: str, options: tuple[str, ...] = ()) -> None:
        """Make a virtual environment with exactly the locked packages.

        With `wheels` nothing is fetched; without, uv takes what its cache has before it asks the
        network. Raises EngineError or ResolveError.
        """
        done = self._uv.run(["venv", "--quiet", "--no-project", "--python",
                          str(self._uv.interpreter(python)), str(folder)], folder.parent)
        if done.returncode:
            raise ResolveError(f"no environment could be made: {last_lines(done.stderr)}",
                               where=str(folder), fix="check that the Python works")
        if not lock_text.strip():
            return
        with scratch_folder() as scratch:
            lock = scratch / "requirements.txt"
            command = ["pip", "install", "--quiet", "--no-deps", "--no-progress", "--python",
                       str(folder / "bin" / "python"), "--requirement", str(lock)]
            if wheels:
                for wheel in wheels:
                    self._store.link(wheel.digest, scratch / wheel.filename)
                lock.write_text("".join(f"./{wheel.filename}\n" for wheel in wheels))
                tries = [["--offline", "--no-index"]]
            else:
                lock.write_text(lock_text)
                tries = [["--require-hashes", "--offline"], ["--require-hashes"]]
            for extra in tries:
                done = self._uv.run([*command, *extra], scratch, options=options)
                if not done.returncode:
                    return
            raise ResolveError(
                f"the locked packages cannot be installed: {last_lines(done.stderr)}",
                where=str(folder), fix="read uv's message; pin again with upgrade=1 if a file is "
                                       "gone from the index",
            )

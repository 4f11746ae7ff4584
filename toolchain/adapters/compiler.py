"""Byte-code by the interpreter that base.lock pins, on all cores, without root or a container.

The interpreter is unpacked from its .debs into the cache and started by its own loader with its
own C library, so that it runs on any Linux of its architecture.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from toolchain.adapters import compiler_process
from toolchain.digest import Digest
from toolchain.errors import ResolveError, ToolchainError
from toolchain.layer import bytecode
from toolchain.layer.archive import Entry
from toolchain.layer.deb import unpack
from toolchain.lock.base import BasePins
from toolchain.store import Store
from toolchain.workers import Workers
from toolchain.workfolder import work_folder

_PATIENCE = 300  # seconds for one file; a busy machine needs less than one
_CONTENTS = "contents.json"  # in an unpacked interpreter: its files and their sizes
_LARGEST_PIPE = 1 << 20  # bytes; what Linux grants to ordinary users


class PinnedCompiler:
    """Implements toolchain.layer.Compiler with the interpreter of `pins`, which are this
    machine's. `fetch` puts their .debs into the store."""

    def __init__(self, *, identity: str, pins: BasePins, python: str, folder: Path, store: Store,
                 fetch: Callable[[BasePins], None], patience: float = _PATIENCE) -> None:
        self._identity = identity
        self._pins = pins
        self._python = python
        self._folder = folder
        self._store = store
        self._fetch = fetch
        self._patience = patience
        self._lock = threading.Lock()
        self._unpacking = threading.Lock()
        self._root: Path | None = None
        self._obstacle: ToolchainError | None = None
        self._pool = Workers(os.cpu_count())
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._is_closed = False

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def tag(self) -> str:
        return f"cpython-{self._python.replace('.', '')}"

    def __enter__(self) -> PinnedCompiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        with self._lock:
            self._is_closed = True
            for process in self._processes:
                process.kill()
        # Whoever waits for a reply sees the end of it.
        self._pool.stop()
        self._pool.__exit__(kind, error, traceback)
        for process in self._processes:
            process.close()

    def compile(self, sources: tuple[tuple[str, bytes], ...]) -> Future[list[bytes | None]]:
        return self._pool.submit(self._compile, sources)

    def _compile(self, sources: tuple[tuple[str, bytes], ...]) -> list[bytes | None]:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = self._start()
        results = process.compile(sources)  # one that failed is not used again
        self._idle.put(process)
        return results

    def _start(self) -> _Process:
        root = self._unpacked()
        with self._lock:
            if self._is_closed:
                raise _failed("it was stopped", self._folder)
            process = _Process(root, self._python, self._patience)
            self._processes.append(process)
        tag = process.greeting()
        if tag != self.tag:
            raise _failed(f"the interpreter calls itself {tag!r}, not {self.tag}", root)
        return process

    def _unpacked(self) -> Path:
        """The interpreter's root. What went wrong with it goes wrong for all files, once."""
        with self._unpacking:
            if self._obstacle is not None:
                raise self._obstacle
            if self._root is None:
                try:
                    self._root = interpreter(self._pins, self._python, self._folder, self._store,
                                             self._fetch)
                except ToolchainError as error:
                    self._obstacle = error
                    raise
            return self._root


def interpreter(pins: BasePins, python: str, folder: Path, store: Store,
                fetch: Callable[[BasePins], None]) -> Path:
    """The root of the unpacked interpreter, unpacked now if it is not there whole.

    Twice is as once, and two processes may do it at the same time. Raises ResolveError.
    """
    needed = bytecode.needed(pins, python)
    root = folder / Digest.of_json(needed.to_json()).hex[:32]
    if _is_whole(root):
        return root
    fetch(needed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with work_folder(folder.parent / "work") as scratch:
            new, broken = scratch / "root", scratch / "broken"
            for package in needed.packages:
                with store.open(package.sha256) as stream:
                    for entry in unpack(package.name, cast("BinaryIO", stream)).entries:
                        if _is_wanted(entry.path, python):
                            _place(new, entry)
            (new / _CONTENTS).write_text(json.dumps(_sizes(new)))
            with contextlib.suppress(FileNotFoundError):
                os.rename(root, broken)
            try:
                os.rename(new, root)
            except OSError:
                if not _is_whole(root):  # otherwise another process was faster
                    raise
    except OSError as error:
        raise _failed(f"cannot be unpacked: {error}", folder) from None
    return root


def _is_whole(root: Path) -> bool:
    """Whether every file has the size that it was written with. After a power cut some have not."""
    try:
        expected = json.loads((root / _CONTENTS).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(root))


def _sizes(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*")
            if path.is_file() and path.name != _CONTENTS}


def _is_wanted(path: str, python: str) -> bool:
    """Program, standard library, and shared libraries; not their plug-ins."""
    parts = path.split("/")
    return (path == f"usr/bin/python{python}" or parts[:3] == ["usr", "lib", f"python{python}"]
            or (parts[:2] == ["usr", "lib"] and len(parts) == 4 and ".so" in parts[3]))


def _place(root: Path, entry: Entry) -> None:
    target = root / entry.path
    if entry.kind == tarfile.DIRTYPE:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == tarfile.SYMTYPE:
        if not entry.link.startswith("/"):
            target.symlink_to(entry.link)
    elif entry.kind == tarfile.LNKTYPE:
        shutil.copy(root / entry.link, target)
    else:
        target.write_bytes(entry.data)
        target.chmod(0o755 if entry.mode & 0o111 else 0o644)


class _Process:
    """One interpreter that compiles; used by one thread at a time."""

    def __init__(self, root: Path, python: str, patience: float) -> None:
        self._root = root
        self._patience = patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        found = sorted(root.glob("usr/lib/*/ld-linux-*.so.*"))
        if not found:
            raise _failed("it has no loader", root)
        try:
            self._child = subprocess.Popen(
                [found[0], "--library-path", found[0].parent, root / f"usr/bin/python{python}",
                 "-s", "-S", "-B", "-W", "ignore", compiler_process.__file__],
                cwd=root, env={"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0",
                               "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                start_new_session=True, bufsize=0)
        except OSError as error:
            raise _failed(f"cannot be started: {error.strerror}", root) from None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._requests, self._replies = self._child.stdin, self._child.stdout
        _widen(self._requests.fileno())
        _widen(self._replies.fileno())
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)

    def greeting(self) -> str:
        """The interpreter's cache tag, as it says it itself."""
        return (self._reply("before the first file") or b"").decode("ascii", "replace")

    def compile(self, sources: tuple[tuple[str, bytes], ...]) -> list[bytes | None]:
        request = bytearray(len(sources).to_bytes(4, "little"))
        for path, source in sources:
            name = path.encode("utf-8", "surrogateescape")
            request += len(name).to_bytes(4, "little") + name
            request += len(source).to_bytes(4, "little") + source
        with contextlib.suppress(BrokenPipeError):  # seen, and explained, by the first reply
            view = memoryview(request)
            while view:
                view = view[os.write(self._requests.fileno(), view):]
        return [self._reply(path) for path, _ in sources]

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        self._errors.close()
        self._requests.close()
        self._replies.close()

    def _reply(self, path: str) -> bytes | None:
        deadline = time.monotonic() + self._patience
        size = int.from_bytes(self._read(4, path, deadline), "little", signed=True)
        return None if size < 0 else self._read(size, path, deadline)

    def _read(self, size: int, path: str, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not self._poll.poll(max(0, deadline - time.monotonic()) * 1000):
                self._child.kill()
                raise _failed(f"it did not answer within {self._patience:g} s", path)
            piece = os.read(self._replies.fileno(), size - len(data))
            if not piece:
                raise _failed(f"it ended{self._last_words()}", path)
            data += piece
        return bytes(data)

    def _last_words(self) -> str:
        code = self._child.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        how = f" by signal {-code}" if code < 0 else f" with status {code}"
        return how + (f": {said[-1]}" if said else "")


def _widen(pipe: int) -> None:
    """A larger pipe, so that the two sides take fewer turns."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):  # before 3.10, or a user's limit
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _LARGEST_PIPE)


def _failed(what: str, where: Path | str) -> ResolveError:
    return ResolveError(
        f"the compiler of byte-code failed: {what}", where=str(where),
        fix="delete `interpreters` in the cache folder and try again, or do without: "
            "image.bytecode=no",
    )

"""Byte-code by the interpreter that base.lock pins, on all cores, without root or a container."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from toolchain.adapters import compiler_process
from toolchain.errors import ResolveError, ToolchainError
from toolchain.values import dataclass
from toolchain.workers import Workers

_PATIENCE = 300  # seconds for one file; a busy machine needs less than one
_LARGEST_PIPE = 1 << 20  # bytes; what Linux grants to ordinary users


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An interpreter, as it is started. `remedy` is what helps where it fails."""

    arguments: tuple[str | Path, ...]
    environ: dict[str, str]
    root: Path
    remedy: str


class PinnedCompiler:
    """Implements toolchain.layer.Compiler with an interpreter `X.Y`; `program` gets it ready, once
    it is needed, or raises ToolchainError."""

    def __init__(self, *, identity: str, python: str, program: Callable[[], Program],
                 patience: float = _PATIENCE) -> None:
        self._identity = identity
        self._python = python
        self._get_ready = program
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting = threading.Lock()
        self._program: Program | None = None
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
        program = self._ready()
        with self._lock:
            if self._is_closed:
                raise failed("it was stopped", program.root, program.remedy)
            process = _Process(program, self._patience)
            self._processes.append(process)
        tag = process.greeting()
        if tag != self.tag:
            raise failed(f"the interpreter calls itself {tag!r}, not {self.tag}", program.root,
                         program.remedy)
        return process

    def _ready(self) -> Program:
        """The interpreter. What went wrong with it goes wrong for all files, once."""
        with self._waiting:
            if self._obstacle is not None:
                raise self._obstacle
            if self._program is None:
                try:
                    self._program = self._get_ready()
                except ToolchainError as error:
                    self._obstacle = error
                    raise
            return self._program


class _Process:
    """One interpreter that compiles; used by one thread at a time."""

    def __init__(self, program: Program, patience: float) -> None:
        self._remedy = program.remedy
        self._patience = patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._child = subprocess.Popen(
                [*program.arguments, "-s", "-S", "-B", "-W", "ignore", compiler_process.__file__],
                cwd=program.root, env={**program.environ, "PYTHONHASHSEED": "0",
                                       "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                start_new_session=True, bufsize=0)
        except OSError as error:
            raise failed(f"cannot be started: {error.strerror}", program.root,
                         self._remedy) from None
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
                raise failed(f"it did not answer within {self._patience:g} s", path, self._remedy)
            piece = os.read(self._replies.fileno(), size - len(data))
            if not piece:
                raise failed(f"it ended{self._last_words()}", path, self._remedy)
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


def failed(what: str, where: Path | str, remedy: str) -> ResolveError:
    return ResolveError(f"the compiler of byte-code failed: {what}", where=str(where),
                        fix=f"{remedy}, or do without: image.bytecode=no")

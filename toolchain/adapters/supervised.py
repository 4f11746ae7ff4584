"""One job as a child process: its output, signals, a timeout, and its end however we end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from toolchain.adapters.log import Log
from toolchain.run import Outcome

GRACE = 10  # seconds between a signal and the next, harder one
CANCELLED = "was cancelled"  # the reason of an outcome
_GLANCE = 0.02  # seconds between two looks at whether what was signalled is gone
_LOOK = 0.1  # seconds between two looks at whether a job is to be cancelled
_LOOK_UP = 0.5  # the same, where only a signal can end it
_VMSTAT = Path("/proc/vmstat")


def supervise(command: Sequence[str], *, environ: Mapping[str, str], folder: Path | None, log: Log,
              timeout: float = 0, files: Sequence[int] = (),
              cancel: threading.Event | None = None,
              group: Callable[[int], int] = lambda child: child) -> Outcome:
    """Run a command in a process group of its own, to its end.

    `files`: descriptors that it inherits; `group`: the process group that signals are sent to, of
    the child; `cancel`: ends the command as SIGTERM to us would, when it is set. Raises
    FileNotFoundError and PermissionError if there is no such program.
    """
    kills = _kills()
    reason = ""
    with _read_into(log) as sink, _ended_with_us(lambda: subprocess.Popen(
            list(command), cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, stdout=sink,
            stderr=subprocess.STDOUT, start_new_session=True, pass_fds=files), group) as child:
        reason = _wait(child, timeout, cancel)
        if reason:
            _end(child, group(child.pid), signal.SIGTERM)
    code = child.returncode
    if reason:
        return Outcome(code=code or 143, reason=reason)
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL) and _kills() > kills:
        return Outcome(code=code, reason="was killed, as this machine ran out of memory")
    return Outcome(code=code)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """While the block runs, SIGTERM leaves it as SystemExit, as SIGINT does as
    KeyboardInterrupt."""
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def asked_with(error: BaseException) -> signal.Signals:
    """The signal that an exception stands for."""
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM


def _wait(child: subprocess.Popen[bytes], timeout: float, cancel: threading.Event | None) -> str:
    """Wait for the child's end; why it has to be ended, if it has."""
    # In steps, without `cancel` too: a signal that another thread of this process was given is
    # handled when the main thread looks up.
    deadline = time.monotonic() + timeout if timeout else None
    with _end_of(child) as has_ended:
        while not has_ended(_LOOK if cancel is not None else _LOOK_UP):
            if cancel is not None and cancel.is_set():
                return CANCELLED
            if deadline is not None and time.monotonic() > deadline:
                return late(timeout)
    child.wait()
    return ""


@contextlib.contextmanager
def _end_of(child: subprocess.Popen[bytes]) -> Iterator[Callable[[float], bool]]:
    """A question that waits some seconds for the child's end, and not a moment longer than that
    takes: Popen.wait sleeps for up to 50 ms at a time."""
    def by_sleeping(seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        return child.returncode is not None

    try:
        handle = os.pidfd_open(child.pid)
    except (OSError, AttributeError):  # a kernel before 5.3, or a sandbox without the call
        yield by_sleeping
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        yield lambda seconds: bool(poll.poll(int(seconds * 1000)))
    finally:
        os.close(handle)


def late(timeout: float) -> str:
    """Why a job was ended that took too long."""
    return f"ran longer than its timeout of {timeout:g} s"


@contextlib.contextmanager
def _read_into(log: Log) -> Iterator[int]:
    """The end to write to of a pipe that is copied into the log."""
    source, sink = os.pipe()
    reader = threading.Thread(target=_copy, args=(source, log), daemon=True)
    reader.start()
    try:
        yield sink
    finally:
        os.close(sink)
        # What the job left running was killed, so nobody else holds it.
        reader.join(GRACE)
        if not reader.is_alive():
            os.close(source)


def _copy(source: int, log: Log) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(source, 1 << 16):
            log.write(data)
    log.close()


def _end(child: subprocess.Popen[bytes], group: int, first: signal.Signals) -> None:
    """Signal the whole group, and wait for all of it: at SIGTERM a shell is gone before its
    script. At SIGINT it waits for that, and what is left then was started not to be interrupted.
    """
    for number in dict.fromkeys((first, signal.SIGTERM, signal.SIGKILL)):
        deadline = time.monotonic() + GRACE
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
            while (left := _is_alive(group)) and number == signal.SIGTERM and (
                    time.monotonic() < deadline):
                time.sleep(_GLANCE)
            if not left:
                return


def _is_alive(group: int) -> bool:
    """Whether a process of the group still runs; one that nobody has reaped yet does not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, but there
        return True
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(of) == group and state not in ("Z", "X"):
                return True
    return not Path("/proc/self").exists()


@contextlib.contextmanager
def _ended_with_us(start: Callable[[], subprocess.Popen[bytes]],
                   group: Callable[[int], int]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is started; SIGINT and SIGTERM to us reach its whole process group, and what is
    left of that when the block ends is killed."""
    with exit_on_sigterm(), _guard() as watch, _signals_held() as let_go:
        child = start()
        try:
            watch(child.pid)
            let_go()
            yield child
        except BaseException as error:
            _end(child, group(child.pid), asked_with(error))
            raise
        finally:
            for one in {child.pid, group(child.pid)}:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one, signal.SIGKILL)  # what the job left running
            child.wait()


@contextlib.contextmanager
def _signals_held() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM wait for what is yielded to be called, or for the end of the block: a
    child that has just been started is known by then."""
    main = threading.current_thread() is threading.main_thread()
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in (signal.SIGINT, signal.SIGTERM) if main}

    def let_go() -> None:
        while before:
            signal.signal(*before.popitem())
        while came:
            signal.raise_signal(came.pop())

    try:
        yield let_go
    finally:
        let_go()


@contextlib.contextmanager
def _guard() -> Iterator[Callable[[int], None]]:
    """While the block runs, the process group that is named to what is yielded dies with this
    process, even by `kill -9`.

    The guard is a shell that reads from us until we are gone. (PR_SET_PDEATHSIG would end the
    job's shell, but nothing that the shell has started.)
    """
    guard = subprocess.Popen(
        ["bash", "-c", 'read -r group; read -r || kill -KILL -- "-$group"'],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guard.stdin is not None
    told = guard.stdin.fileno()
    try:
        yield lambda group: _tell(told, group)
    finally:
        guard.kill()
        guard.wait()
        guard.stdin.close()


def _tell(guard: int, group: int) -> None:
    os.write(guard, b"%d\n" % group)


def _kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    try:
        for line in _VMSTAT.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    except OSError:
        pass
    return 0


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True

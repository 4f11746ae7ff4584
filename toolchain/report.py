"""What a person sees: a line for each stage, progress of what takes long, where results are."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from toolchain.progress import Progress

_PATIENCE = 2.0  # seconds before progress is shown on a terminal
_EVERY = 30.0  # seconds between lines of progress elsewhere


def emit(text: str) -> None:
    """Write one line at once, so that lines of several processes do not mix."""
    _write(sys.stdout, text)


def aside(text: str) -> None:
    """Write one line where it does not mix with a document on standard output."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:  # whoever read has seen enough, as in `| head`; the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def silenced(*, out: bool, err: bool) -> Iterator[None]:
    """Nothing is shown of standard output, or of standard error and so of progress."""
    if not (out or err):
        yield
        return
    with contextlib.ExitStack() as stack:
        if out:
            stack.enter_context(contextlib.redirect_stdout(_Nowhere()))
        if err:
            stack.enter_context(contextlib.redirect_stderr(_Nowhere()))
        yield


class _Nowhere(io.TextIOBase):
    """No file that would have to be closed: of doit's threads another one may still use it."""

    def write(self, text: str) -> int:
        return len(text)


def line(stage: str, project: str, words: str, seconds: float) -> str:
    """`base elasticnet  reused 41 layers, built 2 (3.4 MB)  1.2 s`"""
    return f"{stage} {project}  {words}  {seconds:.1f} s"


def up_to_date(stage: str, project: str) -> str:
    return f"{stage} {project}  up to date"


def result(project: str, receipts: Mapping[str, Any], ui: str, store: str = "") -> list[str]:
    """Where the result of a project is, by the receipts of push, train and register that count.

    `ui` is the command that shows runs, if there is one; else `store` is the address of the
    tracking store, without credentials.
    """
    lines = []
    run = receipts.get("train")
    if run is not None:
        metrics = "  ".join(f"{name}={_short(value)}"
                            for name, value in list(run["metrics"].items())[:6])
        lines.append(f"{project}: run {run['run_id']}  {metrics}".rstrip())
        if run["model_uri"]:
            lines.append(f"{project}: model {run['model_uri']}")
        if ui:
            lines.append(f"{project}: see it with `{ui}`")
        elif store.startswith(("http://", "https://")):
            lines.append(f"{project}: see it at {store.rstrip('/')}/#/experiments/"
                         f"{run['experiment_id']}/runs/{run['run_id']}")
        elif store:
            lines.append(f"{project}: it is recorded in {store}")
    elif "push" in receipts:
        lines.append(f"{project}: image {receipts['push']['reference']}")
    version = receipts.get("register")
    if version is not None:
        lines.append(f"{project}: model version {version['name']}/{version['version']} "
                     f"(models:/{version['name']}@{version['alias']})")
    return lines


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_terminal() -> bool:
    """Whether a moving display makes sense. See https://no-color.org for NO_COLOR."""
    return (sys.stderr.isatty() and "NO_COLOR" not in os.environ
            and os.environ.get("TERM") != "dumb" and "CI" not in os.environ)


@contextlib.contextmanager
def progress(counter: Progress, title: str, every: float = _EVERY) -> Iterator[Progress]:
    """Count progress of what `title` names; on a terminal, show it from the third second on.

    Without one, a line each `every` seconds says how far it came, for whoever reads the log of a
    CI job. What is shown ends with the block.
    """
    counter.reset()
    over = threading.Event()
    shown = (threading.Thread(target=_display, args=(title, counter, over), daemon=True)
             if is_terminal() else
             threading.Thread(target=_lines, args=(title, counter, over, every), daemon=True))
    try:
        shown.start()
        yield counter
    finally:
        over.set()
        if shown.is_alive():
            shown.join()


def table(rows: list[tuple[str, ...]]) -> None:
    """Write rows under their header, the first of them, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        emit("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def live(header: tuple[str, ...], rows: Callable[[], list[tuple[str, ...]]],
         caption: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """A table below what is written meanwhile, on a terminal; the callable redraws it."""
    if not (is_terminal() and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def drawn() -> Group:
        made = Table(*header)
        for row in rows():
            made.add_row(*map(Text, row))  # a value may hold what rich takes for markup
        # Not as the table's own caption, which would be no wider than the table.
        return Group(made, Text(caption()))

    with Live(console=Console(), auto_refresh=False, transient=True) as shown:
        yield lambda: shown.update(drawn(), refresh=True)


def _display(title: str, counter: Progress, over: threading.Event) -> None:
    if over.wait(_PATIENCE):
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Display

    with Display(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
                 TextColumn("{task.fields[layers]}"), TransferSpeedColumn(),
                 TimeRemainingColumn(), transient=True,
                 console=Console(stderr=True)) as display:
        task = display.add_task(title, total=None, layers="")
        while not over.wait(0.1):
            display.update(task, completed=counter.done, total=counter.expected or None,
                           layers=_layers(counter))


def _layers(counter: Progress) -> str:
    if not counter.layers_expected:
        return ""
    return f"{counter.layers_done}/{counter.layers_expected} layers"


def _lines(title: str, counter: Progress, over: threading.Event, every: float) -> None:
    start = before = time.monotonic()
    done = 0
    while not over.wait(every):
        now, came = time.monotonic(), counter.done
        # Since the last line: a transfer that stands still is to be seen. What is begun anew is
        # taken off what was done.
        rate = max(0, came - done) / (now - before)
        try:
            aside(f"{title}  {how_far(counter, rate, now - start)}")
        except (OSError, ValueError):  # it cannot be written, or is closed; the work goes on
            return
        before, done = now, came


def how_far(counter: Progress, rate: float, seconds: float) -> str:
    """`1.2 of 5.0 GB, 4 of 12 layers, 11.0 MB/s`; of what counts nothing, how long it takes."""
    layers, words = counter.layers_expected, []
    if counter.expected:
        unit, factor = _unit(counter.expected)
        words.append(f"{_in(counter.done, factor)} of {_in(counter.expected, factor)} {unit}")
    if layers:
        words.append(f"{counter.layers_done} of {layers} layer{'s' * (layers != 1)}")
    if counter.expected:
        unit, factor = _unit(rate)
        words.append(f"{_in(rate, factor)} {unit}/s")
    return ", ".join(words) or f"{seconds:.0f} s so far"


def _unit(size: float) -> tuple[str, int]:
    for unit, factor in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if size >= factor:
            return unit, factor
    return "B", 1


def _in(size: float, factor: int) -> str:
    return f"{size:.0f}" if factor == 1 else f"{size / factor:.1f}"

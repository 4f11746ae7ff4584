"""A benchmark's command line: the options that all share, its folders, and where its table goes."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import table


def parser(document: str | None, *, keeps: bool = False) -> argparse.ArgumentParser:
    """With --write; with --keep too, for one that has something to prepare which takes long."""
    options = argparse.ArgumentParser(description=(document or "").partition("\n")[0])
    if keeps:
        options.add_argument("--keep", type=Path, help="folder for what takes long to prepare")
    options.add_argument("--write", action="store_true", help="put the table into the document")
    return options


@contextlib.contextmanager
def folders(given: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """One for this run, which is gone afterwards, and one that may be there from an earlier."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        kept = (given.keep or folder / "kept").resolve()
        kept.mkdir(parents=True, exist_ok=True)
        yield folder, kept


def finish(given: argparse.Namespace, name: str, text: str) -> None:
    """Print the table, and put it into the document if that was asked for."""
    print(text)
    if given.write:
        table.write(name, text)

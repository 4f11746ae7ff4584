"""A file is whole or as it was, and what a killed writer left is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import atomic


def test_a_file_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    for data in (b"one", b"two", b""):
        atomic.write(tmp_path / "a.json", data)
        assert (tmp_path / "a.json").read_bytes() == data
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        atomic.write(tmp_path / "a", b"data")
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True).stdout.strip()
    for name in (f".a.json.{gone}-1.tmp", f".a.json.{os.getpid()}-1.tmp", f".b.json.{gone}-1.tmp",
                 ".a.json.more.tmp"):
        (tmp_path / name).write_text("half")
    atomic.write(tmp_path / "a.json", b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted([
        "a.json", f".a.json.{os.getpid()}-1.tmp", f".b.json.{gone}-1.tmp", ".a.json.more.tmp"])

"""What belongs to a project, and when a file is read again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.tree import Tree, content, is_settled, walk, watched


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text)


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock ten seconds on: what the test writes lies beyond the grain of file times."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)


@pytest.mark.parametrize("path", [
    ".git/config", "mlruns/0/meta.yaml", "__pycache__/a.py", ".venv/x", "a/b/.mypy_cache/x",
    ".env", ".env.local", ".envrc", "module.pyc", "mlflow.db", ".ipynb_checkpoints/a.ipynb",
    "someenv/pyvenv.cfg", "someenv/lib/x.py", ".DS_Store",
])
def test_what_is_never_part_of_a_project(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("x")
    if path.startswith("someenv/"):
        (tmp_path / "someenv/pyvenv.cfg").touch()
    (tmp_path / "kept.py").write_text("x")
    assert [file.path for file in walk(tmp_path)] == ["kept.py"]


def test_files_are_found_at_any_depth_and_empty_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "empty/within").mkdir(parents=True)
    write(tmp_path / "a/b/c", deep="1")
    write(tmp_path, top="2")
    assert sorted(file.path for file in walk(tmp_path)) == ["a/b/c/deep", "top"]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".dockerignore").write_text("pipe\n")  # which cannot help: it is read later
    with pytest.raises(SpecError, match="neither a file nor a link") as caught:
        list(walk(tmp_path))
    assert caught.value.fix == "move it out of the project"


@pytest.mark.usefixtures("_later")
def test_an_unchanged_file_is_not_read_again(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="one")
    first = Tree(root, journal)
    digest = first.digest("a")
    first.remember()
    os.chmod(root, 0o755)
    # Only a tree that takes the digest from its record does not notice that this is a lie.
    journal.write("update files set entries = replace(entries, ?, ?)",
                  (digest.hex, Digest.of(b"a lie").hex))
    assert Tree(root, journal).digest("a") == Digest.of(b"a lie")


@pytest.mark.usefixtures("_later")
def test_an_edit_that_keeps_size_and_mtime_is_noticed(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="one")
    first = Tree(root, journal)
    first.digest("a")
    first.remember()
    before = (root / "a").stat()
    time.sleep(0.02)  # the clock of files ticks every 10 ms at least
    write(root, a="two")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Tree(root, journal).digest("a") == Digest.of(b"two")


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, journal: Journal
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="one")
    tree = Tree(root, journal)
    tree.digest("a")
    tree.remember()
    assert journal.rows("select count(*) from files where folder=?", (str(root),)) == [(0,)]


def test_settled_means_older_than_the_grain() -> None:
    now = 10_000_000_000
    assert is_settled(iter([(1, now - 3_000_000_000, now - 3_000_000_000, 1)]), now)
    assert not is_settled(iter([(1, now - 3_000_000_000, now - 1_000_000_000, 1)]), now)
    assert not is_settled(iter([(1, now - 1_000_000_000, now - 3_000_000_000, 1)]), now)


def test_a_change_after_the_look_is_an_error(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="one")
    tree = Tree(root, journal)
    write(root, a="changed")
    with pytest.raises(SpecError, match="changed while it was being read"):
        tree.read("a")
    with pytest.raises(SpecError, match="changed while it was being read"):
        tree.digest("a")


def test_a_file_that_is_gone_after_the_look_is_an_error(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="one")
    tree = Tree(root, journal)
    (root / "a").unlink()
    with pytest.raises(SpecError, match="cannot be read"):
        tree.digest("a")


def test_a_name_that_is_not_utf_8_is_a_mistake(tmp_path: Path) -> None:
    """An image, a plan and a receipt hold names as text."""
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        list(walk(tmp_path))
    str(caught.value).encode()


def test_a_folders_name_that_is_not_utf_8_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        list(walk(tmp_path))
    assert caught.value.where == f"{tmp_path}/caf\\xe9"


def test_other_letters_than_ascii_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "café").mkdir()
    (tmp_path / "café/naïve.py").touch()
    assert [file.path for file in walk(tmp_path)] == ["café/naïve.py"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_skipped_is_not_even_looked_at(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        os.mkfifo(tmp_path / ".env")
    else:
        (tmp_path / ".git").mkdir()
        os.mkfifo(tmp_path / ".git/pipe")
    assert list(walk(tmp_path)) == []


def test_links_that_stand_for_what_is_skipped_are_skipped(tmp_path: Path) -> None:
    """As on machines whose large folders lie on another disk."""
    root, disk = tmp_path / "project", tmp_path / "disk"
    root.mkdir()
    disk.mkdir()
    for name in ("mlruns", ".venv", "cache", "data"):
        (root / name).symlink_to(disk)
    assert [file.path for file in walk(root, (root / "cache",))] == ["data"]


@pytest.mark.parametrize("target", ["here/../outside", "here/../project/a", "out/passwd",
                                    "sub/up/../outside"])
def test_a_link_that_leaves_through_another_link_is_refused(
    tmp_path: Path, journal: Journal, target: str
) -> None:
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    (root / "here").symlink_to(".")
    (root / "sub/up").symlink_to("..")
    (root / "out").symlink_to("/etc")
    (root / "link").symlink_to(target)
    with pytest.raises(SpecError, match="link leaves the project"):
        Tree(root, journal).file("link")


@pytest.mark.parametrize("target", ["link", "link/x", "here/here/a", "here/sub/../a", "missing"])
def test_a_link_that_goes_round_or_nowhere_within_is_kept(
    tmp_path: Path, journal: Journal, target: str
) -> None:
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    (root / "here").symlink_to(".")
    (root / "link").symlink_to(target)
    assert Tree(root, journal).file("link").link == target


def test_a_links_target_that_is_not_utf_8_is_a_mistake(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "link").symlink_to(os.fsdecode(b"caf\xe9"))
    with pytest.raises(SpecError, match="target is not UTF-8"):
        Tree(tmp_path, journal).file("link")


def test_executables_are_told_from_other_files(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(root, a="1", b="1")
    (root / "a").chmod(0o755)
    tree = Tree(root, journal)
    assert (tree.file("a").executable, tree.file("b").executable) == (True, False)
    assert tree.file("a").digest == tree.file("b").digest == Digest.of(b"1")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_that_leaves_is_refused(tmp_path: Path, journal: Journal, target: str) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "link").symlink_to(target)
    with pytest.raises(SpecError, match="link leaves the project"):
        Tree(root, journal).file("link")


def test_a_link_within_is_kept_as_a_link(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    write(root, a="one")
    (root / "sub/link").symlink_to("../a")
    file = Tree(root, journal).file("sub/link")
    assert (file.link, file.digest) == ("../a", None)


def test_the_content_of_a_folder_is_names_modes_and_bytes(
    tmp_path: Path, journal: Journal
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, a="1", b="2")
    assert content(tmp_path / "one", journal) == content(tmp_path / "two", journal)
    (tmp_path / "two/a").chmod(0o755)
    assert content(tmp_path / "one", journal) != content(tmp_path / "two", journal)
    assert content(tmp_path / "one/a", journal) == Digest.of(b"1")


@pytest.mark.usefixtures("_later")
def test_a_large_input_is_not_read_again_while_nothing_says_that_it_changed(
    tmp_path: Path, journal: Journal
) -> None:
    path, link = tmp_path / "rows.csv", tmp_path / "link.csv"
    path.write_bytes(b"1" * 3_000_000)
    link.symlink_to(path)
    first = content(path, journal)
    assert first == content(link, journal) == Digest.of(b"1" * 3_000_000)
    before = _bytes_read()
    assert content(path, journal) == content(link, journal) == first
    assert _bytes_read() - before < 1_000_000
    times = path.stat()
    path.write_bytes(b"2" * 3_000_000)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content(path, journal) == content(link, journal) == Digest.of(b"2" * 3_000_000)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_an_input_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, journal: Journal
) -> None:
    path = tmp_path / "grows.log"
    path.write_bytes(b"x" * (64 << 20))
    over = threading.Event()

    def write() -> None:
        with open(path, "ab") as stream:
            while not over.is_set():
                stream.write(b"y")
                stream.flush()
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(SpecError, match="changed while it was being read"):
            content(path, journal)
    finally:
        over.set()
        writer.join()


def test_what_is_to_be_watched_is_what_is_walked_and_the_folders_of_it(tmp_path: Path) -> None:
    """An empty folder too: a file may come into it."""
    for name in ("a/b", "empty", "left/out", ".git", "venv"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path, **{"top": "1", "a/b/deep": "2", "left/out/x": "3", "venv/pyvenv.cfg": "",
                       ".env": "secret"})
    assert watched(tmp_path, (tmp_path / "left",)) == {
        tmp_path, tmp_path / "top", tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/deep",
        tmp_path / "empty"}
    assert watched(tmp_path / "top") == {tmp_path / "top"}
    assert watched(tmp_path / "nowhere") == {tmp_path / "nowhere"}

"""The links and records are those that Debian's own update-alternatives makes of the same calls."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.services import need
from toolchain.layer.alternatives import RECORDS, Files, Group, Made, make, parse
from toolchain.layer.archive import Entry
from toolchain.layer.deb import Deb

_SCRIPT = "#!/bin/sh\nset -e\n"


def _deb(*calls: str) -> Deb:
    return Deb(control="", md5sums="", entries=(), postinst=_SCRIPT + "".join(
        f"update-alternatives {call}\n" for call in calls))


def _file(path: str) -> Entry:
    return Entry(path=path, mode=0o755, data=b"x")


def _links(made: Made) -> dict[str, str]:
    return {entry.path: entry.link for entry in made.entries if entry.kind == tarfile.SYMTYPE}


def _make(debs: dict[str, Deb], *files: str, before: dict[str, Group] | None = None,
          is_all: bool = True) -> Made:
    return make(debs, "amd64", Files(map(_file, files), is_all=is_all), before or {})


class Real:
    """A folder in which Debian's program works."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder = folder
        (folder / "etc/alternatives").mkdir(parents=True)
        (folder / RECORDS).mkdir(parents=True)
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("x")

    def call(self, arguments: str) -> None:
        subprocess.run([need("update-alternatives"), "--root", str(self.folder), "--log",
                        os.devnull, *arguments.split()], check=True, capture_output=True)

    def links(self) -> dict[str, str]:
        return {str(path.relative_to(self.folder)): os.readlink(path)
                for path in sorted(self.folder.rglob("*")) if path.is_symlink()}

    def records(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.folder / RECORDS).iterdir()}


@pytest.mark.parametrize("seed", range(25))
def test_it_is_what_the_real_program_makes(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    files = [f"usr/bin/{program}{kind}" for program in "xyz" for kind in "abcd"
             if chance.random() < 0.8]
    calls: dict[str, list[str]] = {}
    for package in ("one", "two", "three", "four"):
        for name in "xyz":
            path = f"usr/bin/{name}{chance.choice('abcd')}"
            if path not in files or chance.random() < 0.3:
                continue
            slaves = "".join(
                f" --slave /usr/bin/{name}-{slave} {name}-{slave} /usr/bin/{target}"
                for slave in "pqr" if chance.random() < 0.5
                for target in [f"{chance.choice('xyz')}{chance.choice('abcd')}"])
            priority = chance.choice((5, 10, 10, -3))
            calls.setdefault(package, []).append(
                f"--install /usr/bin/{name} {name} /{path} {priority}{slaves}")
    real = Real(tmp_path / "root", files)
    for package in sorted(calls):
        for call in calls[package]:
            real.call(call)
    made = _make({package: _deb(*found) for package, found in calls.items()}, *files)
    assert made.notes == ()
    assert _links(made) == real.links()
    assert {entry.path.removeprefix(RECORDS): entry.data.decode() for entry in made.entries
            if entry.kind == tarfile.REGTYPE} == real.records()
    for name, record in real.records().items():
        assert parse(record).record() == record
        assert set(parse(record).choices) == set(made.groups[name].choices)


def test_what_was_there_before_stays_unless_something_better_comes(tmp_path: Path) -> None:
    files = ["usr/bin/mawk", "usr/bin/gawk", "usr/bin/weak"]
    mawk = _make({"mawk": _deb("--install /usr/bin/awk awk /usr/bin/mawk 5")}, *files)
    assert _links(mawk) == {"etc/alternatives/awk": "/usr/bin/mawk",
                            "usr/bin/awk": "/etc/alternatives/awk"}
    weak = _make({"a": _deb("--install /usr/bin/awk awk /usr/bin/weak 5")}, *files,
                 before=mawk.groups)
    assert _links(weak) == {}
    assert sorted(parse(weak.entries[0].data.decode()).choices) == [
        "/usr/bin/mawk", "/usr/bin/weak"]
    gawk = _deb("--install /usr/bin/awk awk /usr/bin/gawk 10")
    assert _links(_make({"gawk": gawk}, *files, before=mawk.groups))[
        "etc/alternatives/awk"] == "/usr/bin/gawk"
    assert set(mawk.groups["awk"].choices) == {"/usr/bin/mawk"}
    chosen = {"awk": parse(mawk.groups["awk"].record().replace("auto", "manual"))}
    assert _links(_make({"gawk": gawk}, *files, before=chosen)) == {}


def test_links_of_old_folders_are_below_usr_and_a_file_is_never_replaced() -> None:
    made = _make({"a": _deb("--install /bin/nc nc /bin/nc.openbsd 50",
                            "--install /usr/bin/vi vi /bin/nc.openbsd 50")},
                 "usr/bin/nc.openbsd", "usr/bin/vi")
    assert _links(made) == {"etc/alternatives/nc": "/bin/nc.openbsd",
                            "usr/bin/nc": "/etc/alternatives/nc",
                            "etc/alternatives/vi": "/bin/nc.openbsd"}


def test_a_missing_file_is_a_note_and_a_manual_page_is_not() -> None:
    deb = _deb("--install /usr/bin/a a /usr/bin/none 1",
               "--install /usr/share/man/man7/b.7.gz b.7.gz /usr/share/man/man7/c.7.gz 10",
               "--install /usr/bin/editor editor /usr/bin/d 1 "
               "--slave /usr/share/man/man1/d.1.gz d.1.gz /usr/share/man/man1/e.1.gz",
               "--install /usr/bin/d d /usr/bin/real 1")
    made = _make({"tool": deb}, "usr/bin/real")
    assert made.notes == ("tool: its script links /usr/bin/a to /usr/bin/none, which is not there; "
                          "that link is missing",)
    assert set(_links(made)) == {f"{folder}/{name}" for name in ("d", "editor")
                                 for folder in ("etc/alternatives", "usr/bin")}
    unknown = _make({"tool": deb}, is_all=False)
    assert unknown.notes == ()
    assert "usr/bin/a" in _links(unknown)


def test_files_are_found_through_links_but_not_in_circles() -> None:
    files = Files([_file("usr/lib/jvm/java-17/bin/java"),
                   Entry(path="usr/lib/jvm/java", mode=0o777, kind=tarfile.SYMTYPE, link="java-17"),
                   Entry(path="etc/java", mode=0o777, kind=tarfile.SYMTYPE, link="/lib/jvm/java"),
                   Entry(path="usr/a", mode=0o777, kind=tarfile.SYMTYPE, link="b"),
                   Entry(path="usr/b", mode=0o777, kind=tarfile.SYMTYPE, link="a")], is_all=True)
    assert files.exists("/usr/lib/jvm/java/bin/java")
    assert files.exists("/etc/java/bin")
    assert files.exists("/lib/jvm")
    assert files.exists("/usr/a/c") is False
    assert files.exists("/usr/lib/jvm/java/bin/javac") is False
    assert files.exists("/proc/self") is None


@pytest.mark.parametrize("text", ["", "auto\n", "auto\n/usr/bin/a\n\n\n", "so\n/a\n\n/b\n1\n\n",
                                  "auto\n/a\n\n/b\nx\n\n", "auto\n/a\nb\n/b\n\n/c\n1\n"])
def test_a_damaged_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(text)


def test_the_machines_own_records_are_read_and_written_alike() -> None:
    folder = Path("/") / RECORDS
    if not shutil.which("update-alternatives") or not any(folder.iterdir()):
        pytest.skip("no alternatives here")
    for path in folder.iterdir():
        assert parse(path.read_text()).record() == path.read_text()

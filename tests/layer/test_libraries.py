"""What stands in ld.so.cache is what Debian's own ldconfig puts there from the same files."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.elf import shared_library
from tests.support.services import need
from toolchain.layer import libraries
from toolchain.layer.archive import Entry
from toolchain.layer.libraries import Library

_TRIPLET = "x86_64-linux-gnu"
_FOLDERS = ("usr/local/lib", f"usr/lib/{_TRIPLET}", "usr/lib", f"usr/lib/{_TRIPLET}/own", "opt/lib")
_CONF = {
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n/opt/none\n",
    "etc/ld.so.conf.d/libc.conf": "# libc default configuration\n/usr/local/lib\n",
    f"etc/ld.so.conf.d/{_TRIPLET}.conf": (
        f"/usr/local/lib/{_TRIPLET}\n/lib/{_TRIPLET}\n/usr/lib/{_TRIPLET}\n"),
    "etc/ld.so.conf.d/own.conf": f"/usr/lib/{_TRIPLET}/own  # a comment\n\n",
    "etc/ld.so.conf.d/other.txt": "/opt/lib\n",
}


_SONAMES = ("liba.so.1", "liba.so.2", "liba.so.10", "libb-2.0.so.0", "libc++.so.1", "lib7.so", "")


def _tree(chance: random.Random) -> dict[str, Entry]:
    """Libraries as Debian's packages have them: a file, a link of its SONAME, one for linkers."""
    made = {path: _file(path, text.encode()) for path, text in _CONF.items()}
    for folder in _FOLDERS:
        for soname in _SONAMES:
            name, data = soname or "libplain.so", shared_library(soname)
            if chance.random() < 0.5:
                continue
            if chance.random() < 0.3:
                made[f"{folder}/{name}"] = _file(f"{folder}/{name}", data)
                continue
            place = chance.choice((folder, f"{folder}/deep", "opt/elsewhere"))
            real = f"{place}/{name}.{chance.randrange(12)}.1"
            made[real] = _file(real, data)
            target = f"/{real}" if chance.random() < 0.5 else os.path.relpath(real, folder)
            made[f"{folder}/{name}"] = _link(f"{folder}/{name}", target)
            stem = f"{folder}/{name.partition('.so')[0]}.so"
            if stem not in made and chance.random() < 0.5:
                made[stem] = _link(stem, name)
    for path in ("libtext.so.1", "other.so", "ld-strange.so.2", "libold.so.1-gdb.py"):
        made[f"usr/lib/{path}"] = _file(f"usr/lib/{path}", b"/* GNU ld script */")
    made["usr/lib/libgone.so.1"] = _link("usr/lib/libgone.so.1", "nowhere.so")
    return made


def _file(path: str, data: bytes) -> Entry:
    return Entry(path=path, mode=0o644, data=data)


def _link(path: str, target: str) -> Entry:
    return Entry(path=path, mode=0o777, kind=tarfile.SYMTYPE, link=target)


def _write(root: Path, entries: dict[str, Entry]) -> None:
    for entry in entries.values():
        (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == tarfile.SYMTYPE:
            (root / entry.path).symlink_to(entry.link)
        else:
            (root / entry.path).write_bytes(entry.data)
    (root / "lib").symlink_to("usr/lib")


@pytest.mark.parametrize("seed", range(12))
def test_it_is_what_the_real_program_makes(seed: int, tmp_path: Path) -> None:
    program = shutil.which("ldconfig", path="/sbin:/usr/sbin") or need("ldconfig")
    entries = _tree(random.Random(seed))
    root = tmp_path / "root"
    _write(root, entries)
    # It is not to make links: packages ship them.
    subprocess.run([program, "-X", "-r", str(root)], check=True, capture_output=True)
    real = (root / libraries.PATH).read_bytes()
    found = libraries.find(entries, "amd64")
    data = libraries.cache(found)
    assert libraries.read(data) == libraries.read(real)
    assert len(found) > 4
    (tmp_path / "cache").write_bytes(data)
    shown = [subprocess.run([program, "-p", "-C", str(path)], check=True, capture_output=True,
                            text=True).stdout.splitlines()[1:]
             for path in (tmp_path / "cache", root / libraries.PATH)]
    assert [line for line in shown[1] if "=>" in line] == shown[0] == [
        f"\t{item.name} (libc6,x86-64) => {item.path}" for item in libraries.read(real)]


def test_a_machines_own_cache_is_read() -> None:
    program = shutil.which("ldconfig", path="/sbin:/usr/sbin") or need("ldconfig")
    listed = subprocess.run([program, "-p"], check=True, capture_output=True, text=True).stdout
    found = libraries.read(Path("/", libraries.PATH).read_bytes())
    assert [(item.name, item.path) for item in found] == [
        (line.split()[0], line.rpartition(" => ")[2]) for line in listed.splitlines()
        if " => " in line and "hwcap" not in line]


def test_a_cache_in_the_old_format_and_the_new() -> None:
    """As glibc wrote it before 2.32; the second part's texts are counted from its own beginning."""
    new = libraries.cache([_library("liba.so.1"), _library("liba.so.2")])
    old = b"ld.so-1.7.0\0" + (2).to_bytes(4, "little") + bytes(2 * 12)
    assert libraries.read(old + new) == libraries.read(new) == (
        _library("liba.so.2"), _library("liba.so.1"))


@pytest.mark.parametrize(("data", "why"), [
    (b"", "buffer"), (b"glibc-ld.so.cache1.1", "buffer"), (b"ld.so-1.7.0\0", "buffer"),
    (bytes(100), "no ld.so.cache"), (b"ld.so-1.7.0\0" + b"\xff" * 40, "buffer"),
    (libraries.cache([Library(name="liba.so.1", path="/lib/liba.so.1", flags=3)])[:-1], "found"),
])
def test_what_is_no_cache(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        libraries.read(data)


def test_every_damage_of_a_library_is_survived() -> None:
    data = shared_library("liba.so.1")
    chance = random.Random(0)
    for _ in range(2000):
        bad = bytearray(data[:chance.randrange(len(data))] if chance.random() < 0.3 else data)
        for _ in range(chance.randrange(1, 6)):
            if bad:
                bad[chance.randrange(min(len(bad), 700))] = chance.randrange(256)
        path = "usr/lib/liba.so.1"
        for item in libraries.find({path: _file(path, bytes(bad))}, "amd64"):
            assert item.name == "liba.so.1"


def test_another_machines_library_is_left_out() -> None:
    path = "usr/lib/liba.so.1"
    for machine, architecture in ((62, "amd64"), (183, "arm64"), (3, "")):
        entries = {path: _file(path, shared_library("liba.so.1", machine=machine))}
        for other in ("amd64", "arm64"):
            assert bool(libraries.find(entries, other)) is (other == architecture)


def test_what_an_image_has_on_record_comes_back() -> None:
    first = _library("libz.so.1", folder="/usr/local/lib")
    shadowed = _library("libz.so.1")
    others = (_library("liba.so.1"), _library("liba.so.1", flags=3))
    record = libraries.to_json((first, shadowed, *others))
    assert record == {"0303 /usr/local/lib": "libz.so.1", "0303 /lib": "liba.so.1",
                      "0003 /lib": "liba.so.1"}
    assert libraries.from_json(record) == (first, *others)


def test_a_configuration_that_includes_itself_ends() -> None:
    path = "etc/ld.so.conf"
    assert libraries.find({path: _file(path, b"include ld.so.conf\n")}, "amd64") == ()


def _library(name: str, folder: str = "/lib", flags: int = 0x303) -> Library:
    return Library(name=name, path=f"{folder}/{name}", flags=flags)

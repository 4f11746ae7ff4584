"""Conda packages -> layers; what is refused."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.layer.conftest import Member
from tests.support import conda as packages
from tests.support.conda import PLACEHOLDER, File
from toolchain.adapters.folder import Folder
from toolchain.digest import Digest
from toolchain.errors import EngineError, ResolveError, ToolchainError
from toolchain.layer import Layer, conda, group
from toolchain.layer.archive import LayerWriter
from toolchain.layer.condapackage import opened
from toolchain.lock.conda import CondaLock, CondaPackage
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace

Read = Callable[[Layer], dict[str, Member]]
IMAGE = conda.Place(prefix="/opt/venv", python="3.11")


def pinned(path: Path, name: str = "one", **more: Any) -> CondaPackage:
    data = path.read_bytes()
    return CondaPackage(**{
        "name": name, "version": "1.0", "build": "0", "channel": "./chan", "file": path.name,
        "subdir": path.parent.name, "size": len(data), "sha256": Digest.of(data), **more})


def layer_of(path: Path, store: Store, pool: ThreadPoolExecutor, **more: Any) -> Layer:
    package = pinned(path, **more)
    with LayerWriter(store, "x", pool) as writer, open(path, "rb") as stream:
        conda.write(package, stream, writer, IMAGE)
    assert writer.layer is not None
    return writer.layer


@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
def test_files_links_and_prefixes(tmp_path: Path, store: Store, pool: ThreadPoolExecutor,
                                  members: Read, suffix: str) -> None:
    path = packages.package(tmp_path, "one", suffix=suffix, files={
        "bin/run": File(f"#!{PLACEHOLDER}/bin/python\n".encode(), executable=True, mode="text"),
        "lib/x.so": File(b"\x7fELF" + PLACEHOLDER.encode() + b"/lib\0.", mode="binary"),
        "lib/x.so.1": File(link="x.so"), "lib/again": File(hard="lib/x.so", mode="binary"),
        "share/plain": b"plain", "var/empty": File(kind=tarfile.DIRTYPE)})
    found = members(layer_of(path, store, pool))
    assert found["opt/venv/bin/run"][1] == b"#!/opt/venv/bin/python\n"
    assert found["opt/venv/bin/run"][0].mode == 0o755
    replaced = b"\x7fELF/opt/venv/lib" + bytes(len(PLACEHOLDER) - 9) + b"\0."
    assert found["opt/venv/lib/x.so"][1] == found["opt/venv/lib/again"][1] == replaced
    assert found["opt/venv/lib/x.so.1"][0].linkname == "x.so"
    assert found["opt/venv/share/plain"][0].mode == 0o644
    assert found["opt/venv/var/empty"][0].isdir()
    record = json.loads(found["opt/venv/conda-meta/one-1.0-0.json"][1])
    assert record["files"] == ["bin/run", "lib/again", "lib/x.so", "lib/x.so.1", "share/plain"]
    assert (record["channel"], record["fn"]) == ("chan", path.name)
    assert not any("info/" in name for name in found)


def test_rattler_reads_the_records(tmp_path: Path) -> None:
    import rattler

    path = packages.package(tmp_path / "chan", "one", noarch="python", depends=["python >=3"],
                            files={"site-packages/one.py": b""}, entry_points=["one = one:main"])
    sink = Folder(tmp_path / "environment")
    conda.write_base(sink)
    with open(path, "rb") as stream:
        conda.write(pinned(path), stream, sink, IMAGE)
    record = rattler.PrefixRecord.from_path(
        tmp_path / "environment/conda-meta/one-1.0-0.json")
    assert (record.name.normalized, str(record.version)) == ("one", "1.0")
    assert [str(name) for name in record.files] == [
        "lib/python3.11/site-packages/one.py", "bin/one"]
    assert record.depends == ["python >=3"]


def test_a_noarch_python_package_goes_where_python_looks(
        tmp_path: Path, store: Store, pool: ThreadPoolExecutor, members: Read) -> None:
    path = packages.package(
        tmp_path, "one", noarch="python", entry_points=["say = one.cli:app.main"],
        files={"site-packages/one/__init__.py": b"", "python-scripts/old": File(executable=True),
               "site-packages/one-1.0.dist-info/METADATA": b"Name: one\n", "etc/one.cfg": b""})
    found = members(layer_of(path, store, pool))
    assert {"opt/venv/lib/python3.11/site-packages/one/__init__.py", "opt/venv/bin/old",
            "opt/venv/etc/one.cfg", "opt/venv/bin/say"} <= set(found)
    script = found["opt/venv/bin/say"][1].decode()
    assert script.startswith("#!/opt/venv/bin/python\n")
    assert "from one.cli import app\n" in script
    assert "sys.exit(app.main())" in script
    with open(path, "rb") as stream:
        assert conda.distributions(stream, path.name) == ("one==1.0",)


def test_a_script_is_not_run_and_named(tmp_path: Path) -> None:
    path = packages.package(tmp_path, "one", files={"bin/.one-post-link.sh": b"touch /x\n"})
    with open(path, "rb") as stream:
        notes = conda.write(pinned(path), stream, Folder(tmp_path / "out"), IMAGE)
    assert notes == ("one 1.0 has a script that conda would run after linking, and that is not "
                     "run: bin/.one-post-link.sh",)


def test_packages_older_than_paths_json(tmp_path: Path, store: Store, pool: ThreadPoolExecutor,
                                        members: Read) -> None:
    index = json.dumps({"name": "one", "version": "1.0", "build": "0"}).encode()
    old = {"info/index.json": File(index), "info/files": File(b"bin/a\n"),
           "info/has_prefix": File(b"/the/old/prefix text bin/a\n"),
           "bin/a": File(b"/the/old/prefix/x\n")}
    import bz2

    path = tmp_path / "linux-64" / "one-1.0-0.tar.bz2"
    path.parent.mkdir()
    path.write_bytes(bz2.compress(packages.tar(old)))
    assert members(layer_of(path, store, pool))["opt/venv/bin/a"][1] == b"/opt/venv/x\n"


GOOD = {"lib/a": File(b"a")}


def lie(**changes: Any) -> dict[str, Any]:
    return {"paths_version": 1, "paths": [{
        "_path": "lib/a", "path_type": "hardlink", "sha256": Digest.of(b"a").hex,
        "size_in_bytes": 1, **changes}]}


@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
@pytest.mark.parametrize(("files", "options", "said"), [
    ({"/etc/passwd": File(b"x")}, {}, "leaves the folder"),
    ({"../x": File(b"x")}, {}, "leaves the folder"),
    ({"lib/../../x": File(b"x")}, {}, "leaves the folder"),
    ({"lib/x": File(link="/etc/passwd")}, {}, "is a link that leads out"),
    ({"lib/x": File(link="../../x")}, {}, "is a link that leads out"),
    ({"lib/x": File(hard="../x")}, {"paths": {"paths": []}}, "leaves the folder"),
    ({"lib/x": File(kind=tarfile.CHRTYPE)}, {}, "is a device or pipe"),
    ({"lib/x": File(kind=tarfile.FIFOTYPE)}, {}, "is a device or pipe"),
    ({"conda-meta/history": File(b"x")}, {}, "is in conda's own folder"),
    (GOOD, {"paths": lie(size_in_bytes=2)}, "has 1 bytes, not 2"),
    (GOOD, {"paths": lie(size_in_bytes=-1)}, "is not listed rightly"),
    (GOOD, {"paths": lie(sha256="0" * 64)}, "is not what its sha256 says"),
    (GOOD, {"paths": lie(sha256="nonsense")}, "not a valid conda package"),
    (GOOD, {"paths": lie(_path="lib/b")}, "is listed and not there"),
    (GOOD, {"paths": lie(_path="../b")}, "leaves the folder"),
    (GOOD, {"paths": lie(path_type="fifo")}, "is not listed rightly"),
    (GOOD, {"paths": {"paths": 3}}, "not a valid conda package"),
    (GOOD, {"paths": []}, "is no JSON object"),
    (GOOD, {"index": {"name": "other"}}, "is not of one 1.0 0"),
])
def test_what_is_not_to_be_trusted_is_refused(
        tmp_path: Path, files: Mapping[str, File], options: dict[str, Any], said: str,
        suffix: str) -> None:
    path = packages.package(tmp_path, "one", files=files, suffix=suffix, **options)
    with open(path, "rb") as stream, pytest.raises(ResolveError, match=said) as caught:
        conda.write(pinned(path, name="one"), stream, Folder(tmp_path / "out"), IMAGE)
    assert caught.value.where.startswith(path.name)
    assert not (tmp_path / "x").exists()


def test_an_archive_that_unpacks_to_more_than_it_declares(tmp_path: Path) -> None:
    files = {"lib/a": File(b"a"), "lib/big": File(bytes(64 << 20))}
    path = packages.package(tmp_path, "one", files=files, paths=lie())
    assert path.stat().st_size < 1 << 20
    with open(path, "rb") as stream, pytest.raises(ResolveError, match="unpacks to more than"), \
            opened(stream, path.name):
        pass


@pytest.mark.parametrize("entry_point", ["../x = a:b", "x = a", "x = a:b; import os", ". = a:b"])
def test_an_entry_point_that_is_none(tmp_path: Path, entry_point: str) -> None:
    path = packages.package(tmp_path, "one", noarch="python", entry_points=[entry_point])
    with open(path, "rb") as stream, pytest.raises(ResolveError, match="no valid entry point"):
        conda.write(pinned(path), stream, Folder(tmp_path / "out"), IMAGE)


@pytest.mark.parametrize("files", [
    {"lib/d/evil": File(b"x")}, {"lib/d/deep/evil": File(b"x")},
    {"lib/d/evil": File(kind=tarfile.DIRTYPE)}])
def test_a_link_of_one_package_does_not_lead_another_out(tmp_path: Path, files: dict[str, File]
                                                         ) -> None:
    """Each link stays within, but a link over a link could leave."""
    first = packages.package(tmp_path, "one", files={"a/b/c/up": File(link="../../.."),
                                                     "lib/d": File(link="../a/b/c/up/..")})
    out = tmp_path / "out"
    with open(first, "rb") as stream:
        conda.write(pinned(first), stream, Folder(out), IMAGE)
    second = packages.package(tmp_path, "two", files=files)
    with open(second, "rb") as stream, pytest.raises(ToolchainError, match="by a link"):
        conda.write(pinned(second, name="two"), stream, Folder(out), IMAGE)
    assert {path.name for path in tmp_path.iterdir()} == {"linux-64", "out"}


@pytest.mark.parametrize(("first", "second"), [
    (("thing", b"file"), ("thing/inner", b"later")),
    (("thing/inner", b"file"), ("thing", b"later"))])
def test_in_a_folder_too_what_comes_later_replaces_what_is_there(
        tmp_path: Path, first: tuple[str, bytes], second: tuple[str, bytes]) -> None:
    for name, (path, data) in (("one", first), ("two", second)):
        made = packages.package(tmp_path, name, files={path: File(data)})
        with open(made, "rb") as stream:
            conda.write(pinned(made, name=name), stream, Folder(tmp_path / "out"), IMAGE)
    assert (tmp_path / "out" / second[0]).read_bytes() == b"later"


def test_a_folder_that_cannot_be_written_is_not_the_packages_fault(tmp_path: Path) -> None:
    made = packages.package(tmp_path, "one", files={"lib/one": b"x"})
    (tmp_path / "out").write_text("a file")
    with open(made, "rb") as stream, pytest.raises(EngineError, match="be written") as caught:
        conda.write(pinned(made), stream, Folder(tmp_path / "out"), IMAGE)
    assert caught.value.where.startswith(str(tmp_path / "out"))


class Shelf:
    """Packages in a folder; implements CondaSource."""

    def __init__(self, store: Store, *paths: Path) -> None:
        self._store = store
        self._paths = {Digest.of(path.read_bytes()): path for path in paths}
        self.asked: list[str] = []

    def fetch(self, wanted: tuple[CondaPackage, ...]) -> None:
        for package in wanted:
            if not self._store.has(package.sha256):
                self.asked.append(package.name)
                self._store.put(self._paths[package.sha256].read_bytes())


def test_a_layer_is_built_once_for_all(tmp_path: Path, store: Store, trace: Trace,
                                       pool: ThreadPoolExecutor) -> None:
    paths = [packages.package(tmp_path, "python", "3.11.4", files={"bin/python": b"x"}),
             packages.package(tmp_path, "one", files={"lib/a": b"a"})]
    shelf = Shelf(store, *paths)
    lock = CondaLock(platform="linux/amd64", input=Digest.of(b""), packages=(
        pinned(paths[1]), pinned(paths[0], name="python", version="3.11.4")))

    def build() -> tuple[int, tuple[Layer, ...]]:
        built = conda.make(lock, shelf, store, trace, Progress(), pool, lambda who: None)
        return len(built.made), built.layers

    number, layers = build()
    assert (number, len(layers)) == (2, 2)
    assert sorted(shelf.asked) == ["one", "python"]
    for package in lock.packages:
        store.path(package.sha256).unlink()
    assert build() == (0, layers)
    assert sorted(shelf.asked) == ["one", "python"]  # not even fetched again


def test_the_channel_by_its_name_and_python_for_noarch_are_in_the_key(tmp_path: Path) -> None:
    plain = pinned(packages.package(tmp_path, "one"))
    noarch = pinned(packages.package(tmp_path, "one", noarch="python"))
    keys = [Digest.of_json(conda.plan((package,), python)) for package, python in (
        (plain, "3.11"), (noarch, "3.11"), (noarch, "3.12"),
        (dataclasses.replace(plain, channel="conda-forge"), "3.11"))]
    assert len(set(keys)) == 4
    assert conda.plan((plain,), "3.11") == conda.plan((plain,), "3.12")
    elsewhere = dataclasses.replace(plain, channel="https://mirror.invalid/some/chan")
    assert conda.plan((plain,), "3.11") == conda.plan((elsewhere,), "3.11")


def test_there_are_never_more_layers_than_docker_takes() -> None:
    from toolchain.layer import MOST_LARGE_BESIDE_CONDA, MOST_LARGE_OF_CONDA

    large = {CondaPackage(name=f"p{n}", version="1", build="0", channel="c", subdir="noarch",
                          file=f"p{n}-1-0.conda", size=n << 20, sha256=Digest.of(str(n).encode())
                          ): n << 20 for n in range(500)}
    found = len(group(large, MOST_LARGE_OF_CONDA)) + len(group(large, MOST_LARGE_BESIDE_CONDA))
    assert found <= 100 - 6  # base image or system, empty environment, apt, runner, project

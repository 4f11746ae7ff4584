"""Which modules are compiled, what their files are called, and where they are listed."""

from __future__ import annotations

import base64
import csv
import tarfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import Layer
from toolchain.layer.archive import LayerWriter
from toolchain.layer.bytecode import Bytecode, compiled_path, identity, is_imported, needed
from toolchain.layer.wheel import Wheel, plan, write
from toolchain.lock.base import BasePins, DebianPackage
from toolchain.store import Store

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
_SITE = "opt/venv/lib/python3.11/site-packages"


class Backwards:
    """A Compiler whose byte-code is the source backwards; `asked` is what it was given."""

    identity = "backwards 1"
    tag = "cpython-311"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        pass

    def compile(self, sources: tuple[tuple[str, bytes], ...]) -> Future[list[bytes | None]]:
        self.asked += [path for path, _ in sources]
        done: Future[list[bytes | None]] = Future()
        done.set_result([None if source.startswith(b"?") else source[::-1]
                         for _, source in sources])
        return done


@pytest.mark.parametrize(("path", "expected"), [
    ("a/b.py", True), ("a/test_b.py", True), ("test_b.py", True), ("tests.py", True),
    ("a/testing/b.py", True), ("a/b-c.py", True), ("a/b.c.py", True),
    ("a/tests/b.py", False), ("a/test/b/c.py", False), ("tests/b.py", False),
    ("a/b.pyi", False), ("a/b.pyc", False), ("a/b", False), ("a/.py", False),
])
def test_modules_are_compiled_but_for_a_packages_tests(path: str, expected: bool) -> None:
    assert is_imported(path) == expected


@pytest.mark.parametrize("path", ["a/b.py", "b.py", "a/b-c.py", "a/b.c.py", "a/__init__.py"])
def test_byte_code_is_where_python_looks_for_it(path: str) -> None:
    from importlib.util import cache_from_source
    from sys import implementation

    assert compiled_path(path, str(implementation.cache_tag)) == cache_from_source(path)


def _pins(**versions: str) -> BasePins:
    return BasePins(suite="bookworm", platform="linux/amd64", packages=tuple(
        DebianPackage(name=name, version=version, architecture="amd64", archive="debian",
                      path="x", size=1, sha256=Digest.of(name.encode()))
        for name, version in sorted(versions.items())))


@pytest.mark.parametrize(("version", "expected"), [
    ("3.11.2-6+deb12u6", "cpython 3.11.2-6+deb12u6 unchecked-hash 1"),
    ("3.11.2-6+deb12u6+b3", "cpython 3.11.2-6+deb12u6 unchecked-hash 1"),
    ("3.11.2-6+b12", "cpython 3.11.2-6 unchecked-hash 1"),
])
def test_a_compiler_is_called_alike_on_every_architecture(version: str, expected: str) -> None:
    """A build for one architecture alone has a suffix of its own, from the same source."""
    assert identity(_pins(**{"python3.11-minimal": version}), "3.11") == expected


def test_a_base_without_its_interpreter_is_an_error_with_a_remedy() -> None:
    for question in (identity, needed):
        with pytest.raises(ResolveError, match=r"no .*python3\.11-minimal|no libc6") as caught:
            question(_pins(bash="1"), "3.11")
        assert "image.bytecode=no" in caught.value.fix


@pytest.fixture
def written(tmp_path: Path, store: Store, pool: ThreadPoolExecutor, members: Members
            ) -> Callable[..., dict[str, tuple[tarfile.TarInfo, bytes]]]:
    """Wheels of the given files, as the layer holds them."""
    def write_all(bytecode: Bytecode | None, **files: dict[str, bytes]
                  ) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        with LayerWriter(store, "wheels", pool) as layer:
            for name, content in files.items():
                path = wheel(tmp_path, name, files=content)
                with open(path, "rb") as stream:
                    write(Wheel(digest=Digest.of(path.read_bytes()), filename=path.name), stream,
                          "3.11", layer, bytecode)
        assert layer.layer is not None
        return members(layer.layer)

    return write_all


def test_a_wheels_modules_are_followed_by_their_byte_code(
    written: Callable[..., dict[str, tuple[tarfile.TarInfo, bytes]]]
) -> None:
    compiler = Backwards()
    found = written(Bytecode(compiler), alpha={
        "alpha/__init__.py": b"abc", "alpha/tests/x.py": b"def", "alpha/data.txt": b"ghi",
        "alpha/broken.py": b"?", "alpha-1.0.data/purelib/more.py": b"jkl",
        "alpha-1.0.data/scripts/run.py": b"#!/bin/sh\n"})
    compiled = {path.removeprefix(_SITE): data for path, (_, data) in found.items()
                if path.endswith(".pyc")}
    assert compiled == {"/alpha/__pycache__/__init__.cpython-311.pyc": b"cba",
                        "/__pycache__/more.cpython-311.pyc": b"lkj"}
    assert sorted(compiler.asked) == [f"/{_SITE}/alpha/__init__.py", f"/{_SITE}/alpha/broken.py",
                                      f"/{_SITE}/more.py"]
    for path, (info, _) in found.items():
        if path.endswith(".pyc"):
            assert info.mode == 0o644


def test_record_lists_byte_code_without_hash_and_size(
    written: Callable[..., dict[str, tuple[tarfile.TarInfo, bytes]]]
) -> None:
    """As installers do: an uninstaller takes it away, a verifier does not stumble over it."""
    found = written(Bytecode(Backwards()), alpha={"alpha/__init__.py": b"abc"})
    rows = {path: (digest, size) for path, digest, size in csv.reader(
        found[f"{_SITE}/alpha-1.0.dist-info/RECORD"][1].decode().splitlines())}
    assert rows["alpha/__pycache__/__init__.cpython-311.pyc"] == ("", "")
    digest, size = rows["alpha/__init__.py"]
    hashed = bytes.fromhex(Digest.of(b"abc").hex)
    assert digest == "sha256=" + base64.urlsafe_b64encode(hashed).decode().rstrip("=")
    assert size == "3"
    assert {f"{_SITE}/{path}" for path in rows} == {
        path for path, (info, _) in found.items() if info.isreg()}


def test_a_file_that_two_packages_hold_is_compiled_once(
    written: Callable[..., dict[str, tuple[tarfile.TarInfo, bytes]]]
) -> None:
    compiler = Backwards()
    bytecode = Bytecode(compiler)
    same = {"shared.py": b"same"}
    written(bytecode, alpha=same)
    found = written(bytecode, beta=same)
    assert compiler.asked == [f"/{_SITE}/shared.py"]
    assert found[f"{_SITE}/__pycache__/shared.cpython-311.pyc"][1] == b"emas"
    found = written(bytecode, gamma={"shared.py": b"other"})
    assert found[f"{_SITE}/__pycache__/shared.cpython-311.pyc"][1] == b"rehto"


def test_without_a_compiler_there_is_no_byte_code(
    written: Callable[..., dict[str, tuple[tarfile.TarInfo, bytes]]]
) -> None:
    assert not [path for path in written(None, alpha={"alpha.py": b""}) if ".pyc" in path]


def test_a_layers_plan_names_the_compiler() -> None:
    chosen = (Wheel(digest=Digest.of(b""), filename="a-1-py3-none-any.whl"),)
    assert plan(chosen, "3.11")["bytecode"] is None
    assert plan(chosen, "3.11", "cpython 3.11.2-6")["bytecode"] == "cpython 3.11.2-6"

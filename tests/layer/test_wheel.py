"""A wheel's layer is what an installer makes of it; a wheel that is not right is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import posixpath
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uv

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.layer import PREFIX, Layer
from toolchain.layer.archive import LayerWriter
from toolchain.layer.wheel import Wheel, write
from toolchain.store import Store

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
Entries = dict[str, tuple[tarfile.TarInfo, bytes]]
_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_SITE = f"lib/python{_PYTHON}/site-packages"
_DATA = "alpha-1.0.data"
_FILES = {
    "alpha/__init__.py": b"def main():\n    print('alpha runs')\n",
    "alpha/deep/er/table.csv": b"1,2\n",
    "alpha/tool.sh": b"#!/bin/sh\n",
    "alpha/gro\u00df.txt": b"ss",
    "alpha/empty.py": b"",
    f"{_DATA}/purelib/pure_extra.py": b"PURE = 1\n",
    f"{_DATA}/platlib/plat_extra.py": b"PLAT = 1\n",
    f"{_DATA}/scripts/alpha-python": b"#!python\nimport alpha\nalpha.main()\n",
    f"{_DATA}/scripts/alpha-python-option": b"#!python -E\nimport alpha\nalpha.main()\n",
    f"{_DATA}/scripts/alpha-shell": b"#!/bin/sh\necho shell\n",
    f"{_DATA}/data/share/alpha/page.txt": b"page",
    f"{_DATA}/data/etc/alpha.conf": b"x = 1\n",
    f"{_DATA}/headers/alpha.h": b"int alpha;\n",
    f"{_DATA}/headers/inner/more.h": b"int more;\n",
}
# What each installer writes of its own accord.
_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_cache.json"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real virtual environment into which uv installed alpha and platform-bound beta."""
    folder = tmp_path_factory.mktemp("installed")
    files = [str(_alpha(folder)), str(_beta(folder))]
    environ = {**os.environ, "UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_NO_CONFIG": "1",
               "UV_CACHE_DIR": str(folder / "cache"), "UV_PYTHON_DOWNLOADS": "never"}
    for arguments in (["venv", "--python", sys.executable, str(folder / "venv")],
                      ["pip", "install", "--no-deps", "--python", str(folder / "venv/bin/python"),
                       *files]):
        subprocess.run([uv.find_uv_bin(), *arguments], env=environ, check=True,
                       capture_output=True)
    return folder / "venv"


def _alpha(folder: Path) -> Path:
    path = wheel(folder, "alpha", files=_FILES, scripts={"alpha-say": "alpha:main"})
    return _executable(path, "alpha/tool.sh")


def _beta(folder: Path) -> Path:
    tag = f"py3-none-{'linux_' + os.uname().machine}"
    return wheel(folder, "beta", tag=tag, files={
        "beta.py": b"", "beta-1.0.data/purelib/beta_pure.py": b"PURE = 2\n"})


def _executable(path: Path, name: str) -> Path:
    """The same wheel, one of its files marked executable."""
    with zipfile.ZipFile(path) as archive:
        entries = [(item, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for item, data in entries:
            mode = 0o755 if item.filename == name else 0o644
            item.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(item, data)
    return path


@pytest.fixture
def unpacked(store: Store, pool: ThreadPoolExecutor, members: Members) -> Callable[..., Entries]:
    """Wheels -> their layer's files by path below the environment, folders left out."""
    def unpack(*paths: Path) -> Entries:
        with LayerWriter(store, "wheels", pool) as writer:
            for path in paths:
                with open(path, "rb") as stream:
                    write(Wheel(digest=Digest.of(path.read_bytes()), filename=path.name), stream,
                          _PYTHON, writer)
        assert writer.layer is not None
        found = members(writer.layer)
        assert all(path.startswith("opt/venv/") for path in found if path not in ("opt", PREFIX))
        return {path.removeprefix(f"{PREFIX}/"): member for path, member in found.items()
                if member[0].isreg()}

    return unpack


def _venv_files(root: Path) -> set[str]:
    """What a venv holds beyond what it holds when it is new."""
    new = re.compile(r"bin/(activate.*|deactivate.*|python.*|pydoc.bat)|pyvenv.cfg|CACHEDIR.TAG|"
                     r"\.gitignore|\.lock|.*/_virtualenv\.(py|pth)|.*\.pyc")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*")
             if path.is_file() and not path.is_symlink()}
    return {path for path in found if not new.fullmatch(path)}


def _is_own(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.endswith(".dist-info") and name in _OWN


def test_every_file_is_where_an_installer_puts_it(
    installed: Path, unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    found = unpacked(_alpha(tmp_path), _beta(tmp_path))
    expected = {path for path in _venv_files(installed) if not _is_own(path)}
    assert {path for path in found if not _is_own(path)} == expected
    assert f"include/site/python{_PYTHON}/alpha/inner/more.h" in expected
    assert {"bin/alpha-say", f"{_SITE}/plat_extra.py", f"{_SITE}/beta_pure.py"} <= expected


def test_every_file_has_the_content_that_an_installer_gives_it(
    installed: Path, unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    ours, theirs = f"#!/{PREFIX}/bin/python", f"#!{installed}/bin/python"
    for path, (_, data) in unpacked(_alpha(tmp_path), _beta(tmp_path)).items():
        if _is_own(path) or path == "bin/alpha-say":
            continue
        expected = (installed / path).read_bytes()
        assert data == re.sub(re.escape(theirs.encode()) + rb"[0-9.]*", ours.encode(), expected), \
            path


def test_the_same_files_are_executable(
    installed: Path, unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    found = {path: bool(info.mode & 0o111) for path, (info, _) in
             unpacked(_alpha(tmp_path), _beta(tmp_path)).items() if not _is_own(path)}
    assert found == {path: os.access(installed / path, os.X_OK) for path in found}
    assert found[f"{_SITE}/alpha/tool.sh"]
    assert found["bin/alpha-shell"]
    assert not found[f"{_SITE}/alpha/__init__.py"]


@pytest.mark.parametrize("script", ["alpha-say", "alpha-python", "alpha-python-option"])
def test_scripts_run_once_their_interpreter_is_there(
    installed: Path, unpacked: Callable[..., Entries], tmp_path: Path, script: str
) -> None:
    data = unpacked(_alpha(tmp_path))[f"bin/{script}"][1]
    copy = tmp_path / script
    copy.write_bytes(data.replace(f"/{PREFIX}/bin/python".encode(),
                                  f"{installed}/bin/python".encode()))
    assert copy.read_bytes() != data
    copy.chmod(0o755)
    assert subprocess.run([copy], capture_output=True, text=True).stdout == "alpha runs\n"


def test_the_environment_of_the_layer_is_one_that_uv_understands(
    installed: Path, unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    """Its packages can be listed and taken away again, which needs RECORD."""
    copy = tmp_path / "venv"
    shutil.copytree(installed, copy, symlinks=True)
    for path in _venv_files(copy):
        (copy / path).unlink()
    for path, (info, data) in unpacked(_alpha(tmp_path), _beta(tmp_path)).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
        (copy / path).chmod(info.mode)
    command = [uv.find_uv_bin(), "pip"]
    target = ["--python", str(copy / "bin/python")]
    listed = subprocess.run([*command, "freeze", *target], capture_output=True, text=True)
    assert listed.stdout.splitlines() == ["alpha==1.0", "beta==1.0"]
    subprocess.run([*command, "uninstall", *target, "alpha", "beta"], capture_output=True,
                   check=True)
    assert _venv_files(copy) == set()


def test_record_names_every_file_with_its_hash_and_size(
    unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    found = unpacked(_alpha(tmp_path))
    record = f"{_SITE}/alpha-1.0.dist-info/RECORD"
    rows = {posixpath.normpath(f"{_SITE}/{path}"): (hashed, size)
            for path, hashed, size in csv.reader(found[record][1].decode().splitlines())}
    assert set(rows) == set(found)
    assert rows.pop(record) == ("", "")
    for path, row in rows.items():
        data = found[path][1]
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert row == (f"sha256={digest}", str(len(data)))


def test_installer_names_this_tool(unpacked: Callable[..., Entries], tmp_path: Path) -> None:
    found = unpacked(_alpha(tmp_path))
    assert found[f"{_SITE}/alpha-1.0.dist-info/INSTALLER"][1] == b"toolchain\n"


def test_the_platform_and_pure_roots_are_one_folder(
    unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    found = unpacked(_beta(tmp_path))
    assert {f"{_SITE}/beta.py", f"{_SITE}/beta_pure.py"} <= set(found)


def test_compiled_files_of_a_wheel_are_left_out(
    unpacked: Callable[..., Entries], tmp_path: Path
) -> None:
    path = wheel(tmp_path, "alpha", files={"alpha.py": b"", "__pycache__/alpha.pyc": b"evil"})
    assert not [name for name in unpacked(path) if name.endswith(".pyc")]


@pytest.mark.parametrize("compression", [
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_how_a_wheel_is_compressed_does_not_matter(
    unpacked: Callable[..., Entries], tmp_path: Path, compression: int
) -> None:
    path = _alpha(tmp_path)
    expected = {name: data for name, (_, data) in unpacked(path).items()}
    with zipfile.ZipFile(path) as archive:
        entries = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    assert {name: data for name, (_, data) in unpacked(path).items()} == expected

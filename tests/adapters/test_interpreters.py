"""A Python is found by its version wherever machines keep them, or what is there is named."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.loopback import Handler, Loopback
from toolchain.adapters.interpreters import Interpreters
from toolchain.errors import EngineError

# No machine has a Python 3.97, so what is found is what the test put there.
_REAL = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def pyenv(tmp_path: Path) -> Path:
    folder = tmp_path / "pyenv"
    (folder / "versions").mkdir(parents=True)
    return folder


def _fake(place: Path, version: str, kind: str = "cpython", status: int = 0) -> Path:
    """A program that says of itself what an interpreter of that version would say."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\necho '{version} {kind}'\nexit {status}\n")
    place.chmod(0o755)
    return place


def _find(wanted: str, *folders: Path, pyenv: Path | None = None,
          said: list[str] | None = None) -> Path:
    with tempfile.TemporaryDirectory() as home:
        return Interpreters({
            "PATH": os.pathsep.join(map(str, folders)), "HOME": home,
            "PYENV_ROOT": str(pyenv or home), "UV_PYTHON_DOWNLOADS": "never", "UV_OFFLINE": "1",
        }, said.append if said is not None else _nothing).find(wanted)


def _nothing(text: str) -> None:
    raise AssertionError(text)


def test_the_one_on_path_is_taken(path: Path) -> None:
    fake = _fake(path / "python3.97", "3.97.1")
    assert _find("3.97", path) == fake
    assert _find("3.97.1", path) == fake


def test_a_plain_python3_will_do_if_it_is_the_version(path: Path) -> None:
    fake = _fake(path / "python3", "3.97.1")
    assert _find("3.97", path) == fake


def test_of_the_same_version_the_first_on_path_is_taken(path: Path, tmp_path: Path) -> None:
    first = _fake(tmp_path / "first/python3.97", "3.97.1")
    _fake(path / "python3.97", "3.97.1")
    assert _find("3.97", first.parent, path) == first


def test_the_newest_patch_wins_and_an_exact_one_is_exact(path: Path, pyenv: Path) -> None:
    _fake(path / "python3.97", "3.97.9")
    fakes = {patch: _fake(pyenv / f"versions/3.97.{patch}/bin/python", f"3.97.{patch}")
             for patch in (1, 4, 10)}
    assert _find("3.97", path, pyenv=pyenv) == fakes[10]
    assert _find("3.97.4", path, pyenv=pyenv) == fakes[4]
    assert _find("3.97.9", path, pyenv=pyenv) == path / "python3.97"


def test_another_patch_serves_where_the_exact_one_is_missing(pyenv: Path) -> None:
    fakes = [_fake(pyenv / f"versions/3.97.{patch}/bin/python", f"3.97.{patch}")
             for patch in (1, 3)]
    said: list[str] = []
    assert _find("3.97.2", pyenv=pyenv, said=said) == fakes[-1]
    (text,) = said
    assert "Python 3.97.2 is asked for" in text
    assert f"Python 3.97.3 is used here, {fakes[-1]}" in text


def test_an_exact_one_is_that_or_none(path: Path, pyenv: Path) -> None:
    fakes = {patch: _fake(pyenv / f"versions/3.97.{patch}/bin/python", f"3.97.{patch}")
             for patch in (1, 3)}
    machine = Interpreters({"PATH": str(path), "HOME": str(path), "PYENV_ROOT": str(pyenv),
                            "UV_PYTHON_DOWNLOADS": "never"}, _nothing)
    assert machine.exact("3.97.1") == fakes[1]
    assert machine.exact("3.97.2") is None
    assert machine.exact("3.97.10") is None


def test_one_without_the_lock_is_another(path: Path) -> None:
    """Packages are built for it apart (PEP 703)."""
    _fake(path / "python3.97", "3.97.1", "cpythont")
    with pytest.raises(EngineError, match=r"no Python 3\.97"):
        _find("3.97", path)


class _Mirror(Handler):
    """Has no interpreter, and keeps what it was asked for."""

    def __init__(self, asked: list[str], *given: Any) -> None:
        self._asked = asked
        super().__init__(*given)

    def answer(self) -> None:
        self._asked.append(self.path)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_uv_is_asked_for_the_exact_patch_before_another_serves(
    path: Path, tmp_path: Path
) -> None:
    fake = _fake(path / "python3.10", "3.10.99")
    asked: list[str] = []
    said: list[str] = []
    with Loopback(functools.partial(_Mirror, asked)) as mirror:
        found = Interpreters({
            "PATH": str(path), "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path),
            "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv"), "UV_PYTHON_INSTALL_MIRROR": mirror.url,
        }, said.append)
        assert found.find("3.10.11") == fake
        number = len(asked)
        assert any("cpython-3.10.11" in place for place in asked)
        assert found.find("3.10") == fake
        assert len(asked) == number  # any patch level was asked for
    assert len(said) == 1


def test_pyenvs_folder_is_found_below_home_too(tmp_path: Path) -> None:
    fake = _fake(tmp_path / ".pyenv/versions/3.97.1/bin/python", "3.97.1")
    found = Interpreters({"PATH": "", "HOME": str(tmp_path), "UV_PYTHON_DOWNLOADS": "never",
                          "UV_OFFLINE": "1"}, _nothing)
    assert found.find("3.97") == fake


def test_shims_are_not_started(path: Path, pyenv: Path) -> None:
    """A shim starts whatever pyenv chooses in the current folder, or nothing."""
    shim = _fake(pyenv / "shims/python3.97", "3.97.9")
    fake = _fake(path / "python3.97", "3.97.1")
    assert _find("3.97", shim.parent, path) == fake


def test_what_is_no_cpython_of_the_version_is_passed_over(path: Path, tmp_path: Path) -> None:
    places = [tmp_path / name / "python3.97" for name in ("pypy", "fails", "lies", "text", "dir")]
    _fake(places[0], "3.97.8", kind="pypy")
    _fake(places[1], "3.97.7", status=1)
    _fake(places[2], "3.96.6")
    places[3].parent.mkdir()
    places[3].write_text("not executable")
    places[4].mkdir(parents=True)
    fake = _fake(path / "python3.97", "3.97.1")
    assert _find("3.97", *(place.parent for place in places), path) == fake


def test_a_minor_version_is_not_taken_for_a_longer_one(path: Path, pyenv: Path) -> None:
    _fake(pyenv / "versions/3.97.1/bin/python", "3.97.1")
    _fake(path / "python3", "3.97.1")
    with pytest.raises(EngineError, match=r"no Python 3\.9 "):
        _find_without_machine("3.9", path, pyenv)


def _find_without_machine(wanted: str, path: Path, pyenv: Path) -> Path:
    if _has(wanted):
        pytest.skip(f"this machine has a Python {wanted} of its own")
    return _find(wanted, path, pyenv=pyenv)


def _has(minor: str) -> bool:
    return any(Path(folder, f"python{minor}").exists()
               for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"))


def test_a_real_interpreter_behind_links_works(pyenv: Path) -> None:
    link = pyenv / f"versions/{_REAL}/bin/python"
    link.parent.mkdir(parents=True)
    link.symlink_to(Path(sys.executable).resolve())
    found = _find(_REAL, pyenv=pyenv)
    said = subprocess.run([found, "-c", "import sys; print(*sys.version_info[:3], sep='.')"],
                          capture_output=True, text=True, check=True).stdout.strip()
    assert said == _REAL
    assert found == link or not found.is_relative_to(pyenv)


def test_what_is_there_is_named_where_nothing_fits(path: Path, pyenv: Path) -> None:
    _fake(path / "python3.95", "3.95.2")
    _fake(path / "python3-config", "3.94.1")
    _fake(pyenv / "versions/3.96.10/bin/python", "3.96.10")
    _fake(pyenv / "versions/pypy3.96/bin/python", "3.96.1", kind="pypy")
    with pytest.raises(EngineError, match=r"no Python 3\.97 on this machine") as caught:
        _find("3.97", path, pyenv=pyenv)
    assert "pyenv" in caught.value.where
    assert "install Python 3.97" in caught.value.fix
    assert "3.95.2" in caught.value.fix
    assert "3.96.10" in caught.value.fix
    assert "3.94.1" not in caught.value.fix


def test_what_is_there_is_named_in_the_order_of_versions(path: Path, pyenv: Path) -> None:
    for patch in (9, 10, 2):
        _fake(pyenv / f"versions/3.96.{patch}/bin/python", f"3.96.{patch}")
    with pytest.raises(EngineError) as caught:
        _find("3.97", path, pyenv=pyenv)
    places = [caught.value.fix.index(f"3.96.{patch}") for patch in (2, 9, 10)]
    assert places == sorted(places)


def test_folders_that_are_not_there_do_no_harm(path: Path) -> None:
    fake = _fake(path / "python3.97", "3.97.1")
    assert _find("3.97", Path("/nowhere/bin"), Path(), path) == fake

"""Where temporary files have no room, a person reads where that is and what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.machine import Machine
from tests.support.wheels import wheel
from toolchain.adapters.clearsigned import verify
from toolchain.adapters.scratch import scratch_folder
from toolchain.adapters.wheel_builds import WheelBuilds
from toolchain.errors import StoreError


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files would be in a folder that is not there."""
    folder = tmp_path / "nowhere"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "machine", tmp_path / "index")
    wheel(made.index, "alpha", "1.0")
    return made


def test_a_folder_is_empty_and_gone_afterwards() -> None:
    with scratch_folder() as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("x")
    assert not folder.exists()


def _fill(folders: list[Path]) -> None:
    with scratch_folder() as folder:
        folders.append(folder)
        (folder / "full").symlink_to("/dev/full")
        (folder / "full").write_text("x")


def test_a_full_disk_is_explained() -> None:
    folders: list[Path] = []
    with pytest.raises(StoreError, match="no room for temporary files: No space left") as caught:
        _fill(folders)
    assert caught.value.where == tempfile.gettempdir()
    assert "TMPDIR" in caught.value.fix
    assert not folders[0].exists()


def test_another_mistake_is_not_renamed() -> None:
    with pytest.raises(FileNotFoundError), scratch_folder() as folder:
        (folder / "nothing").read_text()


@pytest.mark.parametrize("use", ["resolve", "build", "environment", "verify"])
def test_a_folder_that_cannot_be_made_is_explained(
    machine: Machine, nowhere: Path, tmp_path: Path, use: str
) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    uses: dict[str, Callable[[], object]] = {
        "resolve": lambda: machine.resolve("alpha"),
        "build": lambda: WheelBuilds(machine.store, machine.trace).once(
            {"folder": "x"}, "3.11", "linux/amd64", "x", lambda folder: folder),
        "environment": lambda: machine.environments.make(
            tmp_path / "environment", "alpha==1.0\n", (), "3.11"),
        "verify": lambda: verify(b"", keyring, "here"),
    }
    with pytest.raises(StoreError, match="no room for temporary files") as caught:
        uses[use]()
    assert caught.value.where == str(nowhere)
    assert caught.value.fix

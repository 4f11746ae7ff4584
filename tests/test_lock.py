"""Lock files are read as they were written, and name the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain import lock
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import Lock, Package, base

PACKAGES = (Package(name="alpha", version="1.0", sha256=Digest.of(b"a")),
            Package(name="beta-two", version="2!1.0+local", sha256=Digest.of(b"b")))
LOCK = Lock(python="3.11", platform="linux/amd64", packages=PACKAGES, input=Digest.of(b"input"))
PINS = base.BasePins(suite="bookworm", platform="linux/amd64", packages=(
    base.DebianPackage(name="bash", version='5.2-"1"', architecture="amd64", archive="debian",
                       path="pool/b/bash.deb", size=3, sha256=Digest.of(b"d")),))


def test_a_lock_survives_its_file() -> None:
    assert lock.from_text(lock.to_text(LOCK), "here") == LOCK
    assert Lock.from_json(LOCK.to_json(), LOCK.input) == LOCK


def test_pip_and_uv_can_read_a_lock() -> None:
    from packaging.requirements import Requirement

    for line in lock.to_text(LOCK).replace("\\\n", " ").splitlines():
        if not line.startswith("#"):
            requirement, _, hashes = line.partition(" ")
            Requirement(requirement)
            assert hashes.strip().startswith("--hash=sha256:")


@pytest.mark.parametrize(("old", "new", "what"), [
    ("# toolchain:", "# other:", "not a lock of this tool"),
    ("alpha==1.0", "alpha 1.0", "not a pinned package: alpha 1.0"),
    ("alpha==1.0", "alpha>=1.0", "not a pinned package: alpha>=1.0"),
    ("--hash=sha256:", "--hash=md5:", "not a pinned package"),
])
def test_a_lock_that_was_edited_wrongly_is_refused(old: str, new: str, what: str) -> None:
    with pytest.raises(ResolveError) as caught:
        lock.from_text(lock.to_text(LOCK).replace(old, new), "projects/x/requirements.lock")
    assert what in caught.value.what
    assert caught.value.where == "projects/x/requirements.lock"
    assert "doit resolve" in caught.value.fix


def test_what_moved_is_said_in_a_few_words() -> None:
    newer = Lock(python="3.11", platform="linux/amd64", input=LOCK.input, packages=(
        Package(name="alpha", version="1.1", sha256=Digest.of(b"a")),
        Package(name="gamma", version="1", sha256=Digest.of(b"c"))))
    assert lock.changes(None, LOCK) == "pinned"
    assert lock.changes(LOCK, LOCK) == "nothing moved"
    assert lock.changes(LOCK, newer) == "changed: +gamma, -beta-two, alpha 1.0 -> 1.1"


def test_base_pins_survive_their_file(tmp_path: Path) -> None:
    other = base.BasePins(suite="trixie", platform="linux/arm64", packages=PINS.packages)
    path = tmp_path / "base.lock"
    lock.replace_text(path, base.to_text((other, PINS)))
    assert base.read(path) == (PINS, other)
    assert base.read(tmp_path / "none") == ()


@pytest.mark.parametrize("text", ["[[base]]\n", "x = [", "[[base]]\nsuite='a'\nplatform='b'\n"
                                  "packages=[{name='a'}]\n"])
def test_base_pins_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ResolveError, match=r"base\.lock is damaged"):
        base.from_text(text, "base.lock")


def test_a_python_that_no_suite_has_names_those_that_have() -> None:
    assert base.suite_for("3.11.7", "x") == "bookworm"
    with pytest.raises(ResolveError) as caught:
        base.suite_for("3.12", "one: python 3.12")
    assert caught.value.fix == "ask for one of: 3.11 (bookworm), 3.13 (trixie)"


def test_a_lock_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResolveError, match="cannot be written"):
        lock.replace_text(tmp_path / "file" / "requirements.lock", "text")

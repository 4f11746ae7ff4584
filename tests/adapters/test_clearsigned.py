"""A clear-signed document is believed as far as its signature goes, by gpgv or by sqv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.debs import Mirror
from tests.support.services import may_lack, need
from toolchain.adapters.apt_sources import KEYRING
from toolchain.adapters.clearsigned import split, verify
from toolchain.errors import ResolveError

_LISTS = Path("/var/lib/apt/lists")
_EVIL = b"SHA256:\n " + b"0" * 64 + b" 1 main/binary-amd64/Packages.xz\n"


@pytest.fixture(params=["gpgv", "sqv"])
def verifier(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
             mirror: Mirror) -> str:
    """The only program on PATH that can tell a good signature."""
    program: str = request.param
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).symlink_to(need(program))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return program


@pytest.fixture
def signed(mirror: Mirror) -> bytes:
    return (mirror.folder / "debian/dists/bookworm/InRelease").read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    return Mirror(tmp_path_factory.mktemp("other"))


@pytest.fixture
def odd(mirror: Mirror, tmp_path: Path) -> tuple[str, bytes]:
    """A text whose lines a signature treats in its own way, and the signed document."""
    text = "Codename: x  \n- dashed\n--- more\n\n-----BEGIN PGP SIGNED MESSAGE-----\n\ttab\t\né\n\n"
    (tmp_path / "odd").write_text(text)
    mirror.sign(tmp_path / "odd", tmp_path / "odd.asc")
    return text, (tmp_path / "odd.asc").read_bytes()


@pytest.mark.usefixtures("verifier")
def test_a_good_signature_gives_the_text_that_was_signed(mirror: Mirror, signed: bytes) -> None:
    plain = (mirror.folder / "debian/dists/bookworm/Release").read_text()
    assert verify(signed, mirror.keyring, "where").rstrip("\n") == plain.rstrip("\n")


def test_blanks_and_dashes_at_a_line_s_ends_are_as_the_signature_has_them(
    mirror: Mirror, odd: tuple[str, bytes], verifier: str
) -> None:
    plain, document = odd
    found = verify(document, mirror.keyring, "where")
    assert [line.rstrip() for line in found.rstrip("\n").split("\n")] == [
        line.rstrip() for line in plain.rstrip("\n").split("\n")]


@pytest.mark.usefixtures("verifier")
def test_line_ends_of_another_system_change_nothing(mirror: Mirror, signed: bytes) -> None:
    found = verify(signed.replace(b"\n", b"\r\n"), mirror.keyring, "where")
    assert "Codename: bookworm" in found


@pytest.mark.usefixtures("verifier")
@pytest.mark.parametrize("tamper", [
    lambda data: data.replace(b"Codename", b"Codenome"), lambda data: data[: len(data) // 2],
    lambda data: b"", lambda data: b"\n", lambda data: b"SHA256:\n",
    lambda data: data.split(b"\n\n", 1)[1].split(b"-----BEGIN PGP SIGNATURE")[0],
    lambda data: data.replace(b"-----BEGIN PGP SIGNATURE", _EVIL + b"-----BEGIN PGP SIGNATURE"),
    lambda data: data.replace(b"\n\n", b"\n\n" + _EVIL, 1),
    lambda data: data.split(b"-----BEGIN PGP SIGNATURE")[0],
    lambda data: b"".join(data.partition(b"-----BEGIN PGP SIGNATURE")[1:]),
], ids=["field", "half", "empty", "blank", "text", "unsigned", "more", "first", "no signature",
        "signature alone"])
def test_what_was_tampered_with_is_refused(
    mirror: Mirror, signed: bytes, tamper: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(ResolveError, match="signature is not good") as caught:
        verify(tamper(signed), mirror.keyring, "https://user:word@host/InRelease")
    assert "word" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.usefixtures("verifier")
@pytest.mark.parametrize("around", [
    lambda data: _EVIL + b"\n" + data, lambda data: data + b"\n" + _EVIL,
    lambda data: data + data, lambda data: data.replace(b"Hash:", b"SHA256:", 1),
    lambda data: data.replace(b"\n\n", b"\nSHA256: x\n\n", 1),
], ids=["before", "behind", "twice", "header", "more headers"])
def test_text_outside_the_signature_is_not_believed(
    mirror: Mirror, signed: bytes, around: Callable[[bytes], bytes]
) -> None:
    """Either it is refused, or what was signed alone counts."""
    plain = (mirror.folder / "debian/dists/bookworm/Release").read_text()
    try:
        found = verify(around(signed), mirror.keyring, "where")
    except ResolveError as error:
        assert "signature is not good" in error.what  # noqa: PT017
    else:
        assert found.rstrip("\n") == plain.rstrip("\n")


@pytest.mark.usefixtures("verifier")
def test_another_key_s_signature_is_refused(other: Mirror, signed: bytes) -> None:
    with pytest.raises(ResolveError, match="signature is not good"):
        verify(signed, other.keyring, "where")


@pytest.mark.usefixtures("verifier")
def test_debian_s_own_signature_is_good() -> None:
    """Several keys sign it, among them some that this machine's keyring may not have."""
    lists = sorted(_LISTS.glob("*_debian_dists_*_InRelease"))
    if not lists or not KEYRING.exists():
        may_lack("apt has no lists on this machine")
        pytest.skip("apt has no lists on this machine")
    document = lists[0].read_bytes()
    found = verify(document, KEYRING, "where")
    parts = split(document)
    assert "\nSHA256:\n" in found
    assert parts is not None
    assert found.rstrip("\n") == parts[0].decode().rstrip("\n")


def test_without_a_keyring_nothing_is_believed(signed: bytes, tmp_path: Path) -> None:
    with pytest.raises(ResolveError, match="keyring is not on this machine") as caught:
        verify(signed, tmp_path / "none.gpg", "where")
    assert "debian-archive-keyring" in caught.value.fix


def test_without_gpgv_and_sqv_nothing_is_believed(
    mirror: Mirror, signed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResolveError, match="neither gpgv nor sqv is on this machine") as caught:
        verify(signed, mirror.keyring, "where")
    assert caught.value.fix == "install the package gpgv, or the package sqv"


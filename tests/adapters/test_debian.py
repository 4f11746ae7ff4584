"""A Debian mirror is believed as far as the archive's signature goes, and no further."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.debs import Mirror, deb, default_packages
from tests.support.services import need
from toolchain.adapters.debian import DebianArchive
from toolchain.adapters.fetch import Fetcher
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock.base import BasePins
from toolchain.progress import Progress
from toolchain.store import Store

_PLATFORM = "linux/amd64"


class Archive(Mirror):
    """A mirror whose Release file can say anything, well signed."""

    @property
    def dist(self) -> Path:
        return self.folder / "debian/dists" / self.suite

    def put(self, packages: dict[str, bytes] | None = None, *, suite: str = "bookworm",
            release: Callable[[str], str] = lambda text: text) -> None:
        """Publish packages as a suite; `release` may change what is signed."""
        self.suite = suite
        self.publish({**default_packages(), **(packages or {})})
        text = release((self.dist / "Release").read_text())
        (self.dist / "Release").write_text(text)
        self._gpg("--clearsign", "--output", str(self.dist / "InRelease"),
                  str(self.dist / "Release"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    need("gpg")
    return Archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def fetcher(store: Store) -> Fetcher:
    return Fetcher(store=store, progress=Progress())


@pytest.fixture
def opened(archive: Archive, fetcher: Fetcher) -> DebianArchive:
    archive.put()
    return _open(archive, fetcher)


def _open(archive: Archive, fetcher: Fetcher, *, mirror: str = "", keyring: Path | None = None,
          updates: bool = False) -> DebianArchive:
    return DebianArchive(mirror=mirror or archive.url, keyring=str(keyring or archive.keyring),
                         updates=updates, fetcher=fetcher, apt=Path("/nowhere"))


def _versions(pins: BasePins) -> dict[str, str]:
    return {package.name: package.version for package in pins.packages}


def test_a_base_is_the_seeds_and_all_that_they_depend_on(opened: DebianArchive) -> None:
    pins = opened.pin("bookworm", _PLATFORM)
    assert (pins.suite, pins.platform) == ("bookworm", _PLATFORM)
    assert set(_versions(pins)) == set(default_packages())
    assert list(pins.packages) == sorted(pins.packages)
    for package in pins.packages:
        data = default_packages()[package.name]
        assert (package.sha256, package.size) == (Digest.of(data), len(data))
        assert (package.archive, package.architecture) == ("debian", "amd64")


def test_the_packages_are_fetched_and_kept(opened: DebianArchive, store: Store) -> None:
    pins = opened.pin("bookworm", _PLATFORM)
    for _ in range(2):
        opened.fetch(pins)
    for package in pins.packages:
        assert store.read(package.sha256) == default_packages()[package.name]


def test_a_package_that_nothing_needs_stays_out(archive: Archive, fetcher: Fetcher) -> None:
    archive.put({"unneeded": deb("unneeded")})
    assert "unneeded" not in _versions(_open(archive, fetcher).pin("bookworm", _PLATFORM))


def test_dependencies_alternatives_and_providers_are_followed(
    archive: Archive, fetcher: Fetcher
) -> None:
    archive.put({
        "bash": deb("bash", depends="deep (>= 2) | never, gone | there, idea [amd64], lib:any",
                    fields="Pre-Depends: first\nRecommends: not-this\n"),
        "deep": deb("deep", depends="deeper"), "deeper": deb("deeper", depends="deep"),
        "there": deb("there"), "never": deb("never"), "first": deb("first"),
        "provider": deb("provider", fields="Provides: notion, idea (= 1.0)\n"),
        "lib": deb("lib"), "not-this": deb("not-this"),
    })
    found = set(_versions(_open(archive, fetcher).pin("bookworm", _PLATFORM)))
    assert found - set(default_packages()) == {"deep", "deeper", "there", "first", "provider",
                                               "lib"}


def test_an_alternative_that_is_chosen_already_is_enough(
    archive: Archive, fetcher: Fetcher
) -> None:
    archive.put({"bash": deb("bash", depends="other | dash"), "other": deb("other"),
                 "grep": deb("grep", depends="virtual"),
                 "rival": deb("rival", fields="Provides: virtual\n"),
                 "sed": deb("sed", fields="Provides: virtual\n")})
    found = set(_versions(_open(archive, fetcher).pin("bookworm", _PLATFORM)))
    assert not {"other", "rival"} & found


@pytest.mark.parametrize("versions", [
    ("1.0-1", "1.0-2"), ("9.0", "10.0"), ("1.0~rc1", "1.0"), ("2.0", "1:1.0"),
    ("1.0-1", "1.0-1+deb12u1")])
def test_the_newest_version_wins_wherever_it_is(
    archive: Archive, fetcher: Fetcher, versions: tuple[str, str]
) -> None:
    for main, update in (versions, versions[::-1]):
        archive.put({"sed": deb("sed", update)}, suite="bookworm-updates")
        archive.put({"sed": deb("sed", main)})
        pins = _open(archive, fetcher, updates=True).pin("bookworm", _PLATFORM)
        assert _versions(pins)["sed"] == versions[1]
        assert _versions(_open(archive, fetcher).pin("bookworm", _PLATFORM))["sed"] == main


@pytest.mark.parametrize(("missing", "needed_by"), [("libpython3-stdlib", "python3"),
                                                    ("libc6 (>= 1.0)", "bash")])
def test_a_mirror_without_a_dependency_is_said_to_be_incomplete(
    archive: Archive, fetcher: Fetcher, missing: str, needed_by: str
) -> None:
    packages = default_packages()
    del packages[missing.split()[0]]
    archive.suite = "bookworm"
    archive.publish(packages)
    with pytest.raises(ResolveError) as caught:
        _open(archive, fetcher).pin("bookworm", _PLATFORM)
    assert repr(missing) in caught.value.what
    assert needed_by in caught.value.what
    assert "image.mirror" in caught.value.fix


def _lines_outside(signed: bytes) -> bytes:
    evil = b"SHA256:\n " + b"0" * 64 + b" 1 main/binary-amd64/Packages.xz\n"
    return evil + b"\n" + signed + b"\n" + evil


def test_text_outside_the_signature_is_not_believed(
    opened: DebianArchive, archive: Archive
) -> None:
    """It names other hashes: either it is refused, or what was signed alone counts."""
    before = opened.pin("bookworm", _PLATFORM)
    path = archive.dist / "InRelease"
    path.write_bytes(_lines_outside(path.read_bytes()))
    try:
        assert opened.pin("bookworm", _PLATFORM) == before
    except ResolveError as error:
        assert "signature" in str(error)  # noqa: PT017


@pytest.mark.parametrize("tamper", [
    lambda data: data.replace(b"Codename", b"Codenome"), lambda data: data.replace(b"a", b"b", 1),
    lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"SHA256:\n",
    lambda data: data.split(b"\n\n", 1)[1].split(b"-----BEGIN PGP SIGNATURE")[0],
], ids=["field", "byte", "half", "empty", "text", "unsigned"])
def test_a_release_file_that_was_tampered_with_is_refused(
    opened: DebianArchive, archive: Archive, tamper: Callable[[bytes], bytes]
) -> None:
    path = archive.dist / "InRelease"
    path.write_bytes(tamper(path.read_bytes()))
    with pytest.raises(ResolveError, match="signature is not good") as caught:
        opened.pin("bookworm", _PLATFORM)
    assert caught.value.where.endswith("/dists/bookworm/InRelease")
    assert caught.value.fix


def test_a_release_file_signed_by_another_key_is_refused(
    opened: DebianArchive, archive: Archive, fetcher: Fetcher, mirror: Mirror
) -> None:
    with pytest.raises(ResolveError, match="signature is not good"):
        _open(archive, fetcher, keyring=mirror.keyring).pin("bookworm", _PLATFORM)


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text.replace("Codename: bookworm", "Codename: trixie"), "another suite"),
    (lambda text: text.replace("Codename: bookworm\n", ""), "another suite"),
    (lambda text: f"Valid-Until: Sat, 01 Jan 2000 00:00:00 UTC\n{text}", "out of date"),
    (lambda text: f"Valid-Until: Sat, 1 Jan 2000 0:00:00 +0000\n{text}", "out of date"),
    (lambda text: text.replace("binary-amd64", "binary-arm64"), "no packages for amd64"),
])
def test_a_release_file_for_something_else_is_refused(
    archive: Archive, fetcher: Fetcher, change: Callable[[str], str], message: str
) -> None:
    archive.put(release=change)
    with pytest.raises(ResolveError, match=message) as caught:
        _open(archive, fetcher).pin("bookworm", _PLATFORM)
    assert caught.value.where.endswith("/dists/bookworm/InRelease")
    assert caught.value.fix


def test_a_release_file_that_is_still_valid_is_taken(archive: Archive, fetcher: Fetcher) -> None:
    archive.put(release=lambda text: f"Valid-Until: Sat, 01 Jan 2089 00:00:00 UTC\n{text}")
    _open(archive, fetcher).pin("bookworm", _PLATFORM)


def test_packages_that_are_not_those_of_the_release_are_refused(
    opened: DebianArchive, archive: Archive
) -> None:
    for path in (archive.dist / "main/binary-amd64/by-hash/SHA256").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ResolveError, match="hash mismatch") as caught:
        opened.pin("bookworm", _PLATFORM)
    assert "main/binary-amd64/Packages.xz" in str(caught.value)
    for path in (archive.dist / "main/binary-amd64/by-hash/SHA256").iterdir():
        path.unlink()
    with pytest.raises(ResolveError, match="bookworm Packages cannot be"):
        opened.pin("bookworm", _PLATFORM)


def test_a_package_with_another_hash_is_refused_by_name(
    opened: DebianArchive, archive: Archive, store: Store
) -> None:
    pins = opened.pin("bookworm", _PLATFORM)
    victim = next(package for package in pins.packages if package.name == "sed")
    path = archive.folder / "debian" / victim.path
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(ResolveError, match=r"hash mismatch: sed 1\.0-1"):
        opened.fetch(pins)
    path.unlink()
    with pytest.raises(ResolveError, match=r"sed 1\.0-1") as caught:
        opened.fetch(pins)
    assert caught.value.fix
    assert not store.has(victim.sha256)


def test_a_package_that_the_mirror_dropped_is_said_to_be_gone(
    archive: Archive, fetcher: Fetcher, serve: Callable[..., Double]
) -> None:
    def answer(request: Request) -> Answer:
        if request.path.startswith("/pool/main/sed"):
            return Answer(status=404)
        return Answer(body=(archive.folder / "debian" / request.path[1:]).read_bytes())

    archive.put()
    over_http = _open(archive, fetcher, mirror=serve(answer).url)
    pins = over_http.pin("bookworm", _PLATFORM)
    with pytest.raises(ResolveError, match=r"sed 1\.0-1 cannot be fetched: HTTP status 404") as e:
        over_http.fetch(pins)
    assert "pin again" in e.value.fix


def test_a_mirror_without_updates_and_security_will_do(
    archive: Archive, fetcher: Fetcher, serve: Callable[..., Double]
) -> None:
    """Whether it is all of a host or a folder of it; no other host is asked."""
    def answer(request: Request) -> Answer:
        path = archive.folder / "debian" / request.path.removeprefix("/debian/").lstrip("/")
        there = path.is_file() and "bookworm-updates" not in request.path
        return Answer(body=path.read_bytes()) if there else Answer(status=404)

    archive.put()
    double = serve(answer)
    for mirror in (double.url, f"{double.url}/debian"):
        _open(archive, fetcher, mirror=mirror, updates=True).pin("bookworm", _PLATFORM)
    asked = [request.path for request in double.requests]
    assert asked.count("/dists/bookworm-updates/InRelease") == 1
    assert "/debian-security/dists/bookworm-security/InRelease" in asked


def test_a_suite_that_is_not_there_is_refused(archive: Archive, fetcher: Fetcher) -> None:
    with pytest.raises(ResolveError, match="sid InRelease") as caught:
        _open(archive, fetcher).pin("sid", _PLATFORM)
    assert caught.value.fix


def test_security_updates_that_cannot_be_asked_for_are_not_silently_left_out(
    archive: Archive, fetcher: Fetcher, serve: Callable[..., Double],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that a mirror lacks (404) is optional; one that cannot be read now is not."""
    status = [404]

    def answer(request: Request) -> Answer:
        path = archive.folder / request.path[1:]
        if "/dists/bookworm-updates/" in request.path or not path.is_file():
            return Answer(status=status[0])
        return Answer(body=path.read_bytes())

    archive.put()
    over_http = _open(archive, fetcher, mirror=f"{serve(answer).url}/debian", updates=True)
    over_http.pin("bookworm", _PLATFORM)
    status[0] = 503
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ResolveError, match="503"):
        over_http.pin("bookworm", _PLATFORM)

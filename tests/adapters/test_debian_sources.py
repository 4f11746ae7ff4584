"""Where no mirror is set, apt's own sources say which archive, suite and keyring to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debs import Mirror
from toolchain.adapters.apt_sources import AptSource, apt_sources
from toolchain.adapters.debian import DebianArchive
from toolchain.adapters.fetch import Fetcher
from toolchain.errors import ResolveError
from toolchain.progress import Progress
from toolchain.store import Store

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def _list(apt: Path, text: str, name: str = "") -> None:
    path = apt / "sources.list.d" / name if name else apt / "sources.list"
    path.write_text(text)


def _source(root: str, suite: str, keyring: Path = _KEYRING) -> tuple[str, str, Path]:
    return root, suite, keyring


def _found(apt: Path) -> list[tuple[str, str, Path]]:
    return [(source.root, source.suite, source.keyring) for source in apt_sources(apt)]


def test_one_line_sources_are_read(apt: Path) -> None:
    _list(apt, """
# deb http://comment.example/debian bookworm main
deb http://a.example/debian/ bookworm main contrib # a comment
deb-src http://a.example/debian bookworm main
  deb   http://b.example/debian   bookworm-updates   main
deb [arch=amd64 signed-by=/keys/c.gpg] http://c.example/debian bookworm main
deb [ signed-by=/keys/d.gpg,/keys/e.gpg arch=amd64,arm64 ] http://d.example/debian trixie main
deb [signed-by=/keys/armored.asc] http://e.example/debian sid main
nonsense
debian http://f.example/debian bookworm main
""")
    assert _found(apt) == [
        _source("http://a.example/debian", "bookworm"),
        _source("http://b.example/debian", "bookworm-updates"),
        _source("http://c.example/debian", "bookworm", Path("/keys/c.gpg")),
        _source("http://d.example/debian", "trixie", Path("/keys/d.gpg")),
        _source("http://e.example/debian", "sid"),
    ]


def test_deb822_sources_are_read(apt: Path) -> None:
    _list(apt, """\
Types: deb deb-src
URIs: http://a.example/debian/ http://b.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/a.gpg

# a comment
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Enabled: yes
Types: deb
URIs: http://c.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYCQjIxYJKwYBBAHaRw8BAQdA
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
""", "debian.sources")
    a = Path("/keys/a.gpg")
    assert _found(apt) == [
        _source("http://a.example/debian", "bookworm", a),
        _source("http://a.example/debian", "bookworm-updates", a),
        _source("http://b.example/debian", "bookworm", a),
        _source("http://b.example/debian", "bookworm-updates", a),
        _source("http://c.example/debian-security", "bookworm-security"),
    ]


@pytest.mark.parametrize(("lines", "root"), [
    ("https://deb.example/debian\n", "https://deb.example/debian"),
    ("# a comment\n\n  \nhttp://a.example/debian/\nhttp://b.example/debian\n",
     "http://a.example/debian"),
    ("http://a.example/debian\tarch:amd64 lang:en\n", "http://a.example/debian"),
    ("http://a.example/debian\nhttp://b.example/debian\tpriority:2\n"
     "http://c.example/debian\tarch:amd64 priority:1\n", "http://c.example/debian"),
    ("tor+http://a.onion/debian\nftp://b.example/debian\nfile:/srv/debian\n",
     "file:/srv/debian"),
    ("http://lists.example/debian\ttype:index\nhttp://a.example/debian\n",
     "http://a.example/debian"),
    ("ftp://a.example/debian\n", None), ("", None), (None, None),
], ids=["one", "comments", "options", "priority", "schemes", "type", "no usable", "empty",
        "no file"])
@pytest.mark.parametrize("form", ["debian.sources", "debian.list"])
@pytest.mark.parametrize("scheme", ["mirror+file:", "mirror+file://"])
def test_a_list_of_mirrors_is_read(
    apt: Path, lines: str | None, root: str | None, form: str, scheme: str
) -> None:
    """As Debian's cloud images have it; `mirror+file:` is a transport of apt alone."""
    mirrors = apt / "mirrors" / "debian.list"
    mirrors.parent.mkdir()
    if lines is not None:
        mirrors.write_text(lines)
    uri = f"{scheme}{mirrors}"
    _list(apt, f"deb {uri} bookworm main\n" if form.endswith(".list") else
          f"Types: deb deb-src\nURIs: {uri}\nSuites: bookworm\nComponents: main\n", form)
    assert _found(apt) == ([_source(root, "bookworm")] if root else [])


def test_a_transport_that_only_apt_has_is_no_source(apt: Path) -> None:
    _list(apt, "deb tor+http://a.onion/debian bookworm main\n"
               "deb mirror://b.example/list bookworm main\n"
               "deb cdrom:/ bookworm main\ndeb file:/srv/debian/ bookworm main\n")
    assert _found(apt) == [_source("file:/srv/debian", "bookworm")]


@pytest.mark.parametrize("root", ["file:///nowhere/debian", "https://", "http://[/debian"])
def test_a_mirror_that_cannot_be_reached_is_answered_with_the_setting(
    apt: Path, store: Store, root: str
) -> None:
    _list(apt, f"deb {root} bookworm main\n")
    with pytest.raises(ResolveError, match="InRelease cannot be") as caught:
        _archive(apt, store).pin("bookworm", "linux/amd64")
    assert "image.mirror" in caught.value.fix


def test_files_are_read_in_apts_order_and_others_not_at_all(apt: Path) -> None:
    _list(apt, "deb http://first.example/debian bookworm main\n")
    _list(apt, "deb http://b.example/debian bookworm main\n", "b.list")
    _list(apt, "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n",
          "a.sources")
    _list(apt, "deb http://saved.example/debian bookworm main\n", "c.list.save")
    _list(apt, "deb http://no.example/debian bookworm main\n", "readme")
    assert [root for root, _, _ in _found(apt)] == [
        f"http://{name}.example/debian" for name in ("first", "a", "b")]


def test_a_machine_without_apt_has_no_sources(tmp_path: Path) -> None:
    assert apt_sources(tmp_path / "nowhere") == []


def _archive(apt: Path, store: Store, *, updates: bool = False, keyring: str = ""
             ) -> DebianArchive:
    return DebianArchive(mirror="", keyring=keyring, updates=updates, apt=apt,
                         fetcher=Fetcher(store=store, progress=Progress()))


@pytest.mark.parametrize("text", [
    "", "deb http://a.example/ubuntu noble main\n", "deb http://a.example/x ./\n",
    "deb cdrom:[Debian GNU/Linux 12.0.0 _Bookworm_ - Official]/ bookworm main\n",
    "deb http://security.example/debian-security bookworm-security main\n"])
def test_where_no_mirror_is_known_the_setting_is_named(
    apt: Path, store: Store, text: str
) -> None:
    _list(apt, text)
    for updates in (False, True):
        archive = _archive(apt, store, updates=updates)
        with pytest.raises(ResolveError, match="no Debian mirror is known for bookworm") as caught:
            archive.pin("bookworm", "linux/amd64")
        assert caught.value.where == str(apt)
        assert "image.mirror" in caught.value.fix


def _asked(apt: Path, store: Store, suite: str, *, updates: bool = False) -> list[AptSource]:
    return _archive(apt, store, updates=updates)._sources(suite)


def _places(apt: Path, store: Store, suite: str, *, updates: bool = False) -> list[str]:
    return [f"{source.root} {source.suite}"
            for source in _asked(apt, store, suite, updates=updates)]


_USUAL = """\
deb http://a.example/debian bookworm main
deb http://a.example/debian bookworm-updates main
deb http://s.example/debian-security bookworm-security main
"""


def test_updates_and_security_are_asked_if_apt_asks_them(apt: Path, store: Store) -> None:
    _list(apt, _USUAL)
    main = "http://a.example/debian bookworm"
    assert _places(apt, store, "bookworm") == [main]
    assert _places(apt, store, "bookworm", updates=True) == [
        main, f"{main}-updates", "http://s.example/debian-security bookworm-security"]
    _list(apt, _USUAL.splitlines()[0])
    assert _places(apt, store, "bookworm", updates=True) == [main]


def test_another_suite_is_sought_where_apt_finds_its_own(apt: Path, store: Store) -> None:
    _list(apt, _USUAL)
    assert _places(apt, store, "trixie", updates=True) == [
        "http://a.example/debian trixie", "http://a.example/debian trixie-updates",
        "http://s.example/debian-security trixie-security"]


def test_the_source_of_the_very_suite_is_preferred(apt: Path, store: Store) -> None:
    _list(apt, "deb http://old.example/debian bullseye main\n"
               "deb [signed-by=/keys/right.gpg] http://right.example/debian trixie main\n")
    (source,) = _asked(apt, store, "trixie")
    assert (source.root, source.keyring) == ("http://right.example/debian",
                                             Path("/keys/right.gpg"))


def test_another_vendors_packages_for_the_suite_are_not_debian(apt: Path, store: Store) -> None:
    """Vendors name their suites as Debian does, but sign and fill them themselves."""
    _list(apt, "deb [signed-by=/keys/vendor.gpg] http://vendor.example/linux/debian bookworm "
               "stable\n", "a-vendor.list")
    _list(apt, "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n"
               f"Signed-By: {_KEYRING}\n", "debian.sources")
    assert _places(apt, store, "bookworm") == ["http://a.example/debian bookworm"]


def test_apts_mirror_and_its_keyring_are_used(apt: Path, store: Store, mirror: Mirror) -> None:
    _list(apt, f"deb [signed-by={mirror.keyring}] {mirror.url} bookworm main\n")
    pins = _archive(apt, store).pin("bookworm", "linux/amd64")
    _archive(apt, store).fetch(pins)
    assert all(store.has(package.sha256) for package in pins.packages)


def test_a_keyring_that_is_set_wins_over_apts(apt: Path, store: Store, mirror: Mirror) -> None:
    _list(apt, f"deb [signed-by=/keys/other.gpg] {mirror.url} bookworm main\n")
    with pytest.raises(ResolveError, match="keyring is not on this machine"):
        _archive(apt, store).pin("bookworm", "linux/amd64")
    _archive(apt, store, keyring=str(mirror.keyring)).pin("bookworm", "linux/amd64")

"""The operating system and interpreter layers: what maintainer scripts would have done is done."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from debian.deb822 import Deb822, Packages

from tests.support.debs import deb, default_packages, member
from tests.support.elf import shared_library
from toolchain.digest import Digest
from toolchain.errors import ResolveError, StoreError
from toolchain.journal import Journal
from toolchain.layer import PREFIX, USER_ID, Layer, libraries
from toolchain.layer.alternatives import RECORDS
from toolchain.layer.debian import make, make_more, plan
from toolchain.lock.base import AptPins, BasePins, DebianPackage
from toolchain.lock.image import ImagePins
from toolchain.store import Store

Members = dict[str, tuple[tarfile.TarInfo, bytes]]
Read = Callable[[Layer], Members]

_AWK = """#!/bin/sh
adduser nobody
update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
  --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz
"""
_PASSWD = b"root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/bin/no\n"


def _packages() -> dict[str, bytes]:
    crt = "usr/share/ca-certificates/mozilla"
    return {
        **default_packages(),
        "base-passwd": deb("base-passwd", members=[
            member("./usr/share/base-passwd/passwd.master", _PASSWD),
            member("./usr/share/base-passwd/group.master", b"root:*:0:\nstaff:*:50:\n"),
        ]),
        "ca-certificates": deb("ca-certificates", members=[
            member(f"./{crt}/b.crt", b"-----BEGIN B-----\n-----END B-----\n\n"),
            member(f"./{crt}/a.crt", b"-----BEGIN A-----\n-----END A-----"),
            member(f"./{crt}/README", b"not a certificate"),
        ]),
        "mawk": deb("mawk", members=[member("./usr/bin/mawk", b"awk", mode=0o755)],
                    postinst=_AWK),
        "libone": deb("libone", fields="Multi-Arch: same\n", members=[
            member("./lib/x86_64-linux-gnu/libone.so.1", b"one"),
            member("./usr/lib/x86_64-linux-gnu/libone.so", kind=tarfile.SYMTYPE,
                   link="libone.so.1"),
            member("./lib/x86_64-linux-gnu/a-link", kind=tarfile.LNKTYPE,
                   link="./lib/x86_64-linux-gnu/libone.so.1"),
        ]),
        "base-files": deb("base-files", members=[
            member("./usr/share/base-files/nsswitch.conf", b"passwd: files\n"),
            member("./etc/debian_version", b"12.0\n"),
        ]),
    }


def _pins(store: Store, packages: dict[str, bytes]) -> BasePins:
    return BasePins(suite="bookworm", platform="linux/amd64", packages=tuple(
        DebianPackage(name=name, version="3.11.2-1" if name == "python3" else "1.0-1",
                      architecture="amd64", archive="debian", path=f"pool/{name}.deb",
                      size=len(data), sha256=store.put(data))
        for name, data in sorted(packages.items())
    ))


def _make(store: Store, packages: dict[str, bytes]) -> tuple[Layer, ...]:
    with ThreadPoolExecutor(2) as pool:
        return make(_pins(store, packages), "3.11", store, pool)


@pytest.fixture
def layers(store: Store) -> tuple[Layer, ...]:
    return _make(store, _packages())


@pytest.fixture
def system(layers: tuple[Layer, ...], members: Read) -> Members:
    return members(layers[0])


@pytest.fixture
def interpreter(layers: tuple[Layer, ...], members: Read) -> Members:
    return members(layers[1])


def _links(found: Members) -> dict[str, str]:
    return {path: info.linkname for path, (info, _) in found.items() if info.issym()}


def test_there_are_two_layers_and_the_interpreter_is_the_second(
    layers: tuple[Layer, ...], system: Members, interpreter: Members
) -> None:
    assert [layer.label.partition(":")[0] for layer in layers] == [
        "debian bookworm", "python 3.11.2"]
    assert layers[1].label == "python 3.11.2: libpython3-stdlib 1.0-1, python3 3.11.2-1"
    assert "bash 1.0-1" in layers[0].label.split(": ")[1].split(", ")
    assert "usr/bin/python3.11" in interpreter
    assert "usr/bin/python3.11" not in system
    assert "usr/share/bash" not in interpreter


def test_there_is_an_ordinary_user_with_a_home_of_its_own(system: Members) -> None:
    lines = system["etc/passwd"][1].decode().splitlines()
    assert lines == ["root:x:0:0:root:/root:/bin/bash",
                     "nobody:x:65534:65534:nobody:/nonexistent:/bin/no",
                     f"mlflow:x:{USER_ID}:{USER_ID}::/home/mlflow:/bin/bash"]
    assert system["etc/group"][1].decode().splitlines() == ["root:x:0:", "staff:x:50:",
                                                            f"mlflow:x:{USER_ID}:"]
    assert USER_ID != 0
    home = system["home/mlflow"][0]
    assert (home.uid, home.gid, home.isdir(), home.mode) == (USER_ID, USER_ID, True, 0o755)
    assert system["home"][0].uid == 0


def test_root_is_known_even_without_base_passwd(store: Store, members: Read) -> None:
    found = members(_make(store, default_packages())[0])
    assert [line.split(":")[0] for line in found["etc/passwd"][1].decode().splitlines()] == [
        "root", "mlflow"]


def test_bin_lib_and_sbin_are_links_into_usr_and_nothing_is_behind_them(
    system: Members, interpreter: Members
) -> None:
    links = _links(system)
    assert {name: links[name] for name in ("bin", "lib", "sbin", "lib64")} == {
        "bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin", "lib64": "usr/lib64"}
    for path in (*system, *interpreter):
        assert not path.startswith(("bin/", "lib/", "sbin/", "lib64/"))
    assert system["usr/lib/x86_64-linux-gnu/libone.so.1"][1] == b"one"


def test_a_hard_link_comes_after_the_file_that_it_names(system: Members) -> None:
    order = list(system)
    link = system["usr/lib/x86_64-linux-gnu/a-link"][0]
    assert link.islnk()
    assert order.index(link.linkname) < order.index("usr/lib/x86_64-linux-gnu/a-link")


def test_folders_that_programs_expect_are_there_with_their_modes(system: Members) -> None:
    modes = {path: system[path][0].mode for path in ("tmp", "var/tmp", "root", "run", "proc",
                                                     "sys", "dev")}
    assert modes == {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "run": 0o755,
                     "proc": 0o755, "sys": 0o755, "dev": 0o755}
    assert all(system[path][0].isdir() for path in modes)


def test_the_certificate_bundle_holds_every_certificate(system: Members) -> None:
    assert system["etc/ssl/certs/ca-certificates.crt"][1] == (
        b"-----BEGIN A-----\n-----END A-----\n-----BEGIN B-----\n-----END B-----\n")
    assert _links(system)["usr/lib/ssl/cert.pem"] == "/etc/ssl/certs/ca-certificates.crt"


def test_alternatives_and_small_settings_are_in_place(system: Members) -> None:
    links = _links(system)
    assert links["usr/bin/awk"] == "/etc/alternatives/awk"
    assert links["etc/alternatives/awk"] == "/usr/bin/mawk"
    assert "usr/bin/which" not in links
    assert links["usr/bin/sh"] == "dash"
    assert links["etc/localtime"] == "/usr/share/zoneinfo/Etc/UTC"
    assert system["etc/nsswitch.conf"][1] == b"passwd: files\n"
    assert system["etc/debian_version"][1] == b"12.0\n"


def test_further_packages_take_an_alternative_over_or_leave_it(
    store: Store, members: Read
) -> None:
    on = _pins(store, _packages())

    def more(priority: int, on: BasePins | ImagePins) -> tuple[Members, list[str]]:
        data = deb("gawk", members=[member("./usr/bin/gawk", b"awk", mode=0o755)],
                   postinst=_AWK.replace("mawk 5", f"gawk {priority}"))
        package = DebianPackage(name="gawk", version="1.0-1", architecture="amd64", size=len(data),
                                archive="debian", path="pool/gawk.deb", sha256=store.put(data))
        pins = AptPins(base="bookworm", on=Digest.of_json(on.to_json()), suite="bookworm",
                       platform="linux/amd64", wanted=("gawk",), packages=(package,))
        told: list[str] = []
        with ThreadPoolExecutor(2) as pool:
            return members(make_more(pins, on, store, pool, tell=told.append)), told

    found, told = more(10, on)
    assert _links(found) == {"usr/bin/awk": "/etc/alternatives/awk",
                             "etc/alternatives/awk": "/usr/bin/gawk"}
    assert told == ["gawk: its script would make a user with adduser; that is not done"]
    record = found[f"{RECORDS}awk"][1].decode()
    assert record.startswith("auto\n/usr/bin/awk\nawk.1.gz\n")
    assert "\n/usr/bin/mawk\n5\n" in record
    assert _links(more(5, on)[0]) == {}

    record = members(_make(store, _packages())[0])[f"{RECORDS}awk"][1].decode()
    image = ImagePins(reference="a:1", platform="linux/amd64", digest=Digest.of(b"a"),
                      glibc="2.36", suite="bookworm", pythons={}, environment=(), labels={},
                      layers=(), installed={}, alternatives={"awk": record, "bad": "auto\n"})
    assert ImagePins.from_json(image.to_json()) == image
    assert _links(more(5, image)[0]) == {}
    assert _links(more(6, image)[0])["etc/alternatives/awk"] == "/usr/bin/gawk"


def test_the_loader_is_told_of_all_libraries(store: Store, members: Read) -> None:
    """Also in a folder that a package adds, and of one that is chosen among alternatives."""
    lib = "usr/lib/x86_64-linux-gnu"

    def known(found: Members) -> list[str]:
        return [item.path for item in libraries.read(found[libraries.PATH][1])]

    offer = f"update-alternatives --install /{lib}/libblas.so.3 blas"
    packages = {**_packages(), "libc-bin": deb("libc-bin", members=[
        member("./etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n"),
        member("./etc/ld.so.conf.d/libc.conf", b"/lib/x86_64-linux-gnu\n"),
    ]), "libz": deb("libz", members=[
        member(f"./{lib}/libz.so.1.2", shared_library("libz.so.1")),
        member(f"./{lib}/libz.so.1", kind=tarfile.SYMTYPE, link="libz.so.1.2"),
        member(f"./{lib}/blas/libblas.so.3", shared_library("libblas.so.3")),
    ], postinst=f"#!/bin/sh\n{offer} /{lib}/blas/libblas.so.3 10\n")}
    own = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib/x86_64-linux-gnu/libblas.so.3"]
    assert known(members(_make(store, packages)[0])) == own
    added = deb("liby", members=[
        member("./etc/ld.so.conf.d/y.conf", b"/opt/y\n"),
        member("./opt/y/liby.so.2", shared_library("liby.so.2")),
        member(f"./{lib}/best/libblas.so.3", shared_library("libblas.so.3")),
    ], postinst=f"#!/bin/sh\n{offer} /{lib}/best/libblas.so.3 20\n")
    package = DebianPackage(name="liby", version="1.0-1", architecture="amd64", size=len(added),
                            archive="debian", path="pool/liby.deb", sha256=store.put(added))

    def more(on: BasePins | ImagePins) -> Members:
        pins = AptPins(base="bookworm", on=Digest.of_json(on.to_json()), suite="bookworm",
                       platform="linux/amd64", wanted=("liby",), packages=(package,))
        with ThreadPoolExecutor(2) as pool:
            return members(make_more(pins, on, store, pool))

    assert known(more(_pins(store, packages))) == [own[0], "/opt/y/liby.so.2", own[1]]
    image = ImagePins(reference="a:1", platform="linux/amd64", digest=Digest.of(b"a"),
                      glibc="2.36", suite="bookworm", pythons={}, environment=(), labels={},
                      layers=(), installed={}, libraries={"0303 /usr/local/lib": "libz.so.1"})
    assert ImagePins.from_json(image.to_json()) == image
    assert known(more(image)) == ["/usr/local/lib/libz.so.1", "/opt/y/liby.so.2", own[1]]
    assert libraries.PATH not in more(replace(image, libraries={}))


def test_a_shell_that_a_package_brings_is_kept(store: Store, members: Read) -> None:
    packages = {**_packages(), "dash": deb("dash", members=[
        member("./bin/dash", b"dash", mode=0o755),
        member("./bin/sh", kind=tarfile.SYMTYPE, link="dash-of-its-own")])}
    assert _links(members(_make(store, packages)[0]))["usr/bin/sh"] == "dash-of-its-own"


def test_dpkg_knows_every_package_as_installed(interpreter: Members) -> None:
    text = interpreter["var/lib/dpkg/status"][1].decode()
    found = {entry["Package"]: entry for entry in Packages.iter_paragraphs(
        text, use_apt_pkg=False)}
    assert sorted(found) == sorted(_packages())
    for entry in found.values():
        assert entry["Status"] == "install ok installed"
        assert {"Version", "Architecture", "Maintainer", "Description"} <= set(entry)


def test_dpkg_knows_the_files_of_every_package(system: Members, interpreter: Members) -> None:
    info = "var/lib/dpkg/info"
    listed = interpreter[f"{info}/libone:amd64.list"][1].decode().splitlines()
    assert "/usr/lib/x86_64-linux-gnu/libone.so.1" in listed
    assert f"{info}/bash.md5sums" in interpreter
    for name in _packages():
        listing = next(found[1].decode() for path, found in interpreter.items()
                       if path in (f"{info}/{name}.list", f"{info}/{name}:amd64.list"))
        for path in listing.split():
            assert path[1:] in system or path[1:] in interpreter


def test_there_is_an_empty_virtual_environment_that_finds_its_python(
    interpreter: Members
) -> None:
    settings = Deb822(interpreter[f"{PREFIX}/pyvenv.cfg"][1].decode().replace(" = ", ": "))
    assert (settings["home"], settings["version"]) == ("/usr/bin", "3.11.2")
    assert settings["include-system-site-packages"] == "false"
    links = _links(interpreter)
    for name in ("python", "python3", "python3.11"):
        assert links[f"{PREFIX}/bin/{name}"] == "/usr/bin/python3.11"
    site = f"{PREFIX}/lib/python3.11/site-packages"
    assert interpreter[site][0].isdir()
    assert not [path for path in interpreter if path.startswith(f"{site}/")]


def test_the_base_belongs_to_root_but_for_the_home(system: Members, interpreter: Members) -> None:
    owners = {path: info.uid for found in (system, interpreter)
              for path, (info, _) in found.items() if info.uid or info.gid}
    assert owners == {"home/mlflow": USER_ID}


def test_two_stores_make_the_same_bytes(
    layers: tuple[Layer, ...], tmp_path: Path, store: Store
) -> None:
    cache = tmp_path / "another"
    another = Store(cache / "blobs", cache / "quarantine", Journal(cache))
    assert _make(another, dict(reversed(_packages().items()))) == layers


def test_the_plan_names_every_package_and_the_python(store: Store) -> None:
    with_more = {**_packages(), "extra": deb("extra")}
    first, second = _pins(store, _packages()), _pins(store, with_more)
    assert Digest.of_json(plan(first, "3.11")) != Digest.of_json(plan(second, "3.11"))
    assert Digest.of_json(plan(first, "3.11")) != Digest.of_json(plan(first, "3.13"))


def test_a_base_without_the_python_that_is_wanted_is_refused(store: Store) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ResolveError) as caught:
        make(_pins(store, _packages()), "3.13", store, pool)
    assert "no python3.13" in str(caught.value)
    assert "base.lock" in str(caught.value)


def test_a_package_that_is_not_one_is_refused_by_name(store: Store) -> None:
    with pytest.raises(ResolveError, match=r"bash_1\.0-1_amd64\.deb"):
        _make(store, {**_packages(), "bash": b"!<arch>\nrubbish"})


def test_a_package_that_the_store_lost_is_said_to_be_lost(store: Store) -> None:
    pins = _pins(store, _packages())
    digest = hashlib.sha256(_packages()["bash"]).hexdigest()
    store.path(Digest(digest)).unlink()
    with ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match=digest):
        make(pins, "3.11", store, pool)

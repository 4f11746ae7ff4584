"""What is learnt of somebody else's image by looking through its layers."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.support.debs import member
from tests.support.images import LIBC, PATH, debian, tar
from toolchain.layer import libraries
from toolchain.layer.libraries import Library
from toolchain.layer.survey import Survey


def look(*tars: bytes) -> Survey:
    survey = Survey()
    for data in tars:
        survey.layer(io.BytesIO(data))
    return survey


def test_a_python_image_on_debian() -> None:
    found = look(*debian("3.12"))
    assert (found.suite(), found.glibc(), found.is_musl()) == ("bookworm", "2.36", False)
    assert found.installed() == {"libc6": "1.0-1"}  # a package that was removed is none
    assert found.pythons(PATH) == {"3.12": "/usr/local/bin/python3.12"}


def _venv(folder: str, home: str, python: str = "3.11") -> bytes:
    """A virtual environment, as `python -m venv` makes it."""
    return tar([
        member(f"{folder}/pyvenv.cfg", (f"home = {home}\ninclude-system-site-packages = false\n"
                                        f"version = {python}.4\n").encode()),
        member(f"{folder}/bin/python", kind=tarfile.SYMTYPE, link=f"{home}/python{python}"),
        member(f"{folder}/bin/python{python}", kind=tarfile.SYMTYPE, link="python")])


def test_a_virtual_environment_names_the_home_of_its_interpreter() -> None:
    found = look(*debian(), _venv("app/.venv", "/usr/local/bin"))
    search = f"/app/.venv/bin/:{PATH}"
    assert found.pythons(search) == {"3.11": "/app/.venv/bin/python3.11"}
    assert found.homes(search) == {"/app/.venv/bin": "/usr/local/bin"}
    assert found.homes(PATH) == {}  # nobody finds it
    below = look(*debian(), _venv("opt/venv", "/usr/local/bin/"))
    assert below.homes(PATH) == {"/opt/venv/bin": "/usr/local/bin"}  # it is in the way
    gone = look(*debian(), _venv("app", "/usr/local/bin"), tar([member("app/.wh.pyvenv.cfg")]))
    assert gone.homes("/app/bin") == {}


def test_a_home_behind_links_is_found() -> None:
    """As uv makes them, and as `/bin` is one."""
    layer = tar([
        member("opt/uv/cpython-3.12.11-linux/bin/python3.12", b"", mode=0o755),
        member("opt/uv/cpython-3.12-linux", kind=tarfile.SYMTYPE, link="cpython-3.12.11-linux"),
        member("uv", kind=tarfile.SYMTYPE, link="/opt/./uv/../uv"),
        member("bin", kind=tarfile.SYMTYPE, link="usr/bin"),
        member("usr/bin/python3.9", b"", mode=0o755)])
    found = look(layer, _venv("app", "/uv/cpython-3.12-linux/bin", "3.12"))
    assert found.homes("/app/bin") == {"/app/bin": "/uv/cpython-3.12-linux/bin"}
    assert found.pythons("/app/bin:/bin") == {"3.12": "/app/bin/python3.12",
                                              "3.9": "/usr/bin/python3.9"}
    now = look(layer, tar([member("opt/uv/.wh.cpython-3.12-linux")]),
               _venv("app", "/uv/cpython-3.12-linux/bin", "3.12"))
    assert now.homes("/app/bin") == {}
    around = tar([member("a", kind=tarfile.SYMTYPE, link="b"),
                  member("b", kind=tarfile.SYMTYPE, link="a")])
    assert look(around).pythons("/a/bin") == {}
    replaced = look(around, tar([member("a", kind=tarfile.DIRTYPE),
                                 member("a/bin/python3.12", b"", mode=0o755)]))
    assert replaced.pythons("/a/bin") == {"3.12": "/a/bin/python3.12"}


def test_whether_anything_is_in_this_tools_own_place() -> None:
    assert not look(*debian()).is_occupied
    there = tar([member("opt/venv/lib/x", b"")])
    assert look(there).is_occupied
    assert look(there, tar([member("etc/x", b"")])).is_occupied
    for gone in ("opt/.wh.venv", ".wh.opt", "opt/.wh..wh..opq", "opt/venv/.wh..wh..opq"):
        assert not look(there, tar([member(gone)])).is_occupied
    assert look(there, tar([member("opt/.wh.venv"), member("opt/venv/y", b"")])).is_occupied


@pytest.mark.parametrize(("home", "python"), [
    ("/nowhere", "3.11"), ("/usr/local/bin", "3.12"), ("usr/local/bin", "3.11"), ("", "3.11")])
def test_a_home_without_the_interpreter_is_none(home: str, python: str) -> None:
    assert look(*debian(), _venv("app", home, python)).homes("/app/bin") == {}


def test_what_update_alternatives_has_on_record() -> None:
    records = [member(f"var/lib/dpkg/alternatives/{name}", b"auto\n") for name in ("vi", "awk")]
    found = look(tar(records), tar([member("var/lib/dpkg/alternatives/.wh.vi")]))
    assert found.alternatives() == {"awk": "auto\n"}


def test_the_loaders_cache() -> None:
    cache = libraries.cache([Library(name="libz.so.1", path="/lib/libz.so.1", flags=0x303)])
    assert look(tar([member("etc/ld.so.cache", cache)])).libraries() == {"0303 /lib": "libz.so.1"}
    assert look(tar([member("etc/ld.so.cache", b"strange")])).libraries() == {}
    assert look(tar([])).libraries() == {}


def test_an_interpreter_off_the_search_path_is_none() -> None:
    assert look(*debian("3.12")).pythons("/usr/bin:/bin") == {}


def test_the_first_on_the_search_path_is_taken() -> None:
    found = look(tar([member("usr/bin/python3.11"), member("usr/local/bin/python3.11")]))
    assert found.pythons("/usr/local/bin:/usr/bin") == {"3.11": "/usr/local/bin/python3.11"}
    assert found.pythons("/usr/bin:/usr/local/bin") == {"3.11": "/usr/bin/python3.11"}


def test_a_whiteout_hides_lower_layers_only() -> None:
    lower = tar([member("usr/bin/python3.9"), member("usr/bin/python3.10")])
    assert look(lower, tar([member("usr/bin/.wh.python3.9")])).pythons("/usr/bin") == {
        "3.10": "/usr/bin/python3.10"}
    opaque = tar([member("usr/bin/python3.11"), member("usr/bin/.wh..wh..opq")])
    assert look(lower, opaque).pythons("/usr/bin") == {"3.11": "/usr/bin/python3.11"}
    assert look(lower, tar([member(".wh.usr")])).pythons("/usr/bin") == {}
    assert look(lower, tar([member("usr/bin/.wh.python3.1")])).pythons("/usr/bin") == {
        "3.9": "/usr/bin/python3.9", "3.10": "/usr/bin/python3.10"}


@pytest.mark.parametrize(("text", "system"), [
    ("ID=ubuntu\nVERSION_ID=\"22.04\"\nVERSION_CODENAME=jammy\n", ("ubuntu", "jammy")),
    ("ID='Ubuntu'\nVERSION_ID=22.04\n", ("ubuntu", "22.04")),
    ("ID=debian\nVERSION_ID=12\n", ("debian", "12")),  # as distroless images have it
    ("ID=debian\nVERSION_CODENAME=bookworm\n", ("", "")),  # the suite says it
    ("ID=void\n", ("void", "")),
    ("ID=void\nVERSION_ID=\"1 or 2\"\n", ("void", "")),
    ("ID=../x\nVERSION_ID=1\n", ("", "")),
    ("NAME=Something\n", ("", "")),
    ("", ("", "")),
])
def test_a_system_that_is_no_debian_suite(text: str, system: tuple[str, str]) -> None:
    found = look(tar([
        member("etc/os-release", kind=tarfile.SYMTYPE, link="../usr/lib/os-release"),
        member("usr/lib/os-release", text.encode())]))
    assert found.system() == system


def test_the_administrators_os_release_counts_before_the_systems() -> None:
    found = look(tar([member("etc/os-release", b"ID=mine\n"),
                      member("usr/lib/os-release", b"ID=ubuntu\nVERSION_ID=22.04\n")]))
    assert found.system() == ("mine", "")


def test_an_old_c_library_behind_a_link() -> None:
    found = look(tar([
        member("lib/x86_64-linux-gnu/libc-2.31.so", LIBC.replace(b"2.36.", b"2.31.")),
        member("lib/x86_64-linux-gnu/libc.so.6", kind=tarfile.SYMTYPE, link="libc-2.31.so"),
    ]))
    assert found.glibc() == "2.31"


def test_alpine_is_known_by_its_c_library() -> None:
    found = look(tar([member("lib/ld-musl-x86_64.so.1", b"musl"),
                      member("etc/os-release", b"ID=alpine\nVERSION_ID=3.20\n")]))
    assert (found.glibc(), found.is_musl(), found.suite()) == ("", True, "")


def test_a_distroless_image_has_a_file_for_each_package() -> None:
    found = look(tar([
        member("var/lib/dpkg/status.d/libc6", b"Package: libc6\nVersion: 2.36-9\n"),
        member("var/lib/dpkg/status.d/libc6.md5sums", b"Package: x\nVersion: 1\n"),
    ]))
    assert found.installed() == {"libc6": "2.36-9"}


@pytest.mark.parametrize("path", ["etc/os-release", "./etc/os-release", "etc/./os-release"])
def test_ordinary_names_are_taken(path: str) -> None:
    root = member("./", kind=tarfile.DIRTYPE)
    assert look(tar([root, member(path, b"ID=debian\nVERSION_CODENAME=x\n")])).suite() == "x"


@pytest.mark.parametrize("path", ["../etc/os-release", "/etc/os-release", "usr/../../x", "a/.."])
def test_an_entry_that_leaves_its_layer_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="leaves its layer") as caught:
        look(tar([member(path, b"ID=debian\n")]))
    assert repr(path) in str(caught.value)


def test_a_whiteout_of_everything() -> None:
    lower = tar([member("usr/bin/python3.9")])
    assert look(lower, tar([member(".wh..wh..opq")])).pythons("/usr/bin") == {}


class Endless:
    """What a few thousand bytes unpack to; a reader that goes on for too long is told so."""

    def __init__(self, start: bytes, again: bytes, most: int) -> None:
        self._now = io.BytesIO(start)
        self._again = io.BytesIO(again)
        self._left = most

    def read(self, size: int) -> bytes:
        data = self._now.read(size)
        if not data:
            self._now = self._again
            self._now.seek(0)
            data = self._now.read(size)
        self._left -= len(data)
        assert self._left > 0, "read on and on"
        return data


def _long(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
                                  tarfile.GNUTYPE_LONGLINK])
def test_a_header_cannot_fill_the_memory(kind: bytes) -> None:
    first = member("usr/bin/x")[0].tobuf()
    for start in (b"", first):
        with pytest.raises(tarfile.TarError, match="headers that are too large"):
            Survey().layer(Endless(start + _long(kind, 1 << 33), bytes(1 << 20), 8 << 20))


def test_headers_before_headers_are_refused() -> None:
    record = b"11 a=bcdef\n".ljust(512, b"\0")
    with pytest.raises(tarfile.TarError, match="headers"):
        Survey().layer(Endless(b"", _long(tarfile.XHDTYPE, 11) + record, 8 << 20))


def test_many_that_pose_as_small_files_are_refused() -> None:
    text, _ = member("var/lib/dpkg/status.d/x")
    text.size = 1 << 20
    with pytest.raises(ValueError, match="more to look at"):
        Survey(left=4 << 20).layer(Endless(b"", text.tobuf() + bytes(1 << 20), 8 << 20))
    gone = tar([member("a/.wh." + "x" * 80)])[:512]
    with pytest.raises(ValueError, match="more to look at"):
        Survey(left=1 << 16).layer(Endless(b"", gone, 1 << 20))


def test_a_giant_that_poses_as_a_small_file_is_refused() -> None:
    info, _ = member("var/lib/dpkg/status")
    info.size = 65 << 20
    sink = io.BytesIO(info.tobuf() + bytes(1 << 20))
    with pytest.raises(ValueError, match="too large"):
        Survey().layer(sink)


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(tarfile.TarError):
        Survey().layer(io.BytesIO(b"no tar at all" * 100))

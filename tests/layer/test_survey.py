"""What is learnt of somebody else's image by looking through its layers."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.support.debs import member
from tests.support.images import LIBC, PATH, debian, tar
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


@pytest.mark.parametrize("path", ["../etc/os-release", "/etc/os-release", "./etc/os-release"])
def test_paths_are_only_compared_never_opened(path: str) -> None:
    found = look(tar([member(path, b"ID=debian\nVERSION_CODENAME=x\n")]))
    assert found.suite() == ("" if path.startswith("..") else "x")


def test_a_giant_that_poses_as_a_small_file_is_refused() -> None:
    info, _ = member("var/lib/dpkg/status")
    info.size = 65 << 20
    sink = io.BytesIO(info.tobuf() + bytes(1 << 20))
    with pytest.raises(ValueError, match="too large"):
        Survey().layer(sink)


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(tarfile.TarError):
        Survey().layer(io.BytesIO(b"no tar at all" * 100))

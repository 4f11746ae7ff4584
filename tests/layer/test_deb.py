"""A .deb is unpacked into merged /usr; one that is damaged or reaches outside is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.debs import deb, member
from toolchain.errors import ResolveError
from toolchain.layer.archive import Entry
from toolchain.layer.deb import Deb, unpack

_NAME = "tool_1.0-1_amd64.deb"
_FUZZ = settings(max_examples=300, deadline=None, derandomize=True, database=None)
Member = tuple[tarfile.TarInfo, bytes]


def _unpack(*members: Member, **extra: str) -> dict[str, Entry]:
    return {entry.path: entry for entry in _open(deb("tool", members=members, **extra)).entries}


def _open(data: bytes) -> Deb:
    return unpack(_NAME, io.BytesIO(data))


def _parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """The members of an ar archive."""
    found, at = [], 8
    while at < len(data):
        size = int(data[at + 48 : at + 58])
        found.append((data[at : at + 16].strip(), data[at + 60 : at + 60 + size]))
        at += 60 + size + size % 2
    return found


def _ar(parts: list[tuple[bytes, bytes]]) -> bytes:
    result = b"!<arch>\n"
    for name, data in parts:
        result += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
        result += data + b"\n" * (len(data) % 2)
    return result


def _tar(*members: Member, mode: str = "w:xz") -> bytes:
    stream = io.BytesIO()
    opened: Callable[..., tarfile.TarFile] = tarfile.open
    with opened(fileobj=stream, mode=mode) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_files_links_modes_and_owners_come_through() -> None:
    owned = member("./usr/bin/tool", b"#!/bin/sh\n", mode=0o4755)
    owned[0].uid, owned[0].gid = 3, 4
    found = _unpack(
        member("./", kind=tarfile.DIRTYPE, mode=0o755),
        member("./usr/share/tool/", kind=tarfile.DIRTYPE, mode=0o2775), owned,
        member("./usr/bin/same", kind=tarfile.LNKTYPE, link="./usr/bin/tool"),
        member("./usr/bin/alias", kind=tarfile.SYMTYPE, link="tool"),
        member("./etc/tool", kind=tarfile.SYMTYPE, link="/etc/alternatives/tool"),
    )
    assert found == {
        "usr/share/tool": Entry(path="usr/share/tool", mode=0o2775, kind=tarfile.DIRTYPE),
        "usr/bin/tool": Entry(path="usr/bin/tool", mode=0o4755, data=b"#!/bin/sh\n", uid=3, gid=4),
        "usr/bin/same": Entry(path="usr/bin/same", mode=0o644, kind=tarfile.LNKTYPE,
                              link="usr/bin/tool"),
        "usr/bin/alias": Entry(path="usr/bin/alias", mode=0o777, kind=tarfile.SYMTYPE,
                               link="tool"),
        "etc/tool": Entry(path="etc/tool", mode=0o777, kind=tarfile.SYMTYPE,
                          link="/etc/alternatives/tool"),
    }


def test_paths_and_hard_links_move_into_merged_usr() -> None:
    found = _unpack(
        member("./bin/", kind=tarfile.DIRTYPE), member("./bin/tool", b"t"),
        member("./sbin/admin", b"a"), member("lib/libt.so", b"l"), member("./lib64/ld.so", b"d"),
        member("./library/x", b"x"), member("./usr/bin/other", b"o"),
        member("./bin/same", kind=tarfile.LNKTYPE, link="./bin/tool"),
    )
    assert set(found) == {"usr/bin/tool", "usr/sbin/admin", "usr/lib/libt.so", "usr/lib64/ld.so",
                          "library/x", "usr/bin/other", "usr/bin/same"}
    assert found["usr/bin/same"].link == "usr/bin/tool"


def test_a_package_that_ships_the_merged_links_itself_adds_nothing() -> None:
    """base-files does so since trixie."""
    assert _unpack(member("./bin", kind=tarfile.SYMTYPE, link="usr/bin"),
                   member("./lib", kind=tarfile.SYMTYPE, link="usr/lib")) == {}


def test_documentation_is_dropped_and_licences_stay() -> None:
    found = _unpack(*(member(f"./usr/share/{path}", b"x") for path in (
        "doc/tool/changelog.gz", "doc/tool/copyright", "man/man1/tool.1", "info/tool.info",
        "locale/de/tool.mo", "lintian/x", "tool/data", "documents/x")))
    assert set(found) == {"usr/share/doc/tool/copyright", "usr/share/tool/data",
                          "usr/share/documents/x"}


def test_a_hard_link_to_a_dropped_file_does_not_dangle() -> None:
    """A tar whose hard link names nothing cannot be unpacked: the image could not be started."""
    found = _unpack(member("./usr/share/doc/tool/README", b"text"),
                    member("./usr/share/tool/README", kind=tarfile.LNKTYPE,
                           link="./usr/share/doc/tool/README"))
    for entry in found.values():
        assert entry.kind != tarfile.LNKTYPE or entry.link in found


def test_the_control_paragraph_and_checksums_are_kept_as_shipped() -> None:
    parts = dict(_parts(deb("tool", fields="Multi-Arch: same\n")))
    sums = "d41d8cd98f00b204e9800998ecf8427e  usr/bin/tool\n"
    control = b"Package: tool\nDescription: \xc3\xbc\n a line\n"
    parts[b"control.tar.xz"] = _tar(member("./control", control),
                                    member("./md5sums", sums.encode()))
    found = _open(_ar(list(parts.items())))
    assert found.control == control.decode()
    assert found.md5sums == sums


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_every_compression_that_python_knows_is_read(mode: str) -> None:
    suffix = mode.replace("w:", ".").replace("w", "").encode()
    parts = [(name, data) for name, data in _parts(deb("tool")) if not name.startswith(b"data")]
    data = _tar(member("./usr/tool", b"x"), mode=mode)
    found = _open(_ar([*parts, (b"data.tar" + suffix, data)]))
    assert [entry.path for entry in found.entries] == ["usr/tool"]


@pytest.mark.parametrize(("bad", "entry"), [
    (member("../evil", b"x"), "../evil"), (member("./usr/../../evil", b"x"), "usr/../../evil"),
    (member("/etc/evil", b"x"), "/etc/evil"), (member("./usr/..", b"x"), "usr/.."),
    (member("./dev/evil", kind=tarfile.CHRTYPE), "dev/evil"),
    (member("./dev/evil", kind=tarfile.BLKTYPE), "dev/evil"),
    (member("./run/evil", kind=tarfile.FIFOTYPE), "run/evil"),
    (member("./usr/evil", kind=tarfile.SYMTYPE, link="../../outside"), "usr/evil"),
    (member("./evil", kind=tarfile.SYMTYPE, link=".."), "evil"),
    (member("./usr/a/evil", kind=tarfile.SYMTYPE, link="x/../../../../y"), "usr/a/evil"),
    (member("./usr/evil", kind=tarfile.LNKTYPE, link="../outside"), "../outside"),
    (member("./usr/evil", kind=tarfile.LNKTYPE, link="/etc/shadow"), "/etc/shadow"),
    (member("./usr/evil", kind=tarfile.LNKTYPE, link="."), "evil"),
    (member("./usr/evil", kind=tarfile.LNKTYPE, link="./usr/not/there"), "evil"),
])
def test_an_entry_that_reaches_outside_or_is_no_file_is_refused(bad: Member, entry: str) -> None:
    with pytest.raises(ResolveError) as caught:
        _unpack(member("./usr/good", b"good"), bad)
    assert _NAME in str(caught.value)
    assert entry in str(caught.value)


def test_a_link_that_stays_inside_is_taken() -> None:
    found = _unpack(member("./usr/a/b", kind=tarfile.SYMTYPE, link="../../etc/x"),
                    member("./c", kind=tarfile.SYMTYPE, link="."))
    assert {path: entry.link for path, entry in found.items()} == {"usr/a/b": "../../etc/x",
                                                                  "c": "."}


def test_a_package_that_claims_to_be_larger_than_any_is_refused() -> None:
    huge = tarfile.TarInfo("./usr/huge")
    huge.size = 3 << 30
    parts = [(name, data) for name, data in _parts(deb("tool")) if not name.startswith(b"data")]
    with pytest.raises(ResolveError, match="too large") as caught:
        _open(_ar([*parts, (b"data.tar", huge.tobuf() + bytes(1024))]))
    assert f"{_NAME}, entry ./usr/huge" in str(caught.value)


@pytest.mark.parametrize("data", [
    b"", b"!<arch>\n", b"no archive at all", b"PK\3\4" + bytes(100), deb("tool")[:50],
    deb("tool")[:300], _ar([(b"debian-binary", b"2.0\n")]),
    _ar(_parts(deb("tool"))[:2]), _ar([_parts(deb("tool"))[0], _parts(deb("tool"))[2]]),
    _ar([*_parts(deb("tool"))[:2], (b"data.tar.xz", b"not xz")]),
    _ar([*_parts(deb("tool"))[:2], (b"data.tar.lz", b"LZIP")]),
    _ar([_parts(deb("tool"))[0], (b"control.tar.xz", _tar()), _parts(deb("tool"))[2]]),
    _ar([_parts(deb("tool"))[0], (b"control.tar.xz", _tar(member("./control", b"\xff"))),
         _parts(deb("tool"))[2]]),
    _ar([_parts(deb("tool"))[0],
         (b"control.tar.xz", _tar(member("./control", kind=tarfile.DIRTYPE))),
         _parts(deb("tool"))[2]]),
    _ar([_parts(deb("tool"))[0],
         (b"control.tar.xz", _tar(member("./control", kind=tarfile.SYMTYPE, link="nowhere"))),
         _parts(deb("tool"))[2]]),
], ids=["empty", "no members", "text", "zip", "cut in a header", "cut in control",
        "one member", "no data", "no control", "not compressed",
        "unknown compression", "control without control", "control not text",
        "control is a folder", "control is a broken link"])
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(ResolveError) as caught:
        _open(data)
    assert _NAME in str(caught.value)
    assert caught.value.fix


def test_wherever_a_package_is_cut_it_is_refused_or_nothing_of_it_is_missing() -> None:
    whole = _open(_SAMPLE)
    for size in range(0, len(_SAMPLE), 3):
        try:
            assert _open(_SAMPLE[:size]) == whole
        except ResolveError as error:
            assert _NAME in str(error)  # noqa: PT017


@_FUZZ
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6),
       st.integers(0, 100))
def test_whatever_bytes_change_it_is_unpacked_or_refused(
    changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(_SAMPLE)
    for position, value in changes:
        data[position % len(data)] = value
    _only_refused(bytes(data[: len(data) - cut]))


@_FUZZ
@given(st.sampled_from([b"control.tar", b"data.tar"]),
       st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6))
def test_whatever_changes_within_an_uncompressed_tar_it_is_unpacked_or_refused(
    part: bytes, changes: list[tuple[int, int]]
) -> None:
    parts = dict(_parts(_PLAIN))
    content = bytearray(parts[part])
    for position, value in changes:
        content[position % 4096 % len(content)] = value  # headers, rather than padding
    for at in range(0, min(4096, len(content)), 512):  # so that tarfile looks at the rest
        content[at + 148 : at + 156] = b"%06o\0 " % (
            sum(content[at : at + 148]) + 256 + sum(content[at + 156 : at + 512]))
    _only_refused(_ar([(name, bytes(content) if name == part else data)
                       for name, data in parts.items()]))


_MEMBERS = (member("./usr/bin/tool", b"#!/bin/sh\n", mode=0o755),
            member("./usr/bin/alias", kind=tarfile.SYMTYPE, link="tool"),
            member("./usr/bin/same", kind=tarfile.LNKTYPE, link="./usr/bin/tool"),
            member("./usr/share/" + "long" * 40, b"x"))
_SAMPLE = deb("tool", members=_MEMBERS)
_PLAIN = _ar([
    (b"debian-binary", b"2.0\n"),
    (b"control.tar", _tar(member("./control", b"Package: tool\n"), member("./md5sums", b""),
                          mode="w")),
    (b"data.tar", _tar(*_MEMBERS, mode="w")),
])


def _only_refused(data: bytes) -> None:
    try:
        _open(data)
    except ResolveError as error:
        assert _NAME in str(error)  # noqa: PT017


def test_hard_links_in_a_circle_are_refused() -> None:
    circle = [member("./usr/a", kind=tarfile.LNKTYPE, link="usr/a")]
    with pytest.raises(ResolveError, match=r"hard link|not a valid"):
        _unpack(*circle)
    both = [member("./a", kind=tarfile.LNKTYPE, link="./b"),
            member("./b", kind=tarfile.LNKTYPE, link="./a")]
    with pytest.raises(ResolveError, match=r"hard link|not a valid"):
        _unpack(*both)

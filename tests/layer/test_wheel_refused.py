"""A wheel that is damaged or would write outside is refused by name, whatever is wrong with it."""

from __future__ import annotations

import io
import signal
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wheels import wheel
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer.archive import LayerWriter
from toolchain.layer.wheel import Wheel, write
from toolchain.store import Store

_NAME = "alpha-1.0-py3-none-any.whl"
_INFO = "alpha-1.0.dist-info"
_DATA = "alpha-1.0.data"
Entries = dict[str, bytes]
Build = Callable[[bytes], None]
_FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def build(store: Store, pool: ThreadPoolExecutor) -> Iterator[Build]:
    """Puts a wheel of those bytes into a layer; one that makes us loop for ever fails."""
    def ring(_number: int, _frame: object) -> None:
        pytest.fail("still busy after two seconds")

    def run(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            with LayerWriter(store, "wheel", pool) as writer:
                write(Wheel(digest=Digest.of(data), filename=_NAME), io.BytesIO(data), "3.11",
                      writer)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, ring)
    yield run
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """The entries of a wheel that is in order."""
    path = wheel(tmp_path_factory.mktemp("valid"), "alpha", scripts={"alpha-say": "alpha:main"},
                 files={"alpha.py": b"def main():\n    print('alpha')\n" * 40,
                        f"{_DATA}/scripts/run": b"#!python\nprint()\n"})
    with zipfile.ZipFile(path) as archive:
        return {item.filename: archive.read(item) for item in archive.infolist()}


def _zip(entries: Entries, *, kind: dict[str, int] | None = None,
         compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file; `kind` maps entries to what stat(2) would say that they are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in entries.items():
            item = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            item.external_attr = ((kind or {}).get(name, stat.S_IFREG) | 0o644) << 16
            archive.writestr(item, data, compression)
    return stream.getvalue()


def _central(data: bytes, name: str) -> int:
    """Where an entry's record in the central directory begins (APPNOTE.TXT, 4.3.12)."""
    at = data.rindex(name.encode())
    return data.rindex(b"PK\1\2", 0, at)


def _set(data: bytes, name: str, offset: int, form: str, value: int) -> bytes:
    """Overwrite a field of an entry's record in the central directory."""
    changed = bytearray(data)
    struct.pack_into(form, changed, _central(data, name) + offset, value)
    return bytes(changed)


def test_the_wheel_that_the_cases_start_from_is_in_order(build: Build, valid: Entries) -> None:
    build(_zip(valid))


@pytest.mark.parametrize("path", [
    "../evil.py", "alpha/../../evil.py", "alpha/..", "/etc/cron.d/evil", "//etc/evil",
    "alpha\\..\\..\\evil.py", "C:\\evil.py", f"{_DATA}/scripts/../../evil", f"{_DATA}/data/..",
    f"{_DATA}/nowhere/evil", f"{_DATA}/scripts", _DATA, f"./{_DATA}/purelib/evil.py",
    f"alpha/.././{_DATA}/x",
])
def test_an_entry_that_is_in_no_proper_place_is_refused(
    build: Build, valid: Entries, path: str
) -> None:
    with pytest.raises(ResolveError) as caught:
        build(_zip({**valid, path: b"evil"}))
    assert _NAME in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize("kind", [
    stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_an_entry_that_is_no_file_is_refused(build: Build, valid: Entries, kind: int) -> None:
    with pytest.raises(ResolveError, match="link or device") as caught:
        build(_zip({**valid, "evil": b"/etc/shadow"}, kind={"evil": kind}))
    assert f"{_NAME}, entry evil" in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_entry_with_a_wrong_checksum_is_refused(
    build: Build, valid: Entries, compression: int
) -> None:
    data = _set(_zip(valid, compression=compression), "alpha.py", 16, "<L", 12345)
    with pytest.raises(ResolveError) as caught:
        build(data)
    assert _NAME in str(caught.value)
    assert "alpha.py" in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 21, 200, -100, -1])
def test_a_truncated_wheel_is_refused(build: Build, valid: Entries, size: int) -> None:
    with pytest.raises(ResolveError, match="not a zip file") as caught:
        build(_zip(valid)[:size])
    assert _NAME in str(caught.value)


@pytest.mark.parametrize("size", [1, 100, 1 << 20, 0xFFFF_FFF0])
def test_an_entry_that_lies_about_its_size_is_refused(
    build: Build, valid: Entries, size: int
) -> None:
    with pytest.raises(ResolveError) as caught:
        build(_set(_zip(valid), "alpha.py", 24, "<L", size))
    assert f"{_NAME}, entry alpha.py" in str(caught.value)


def test_entries_that_together_are_a_bomb_are_refused(build: Build, valid: Entries) -> None:
    """Each of them alone claims no more than deflate can make of its bytes."""
    entries = {f"bomb{number}": b"" for number in range(9)}
    data = _zip({**valid, **entries})
    for name in entries:
        data = _set(_set(data, name, 24, "<L", 0xFFFF_FFF0), name, 20, "<L", 0x0080_0000)
    with pytest.raises(ResolveError, match="impossible size") as caught:
        build(data)
    assert "bomb7" in str(caught.value)


@pytest.mark.parametrize(("offset", "form", "value"), [
    pytest.param(8, "<H", 1, id="encrypted"), pytest.param(10, "<H", 99, id="unknown method"),
    pytest.param(6, "<H", 99, id="unknown zip version"),
    pytest.param(10, "<H", 12, id="not bzip2"), pytest.param(10, "<H", 14, id="not lzma"),
    pytest.param(10, "<H", 0, id="not stored"), pytest.param(42, "<L", 7, id="wrong offset"),
    pytest.param(42, "<L", 0x7FFF_FFFF, id="offset after the end"),
    pytest.param(20, "<L", 3, id="compressed data cut"),
])
@pytest.mark.parametrize("name", ["alpha.py", f"{_INFO}/WHEEL", f"{_INFO}/RECORD"])
def test_an_entry_that_cannot_be_read_is_refused(
    build: Build, valid: Entries, name: str, offset: int, form: str, value: int
) -> None:
    with pytest.raises(ResolveError) as caught:
        build(_set(_zip(valid), name, offset, form, value))
    assert _NAME in str(caught.value)


def test_a_nul_in_a_name_is_refused(build: Build, valid: Entries) -> None:
    data = _zip({**valid, "alpha.py!/../x": b"evil"}).replace(b"alpha.py!", b"alpha.py\0")
    with pytest.raises(ResolveError) as caught:
        build(data)
    assert _NAME in str(caught.value)


@pytest.mark.parametrize("name", ["RECORD", "WHEEL"])
def test_missing_metadata_is_refused(build: Build, valid: Entries, name: str) -> None:
    entries = {path: data for path, data in valid.items() if path != f"{_INFO}/{name}"}
    with pytest.raises(ResolveError, match=f"(?s){name}.*{_NAME}"):
        build(_zip(entries))


def test_two_distributions_in_one_wheel_are_refused(build: Build, valid: Entries) -> None:
    with pytest.raises(ResolveError, match=r"exactly one \.dist-info") as caught:
        build(_zip({**valid, "beta-1.0.dist-info/WHEEL": b""}))
    assert _NAME in str(caught.value)


def test_a_wheel_of_another_name_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ResolveError, match="doesn't match wheel filename") as caught:
        build(wheel(tmp_path, "beta").read_bytes())
    assert _NAME in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [
    ("WHEEL", b""), ("WHEEL", b"Wheel-Version: 2.0\n"), ("WHEEL", b"\xff\xfe"),
    ("RECORD", b"one column\n"), ("RECORD", b"alpha.py,sha256=x,not a number\n"),
    ("RECORD", b"alpha.py,nonsense,1\n"), ("RECORD", b"alpha.py,\0,\n"),
    ("RECORD", b'"' + b"x" * 200_000 + b'",,\n'), ("RECORD", b"a\rb,,\n"), ("RECORD", b"\xff,,\n"),
    ("entry_points.txt", b"no section\n"), ("entry_points.txt", b"[console_scripts]\nx\n"),
    ("entry_points.txt", b"[console_scripts]\nx = 1:2:3\n"),
    ("entry_points.txt", b"[console_scripts]\nx = a:b\nx = a:b\n"),
    ("entry_points.txt", b"[console_scripts]\n../../evil = a:b\n"),
    ("entry_points.txt", b"[console_scripts]\n/etc/evil = a:b\n"),
    ("entry_points.txt", b"[console_scripts\n"), ("entry_points.txt", b"\xff"),
])
def test_metadata_that_makes_no_sense_is_refused(
    build: Build, valid: Entries, name: str, content: bytes
) -> None:
    with pytest.raises(ResolveError) as caught:
        build(_zip({**valid, f"{_INFO}/{name}": content}))
    assert _NAME in str(caught.value)


@_FUZZ
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6),
       st.integers(0, 40))
def test_whatever_bytes_change_it_is_built_or_refused(
    build: Build, valid: Entries, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(_zip(valid))
    for position, value in changes:
        data[position % len(data)] = value
    _only_refused(build, bytes(data[: len(data) - cut]))


@_FUZZ
@given(st.sampled_from(["WHEEL", "RECORD", "entry_points.txt"]),
       st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=3)), max_size=4))
def test_whatever_metadata_says_it_is_built_or_refused(
    build: Build, valid: Entries, name: str, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(valid[f"{_INFO}/{name}"])
    for position, value in changes:
        at = position % (len(content) + 1)
        content[at : at + 1] = value
    _only_refused(build, _zip({**valid, f"{_INFO}/{name}": bytes(content)}))


@_FUZZ
@given(st.lists(st.sampled_from([".", "..", "/", "\\", "a", _DATA, "data", "scripts", "headers",
                                 _INFO, "é", "\ud800", ":", " "]), min_size=1, max_size=6))
def test_whatever_an_entry_is_called_it_is_built_or_refused(
    build: Build, valid: Entries, parts: list[str]
) -> None:
    name = "".join(parts).encode("utf-8", "surrogatepass").decode("latin-1")
    _only_refused(build, _zip({**valid, name: b"x"}))
    _only_refused(build, _zip({**valid, "/".join(parts).encode("ascii", "replace").decode(): b""}))


def _only_refused(build: Build, data: bytes) -> None:
    try:
        build(data)
    except ResolveError as error:
        assert _NAME in str(error)  # noqa: PT017

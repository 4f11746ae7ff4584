"""A layer's bytes are decided by its entries alone, and every tar reader reads them alike."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.layer import GZIP, Layer
from toolchain.layer.archive import TIME, Entry, LayerWriter, header
from toolchain.store import Store

Members = Callable[[Layer], dict[str, tuple[tarfile.TarInfo, bytes]]]
_MIB = 1 << 20
_LONG = "/".join(["a-rather-long-folder-name"] * 12) + "/file.txt"


def _noise(size: int) -> bytes:
    """Bytes that compress badly, the same everywhere."""
    return hashlib.shake_256(b"noise").digest(size)


def _entries() -> list[Entry]:
    return [
        Entry(path="etc", mode=0o755, kind=tarfile.DIRTYPE),
        Entry(path="etc/empty", mode=0o600),
        Entry(path="etc/große Datei 🐍.txt", mode=0o644, data="naïve\n".encode()),
        Entry(path="etc/link", mode=0o777, kind=tarfile.SYMTYPE, link="große Datei 🐍.txt"),
        Entry(path="home/me/run", mode=0o4755, data=b"#!/bin/sh\n", uid=1000, gid=1001),
        Entry(path="home/me/zeros", mode=0o644, data=bytes(5 * _MIB), uid=1000, gid=1001),
        Entry(path="home/me/noise", mode=0o644, data=_noise(9 * _MIB + 17)),
        Entry(path=_LONG, mode=0o644, data=b"far down"),
        Entry(path="home/me/same", mode=0o4755, kind=tarfile.LNKTYPE, link="home/me/run"),
    ]


def _write(store: Store, entries: Iterable[Entry], threads: int = 2) -> Layer:
    with ThreadPoolExecutor(threads) as pool, LayerWriter(store, "a label", pool) as writer:
        for entry in entries:
            writer.add(entry)
    assert writer.layer is not None
    return writer.layer


@pytest.fixture
def another_store(tmp_path: Path) -> Store:
    cache = tmp_path / "another"
    return Store(cache / "blobs", cache / "quarantine", Journal(cache))


def test_the_bytes_of_a_fixed_set_of_entries_never_change(store: Store) -> None:
    """If this fails, every image of every user gets a new digest: raise LAYOUT_VERSION, or
    name the new compressor in its identity, and only then write the new digests here."""
    layer = _write(store, _entries())
    assert (str(layer.diff_id), str(layer.digest)) == (
        "sha256:61a28f60d511c60766f671127833a82edb630e198b51e7b5f7a4018e30ea9e68",
        "sha256:95206240823e433fd80b96475c00b9d260ae4227c6b938b636b8e1736f9782fa",
    )


_names = st.one_of(
    st.text(min_size=1, max_size=130).filter(lambda name: "\0" not in name),
    st.integers(1, 130).map(lambda length: "n" * length),
)


@settings(max_examples=500)
@given(path=_names, link=st.one_of(st.just(""), _names), mode=st.integers(0, 0o177777),
       kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
       size=st.one_of(st.integers(0, 9999), st.integers((1 << 33) - 2, (1 << 33) + 2)),
       user=st.one_of(st.just(0), st.integers(0o7777776, 0o10000001)))
def test_a_header_is_that_of_tarfile(path: str, link: str, mode: int, kind: bytes, size: int,
                                     user: int) -> None:
    info = tarfile.TarInfo(path)
    info.linkname, info.mode, info.type, info.size, info.mtime = link, mode, kind, size, TIME
    info.uid = info.gid = user
    entry = Entry(path=path, link=link, mode=mode, kind=kind, uid=user, gid=user)
    assert header(entry, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_and_stores_do_not_change_the_bytes(
    store: Store, another_store: Store, threads: int
) -> None:
    assert _write(another_store, _entries(), threads) == _write(store, _entries(), 2)


def test_another_order_or_another_byte_is_another_layer(store: Store) -> None:
    first = _write(store, _entries())
    assert _write(store, reversed(_entries())).diff_id != first.diff_id
    assert _write(store, [*_entries(), Entry(path="z", mode=0o644)]).diff_id != first.diff_id


def test_a_layer_describes_its_blob_and_its_tar(store: Store) -> None:
    layer = _write(store, _entries())
    blob = store.read(layer.digest)
    assert layer.media_type == GZIP
    assert layer.label == "a label"
    assert (layer.digest, layer.size) == (Digest.of(blob), len(blob))
    assert layer.diff_id == Digest.of(gzip.decompress(blob))
    assert Layer.from_json(layer.to_json()) == layer


def test_python_reads_back_every_entry_as_it_was_given(store: Store, members: Members) -> None:
    found = members(_write(store, _entries()))
    for entry in _entries():
        info, data = found[entry.path]
        assert (info.type, info.mode, info.linkname) == (entry.kind, entry.mode, entry.link)
        assert (info.uid, info.gid) == (entry.uid, entry.gid)
        assert data == entry.data


def test_times_are_fixed_and_no_user_is_named(store: Store, members: Members) -> None:
    for info, _ in members(_write(store, _entries())).values():
        assert (info.mtime, info.uname, info.gname) == (TIME, "", "")


def test_folders_above_an_entry_come_once_and_belong_to_its_owner(
    store: Store, members: Members
) -> None:
    found = members(_write(store, [
        Entry(path="a/b/c", mode=0o600, uid=7, gid=8), Entry(path="a/b/d", mode=0o600),
        Entry(path="a/b", mode=0o700, kind=tarfile.DIRTYPE),
    ]))
    assert list(found) == ["a", "a/b", "a/b/c", "a/b/d"]
    assert {(found[path][0].uid, found[path][0].mode) for path in ("a", "a/b")} == {(7, 0o755)}


def test_the_tar_program_unpacks_it(store: Store, tmp_path: Path) -> None:
    layer = _write(store, _entries())
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        ["tar", "--extract", "--gzip", "--no-same-owner", "--file", str(store.path(layer.digest)),
         "--directory", str(root)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / _LONG).read_bytes() == b"far down"
    assert (root / "etc/link").read_text() == "naïve\n"
    assert (root / "home/me/noise").read_bytes() == _noise(9 * _MIB + 17)
    assert (root / "home/me/same").stat().st_ino == (root / "home/me/run").stat().st_ino
    assert (root / "home/me/run").stat().st_mtime == TIME


def test_a_large_layer_is_several_gzip_members_of_four_mebibytes(store: Store) -> None:
    rest = store.read(_write(store, _entries()).digest)
    sizes = []
    while rest:
        member = zlib.decompressobj(wbits=31)
        sizes.append(len(member.decompress(rest)))
        rest = member.unused_data
    assert len(sizes) >= 3
    assert set(sizes[:-1]) == {4 * _MIB}
    assert 0 < sizes[-1] <= 4 * _MIB


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 1500), max_size=4), edge=st.integers(-1600, 1600))
def test_where_pieces_are_cut_does_not_show_in_the_tar(
    store: Store, sizes: list[int], edge: int
) -> None:
    entries = [Entry(path="first", mode=0o644, data=_noise(4 * _MIB + edge)),
               *(Entry(path=f"{number}", mode=0o644, data=bytes(size))
                 for number, size in enumerate(sizes))]
    layer = _write(store, entries)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(store.read(layer.digest)))) as archive:
        found = [(info.name, info.size) for info in archive]
    assert found == [(entry.path, len(entry.data)) for entry in entries]


def test_an_empty_layer_is_a_valid_archive(store: Store, members: Members) -> None:
    assert members(_write(store, [])) == {}


def _write_stream(store: Store, data: bytes, size: int) -> tuple[Layer, Digest]:
    """A layer of one file that is read from a stream, said to be of `size` bytes."""
    with ThreadPoolExecutor(2) as pool, LayerWriter(store, "a label", pool) as writer:
        read = writer.add_stream(Entry(path="a/file", mode=0o644), io.BytesIO(data), size)
    assert writer.layer is not None
    return writer.layer, read


@pytest.mark.parametrize("size", [0, 1, 512, 4 * _MIB, 9 * _MIB + 17])
def test_a_file_from_a_stream_is_as_one_from_memory(store: Store, size: int) -> None:
    data = _noise(size)
    assert _write_stream(store, data, size) == (
        _write(store, [Entry(path="a/file", mode=0o644, data=data)]), Digest.of(data))


@pytest.mark.parametrize("size", [0, 999, 1001, 5 * _MIB])
def test_a_stream_of_another_length_than_said_is_an_error(
    store: Store, tmp_path: Path, size: int
) -> None:
    with pytest.raises(SpecError, match="changed while it was being read") as caught:
        _write_stream(store, _noise(1000), size)
    assert caught.value.where == "a/file"
    assert list((tmp_path / "cache/blobs/sha256").iterdir()) == []


def test_a_failure_half_way_leaves_no_blob(store: Store, tmp_path: Path) -> None:
    def entries() -> Iterator[Entry]:
        yield Entry(path="noise", mode=0o644, data=_noise(9 * _MIB))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        _write(store, entries())
    assert list((tmp_path / "cache/blobs/sha256").iterdir()) == []


def test_a_name_that_is_not_text_survives(store: Store, members: Members) -> None:
    name = b"latin-\xe9.txt".decode("utf-8", "surrogateescape")
    found = members(_write(store, [Entry(path=name, mode=0o644, data=b"x")]))
    assert list(found) == [name]

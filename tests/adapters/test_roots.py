"""Layers laid over one another give what a container would see; hostile ones give an error."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.debs import member
from tests.support.images import tar
from toolchain.adapters.roots import Roots
from toolchain.adapters.unpacked import UnpackedLayers
from toolchain.digest import Digest
from toolchain.errors import EngineError, StoreError
from toolchain.image import Image
from toolchain.layer import GZIP, Layer
from toolchain.trace import Trace

LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


class Images:
    """Images of hand-made tars, and the roots that come of them."""

    def __init__(self, folder: Path, trace: Trace) -> None:
        self.folder = folder
        self.trace = trace
        self._blobs: dict[Digest, bytes] = {}
        self.fetched: list[Digest] = []
        self.roots = Roots(folder / "roots", UnpackedLayers(folder / "layers", self._fetch, trace),
                           trace)

    def layer(self, data: bytes, diff_id: Digest | None = None) -> Layer:
        blob = gzip.compress(data, mtime=0)
        self._blobs[Digest.of(blob)] = blob
        return Layer(digest=Digest.of(blob), diff_id=diff_id or Digest.of(data), size=len(blob),
                     media_type=GZIP, label="")

    def root(self, *layers: Layer) -> Path:
        names = " ".join(str(layer.diff_id) for layer in layers)
        return self.roots.bring(Image(layers=layers, config=names.encode(), manifest=b""))

    def _fetch(self, digest: Digest, size: int) -> Iterator[bytes]:
        self.fetched.append(digest)
        yield self._blobs[digest]


@pytest.fixture
def images(tmp_path: Path, trace: Trace) -> Images:
    (tmp_path / "outside").write_text("untouched")
    return Images(tmp_path, trace)


def _files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.name not in
            ("resolv.conf", "hosts")}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_cannot_fill_the_memory(images: Images, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 1 << 30
    bomb = tar([member("a", b"1")])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(6 << 20)
    with pytest.raises(EngineError, match="headers that are too large"):
        images.root(images.layer(bomb))


def test_a_sparse_file_cannot_fill_the_disk(images: Images) -> None:
    """Its holes are in no byte of the layer."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(EngineError, match="more than a layer may"):
        images.root(images.layer(bytes(header) + bytes(1024)))


def test_whiteouts_and_replacements(images: Images) -> None:
    lower = images.layer(tar([
        member("a/gone", b"1"), member("a/stays", b"2"), member("b/x/deep", b"3"),
        member("b/y", b"4"), member("file", b"5"), member("c/d/e", b"6"),
        member("link", kind=LINK, link="a")]))
    upper = images.layer(tar([
        member("a/.wh.gone"), member("b/.wh..wh..opq"), member("b/new", b"7"),
        member("file/now", b"8"), member(".wh.c"), member("link", b"9")]))
    assert _files(images.root(lower, upper)) == {
        "a/stays": "2", "b/new": "7", "file/now": "8", "link": "9"}
    # The layers are as they were, so another image of the lower one has everything.
    assert "a/gone" in _files(images.root(lower))


def test_what_a_layer_does_not_name_stays_a_link(images: Images) -> None:
    merged = images.layer(tar([member("usr/lib/one", b"1"),
                               member("lib", kind=LINK, link="usr/lib"),
                               member("away", kind=LINK, link="/../../../..")]))
    root = images.root(merged, images.layer(tar([member("lib/two", b"2")])),
                       images.layer(tar([member("away/three", b"3")])))
    assert (root / "lib").is_symlink()
    assert _files(root / "usr") == {"lib/one": "1", "lib/two": "2"}
    assert (root / "three").read_text() == "3"  # a container's / is the root
    named = images.layer(tar([member("lib", kind=FOLDER), member("lib/two", b"2")]))
    assert _files(images.root(merged, named)) == {"lib/two": "2", "usr/lib/one": "1"}


def test_layers_and_files_are_shared_and_made_once(images: Images) -> None:
    shared = images.layer(tar([member("one", b"1")]))
    first = images.root(shared)
    second = images.root(shared, images.layer(tar([member("two", b"2")])))
    images.root(shared)
    assert (first / "one").stat().st_ino == (second / "one").stat().st_ino
    assert images.fetched.count(shared.digest) == 1


def test_modes_are_kept_but_for_what_is_dangerous(images: Images) -> None:
    def owned(name: str, mode: int, uid: int) -> tuple[tarfile.TarInfo, bytes]:
        info, data = member(name, b"x", mode=mode)
        info.uid = uid
        return info, data

    root = images.root(images.layer(tar([
        owned("roots", 0o4755, 0), owned("secret", 0, 0), owned("jobs", 0o664, 1000)])))
    modes = {name: oct((root / name).stat().st_mode & 0o7777)
             for name in ("roots", "secret", "jobs")}
    assert modes == {"roots": "0o555", "secret": "0o400", "jobs": "0o664"}


def test_hard_links_and_later_entries(images: Images) -> None:
    root = images.root(images.layer(tar([
        member("a", b"1"), member("b", kind=HARD, link="a"),
        member("dev/null", kind=tarfile.CHRTYPE), member("pipe", kind=tarfile.FIFOTYPE),
        member("a", b"2"), member("./c/./d", b"3")])))
    assert _files(root) == {"a": "2", "b": "1", "c/d": "3"}
    assert not os.path.lexists(root / "pipe")


@pytest.mark.parametrize("entries", [
    [member("../evil", b"x")], [member("/evil", b"x")], [member("a/../../evil", b"x")],
    [member("a", kind=LINK, link=".."), member("a/evil", b"x")],
    [member("a", kind=LINK, link="/tmp"), member("a/evil", b"x")],
    [member("a", b"x"), member("a/evil", b"x")],
    [member("a", kind=HARD, link="../outside")], [member("a", kind=HARD, link="/etc/passwd")],
    [member("a", kind=LINK, link="../../outside"), member("b", kind=HARD, link="a/x")],
], ids=range(9))
def test_a_layer_that_reaches_outside_is_refused(
    images: Images, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(EngineError, match="refused") as caught:
        images.root(images.layer(tar(entries)))
    assert caught.value.fix
    assert not list(images.folder.rglob("evil"))
    assert (images.folder / "outside").read_text() == "untouched"
    assert [path.name for path in (images.folder / "layers").iterdir()] == ["tmp"]


def test_a_link_of_one_layer_does_not_lead_another_out(images: Images) -> None:
    """Nor does a whiteout: they are taken as within the root."""
    first = images.layer(tar([member("a", kind=LINK, link=str(images.folder))]))
    root = images.root(first, images.layer(tar([member("a/.wh.outside"), member("a/evil", b"x"),
                                                member("a/.wh..."), member("a/.wh...x")])))
    assert (images.folder / "outside").read_text() == "untouched"
    assert not (images.folder / "evil").exists()
    assert (root / "a/evil").exists()


def test_a_layer_under_anothers_name_is_refused(images: Images) -> None:
    """A foreign image cannot put files under the diff_id of a layer that others use."""
    good = tar([member("usr/bin/python", b"good")])
    evil = images.layer(tar([member("usr/bin/python", b"evil")]), diff_id=Digest.of(good))
    with pytest.raises(EngineError, match="not the one that the image's config names"):
        images.root(evil)
    assert _files(images.root(images.layer(good))) == {"usr/bin/python": "good"}


def test_a_damaged_layer_is_refused(images: Images) -> None:
    data = tar([member("a", os.urandom(9999))])
    for broken in (data[:5000], b"no tar at all" * 99):
        with pytest.raises((EngineError, StoreError)):
            images.root(images.layer(broken, diff_id=Digest.of(data)))
    assert list(images.folder.glob("roots/*")) == [images.folder / "roots/tmp"]
    assert list((images.folder / "roots/tmp").iterdir()) == []


def test_what_a_crash_left_is_no_layer(images: Images) -> None:
    layer = images.layer(tar([member("a", b"1")]))
    half = images.folder / "layers" / layer.diff_id.hex
    half.mkdir(parents=True)
    (half / "leftover").write_text("x")
    dead = images.folder / "layers/tmp/4999999-dead"
    dead.mkdir(parents=True)
    assert _files(images.root(layer)) == {"a": "1"}
    assert not dead.exists()


def test_what_another_container_unpacks_is_left_to_it(images: Images, tmp_path: Path) -> None:
    """It shares the cache, and its processes are not seen here: their numbers are nobody's."""
    held = threading.Event(), threading.Event()

    def fetch(digest: Digest, size: int) -> Iterator[bytes]:
        for other in (tmp_path / "layers/tmp").iterdir():  # as they are called over there
            os.rename(other, other.with_name(f"4999999-{other.name.partition('-')[2]}"))
        held[0].set()
        assert held[1].wait(60)
        yield from images._fetch(digest, size)

    one, two = (images.layer(tar([member(name, name.encode())])) for name in ("one", "two"))
    away = UnpackedLayers(tmp_path / "layers", fetch, images.trace)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(away.bring, one)
        assert held[0].wait(60)
        assert _files(images.root(two)) == {"two": "two"}
        left = [path.name.partition("-")[0] for path in (tmp_path / "layers/tmp").iterdir()]
        held[1].set()
        with pytest.raises(EngineError, match="No such file"):  # it was called otherwise here
            taken.result(60)
    assert left == ["4999999"]

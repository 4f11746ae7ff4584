"""What tarfile reads, byte for byte, or nothing at all."""

from __future__ import annotations

import io
import itertools
import random
import tarfile
from collections.abc import Callable

import pytest

from toolchain.adapters.tar_stream import Member, TarStream, Unusual


def packed(*names: str, style: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with an entry of every kind for each name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as archive:
        for number, name in enumerate(names):
            for kind in (tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(f"{name}-{number}{kind.decode()}")
                info.type, info.mode, info.uid, info.mtime = kind, 0o640 + number, number, 7.0
                info.linkname = f"{name}-{number}0" if kind in (
                    tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                data = b"%d" % number * (number * 700)
                info.size = len(data) if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(data) if info.size else None)
    return out.getvalue()


def by_tarfile(data: bytes) -> list[tuple[Member, bytes]]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
        for info in archive:
            source = archive.extractfile(info) if info.isreg() else None
            found.append((Member(info.name, info.type, info.mode, info.uid, info.mtime, info.size,
                                 info.linkname), source.read() if source else b""))
    return found


def by_us(data: bytes, most: int = 1 << 30) -> list[tuple[Member, bytes]]:
    source = io.BytesIO(data)
    return [(member, b"".join(content))
            for member, content in TarStream(lambda size: source.read(min(size, most)))]


@pytest.mark.parametrize("most", [1, 511, 512, 513, 10_000, 1 << 30])
@pytest.mark.parametrize("names", [
    ("a", "b/c", "ä", "d" * 90), ("long/" * 60, "漢字/" * 50, "x" * 99, "y" * 100, "z" * 101),
    ("n" * 60 + "/" + "m" * 60,)])
def test_names_of_all_lengths_in_pieces_of_all_sizes(names: tuple[str, ...], most: int) -> None:
    data = packed(*names)
    assert by_us(data, most) == by_tarfile(data)


def test_a_prefix_as_ustar_has_it() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("folder/" * 15 + "name"))
    data = out.getvalue()
    assert by_us(data) == by_tarfile(data)


def test_content_that_is_not_asked_for_is_passed_over() -> None:
    data = packed("a", "b", "c")
    names = [member.name for member, _ in TarStream(io.BytesIO(data).read)]
    assert names == [member.name for member, _ in by_tarfile(data)]


def _changed(**fields: bytes) -> Callable[[bytes], bytes]:
    places = {"kind": 156, "magic": 257, "size": 124, "sum": 148, "uid": 108}

    def change(data: bytes) -> bytes:
        block = bytearray(data)
        for name, value in fields.items():
            block[places[name]:places[name] + len(value)] = value
        if "sum" not in fields:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block[:512])
        return bytes(block)

    return change


@pytest.mark.parametrize("change", [
    lambda data: b"", lambda data: data[:700], lambda data: data[:-11_000], lambda data: b"x" * 512,
    _changed(kind=b"S"), _changed(kind=b"g"), _changed(kind=b"L"), _changed(kind=b"3"),
    _changed(kind=b"\0"), _changed(magic=b"ustar  \0"), _changed(sum=b"0000000\0"),
    _changed(size=b"\x80" + bytes(11)), _changed(uid=b"zzzzzzz\0"), _changed(uid=b"-000001\0")],
    ids=itertools.count())
def test_everything_else_is_left_to_tarfile(change: Callable[[bytes], bytes]) -> None:
    info = tarfile.TarInfo("file")
    info.size = 3000
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x" * 3000))
    with pytest.raises(Unusual):
        by_us(change(out.getvalue()))


@pytest.mark.parametrize("record", [
    b"30 GNU.sparse.name=x\n", b"x", b"99 path=a\n", b"9 path=a", b"8 path=\n\n",
    b"17 size=nothing\n", b"20 hdrcharset=BINARY\n"])
def test_records_that_are_not_plain_are_left_to_tarfile(record: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("records")
        info.type, info.size = tarfile.XHDTYPE, len(record)
        archive.addfile(info, io.BytesIO(record))
        archive.addfile(tarfile.TarInfo("file"))
    with pytest.raises(Unusual):
        by_us(out.getvalue())


def test_damage_gives_what_tarfile_gives_or_nothing() -> None:
    seeds, data = random.Random(11), packed("a", "long/" * 40, "b")
    same = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(seeds.randint(1, 4)):
            damaged[seeds.randrange(len(damaged))] = seeds.randrange(256)
        try:
            ours = by_us(bytes(damaged))
        except Unusual:
            continue
        assert ours == by_tarfile(bytes(damaged))
        same += 1
    assert same > 100

"""Bytes of a tar -> its entries: a third of what tarfile takes, for the entries that layers have.

Rule 1: only what is plain is read: files, folders, links, and pax records for long names and large
numbers (POSIX.1-2001, pax). For everything else, also for what is damaged, `Unusual` is raised, and
tarfile is to have the last word, from the beginning.
Rule 2: content is handed on as views of the pieces that came; nothing is copied.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

_BLOCK = 512
_PIECE = 4 << 20
_NOTHING = bytes(_BLOCK)
_PLAIN = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
_BLANKS = 8 * 0x20  # what the checksum's own place counts as


class Unusual(Exception):
    """The tar has something that is not read here."""


class Member(NamedTuple):
    """An entry. `kind` is one of tarfile's types; `name` of a folder has no slash at its end."""

    name: str
    kind: bytes
    mode: int
    uid: int
    mtime: float
    size: int
    link: str


class TarStream:
    """The entries of the tar that `read` gives, each with its content, in order.

    `read(n)` gives at most n bytes, and none at the end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._rest = memoryview(b"")
        self._left = 0  # of the present entry's content

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        records: dict[str, str] = {}
        begun = False
        while True:
            for _ in self._content():  # what was not asked for
                pass
            block = self._block()
            if not block or block == _NOTHING:
                if records or not begun:
                    raise Unusual
                return
            begun = True
            kind = block[156:157]
            size = _number(block[124:136])
            if (sum(block) - sum(block[148:156]) + _BLANKS != _number(block[148:156])
                    or block[257:263] != b"ustar\0"):
                raise Unusual
            if kind == tarfile.XHDTYPE and not records:
                records = self._records(size)
                continue
            if kind not in _PLAIN:
                raise Unusual
            member = _member(block, kind, size, records)
            records = {}
            self._left = member.size if kind == tarfile.REGTYPE else 0
            padding = -self._left % _BLOCK
            yield member, self._content()
            for _ in self._content():
                pass
            self._left = padding

    def _content(self) -> Iterator[memoryview]:
        while self._left:
            if not self._rest:
                self._rest = memoryview(self._read(_PIECE))
                if not self._rest:
                    raise Unusual
            view = self._rest[:self._left]
            self._rest = self._rest[len(view):]
            self._left -= len(view)
            yield view

    def _block(self) -> bytes:
        """The next block; empty at the end."""
        if len(self._rest) >= _BLOCK:
            block, self._rest = bytes(self._rest[:_BLOCK]), self._rest[_BLOCK:]
            return block
        if not self._rest:
            self._rest = memoryview(self._read(_PIECE))
            if not self._rest:
                return b""
        self._left = _BLOCK
        return b"".join(self._content())

    def _records(self, size: int) -> dict[str, str]:
        if size > _PIECE:
            raise Unusual
        self._left = size
        data = b"".join(self._content())
        self._left = -size % _BLOCK
        found: dict[str, str] = {}
        while data:
            length, _, _ = data.partition(b" ")
            if not length.isdigit() or not 0 < int(length) <= len(data):
                raise Unusual
            record, data = data[len(length) + 1:int(length)], data[int(length):]
            name, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise Unusual
            found[_text(name)] = _text(value[:-1])
        if any(name.startswith("GNU.sparse") or name == "hdrcharset" for name in found):
            raise Unusual
        return found


def _member(block: bytes, kind: bytes, size: int, records: dict[str, str]) -> Member:
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    try:
        return Member(
            name=(records.get("path") or (f"{prefix}/{name}" if prefix else name)).rstrip("/"),
            kind=kind, mode=_number(block[100:108]),
            uid=int(records["uid"]) if "uid" in records else _number(block[108:116]),
            mtime=float(records["mtime"]) if "mtime" in records else _number(block[136:148]),
            size=int(records["size"]) if "size" in records else size,
            link=records.get("linkpath") or _until_nul(block[157:257]))
    except ValueError:
        raise Unusual from None


def _until_nul(field: bytes) -> str:
    return _text(field.partition(b"\0")[0])


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    try:
        number = int(field.rstrip(b" \0") or b"0", 8)
    except ValueError:  # as GNU writes large ones
        raise Unusual from None
    if number < 0:
        raise Unusual
    return number

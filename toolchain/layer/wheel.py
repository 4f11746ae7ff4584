"""wheels -> a package layer: zip entries to tar entries, without installing anything.

`installer` decides what goes where (schemes, console scripts, RECORD, INSTALLER); this module is
its source (a zip that is read fast and distrusted) and its destination (a layer).
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import lzma
import posixpath
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import Hash, InvalidRecordEntry, RecordEntry, parse_record_file
from installer.scripts import InvalidScript, Script
from installer.sources import WheelFile
from installer.utils import Scheme, construct_record_file, fix_shebang

from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer import LAYOUT_VERSION, PREFIX
from toolchain.layer.archive import Entry, Sink
from toolchain.layer.bytecode import Batch, Bytecode
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.values import dataclass

_HIGHEST_RATIO = 1040  # deflate cannot do better than 1032:1
_LARGEST_ENTRY = 8 << 30
_LARGEST_WHEEL = 32 << 30
_LEAST_MEMBER = 64 << 10  # bytes of a file whose compressed form goes into the layer as it is
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952, 2.3: deflate, no name, no time


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Wheel:
    """A wheel in the store. `filename` is as in its index; it names distribution and version."""

    digest: Digest
    filename: str


def plan(wheels: tuple[Wheel, ...], python: str, bytecode: str | None = None,
         compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What a package layer is made of; its digest is the layer's key for all projects.

    `bytecode` is the identity of the compiler, if modules are compiled.
    """
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "prefix": PREFIX,
            "python": python, "bytecode": bytecode,
            "wheels": [wheel.digest.hex for wheel in wheels]}


def write(wheel: Wheel, stream: IO[bytes], python: str, layer: Sink,
          bytecode: Bytecode | None = None, prefix: str = f"/{PREFIX}") -> None:
    """Add a wheel's files to a layer, as `pip install` into /opt/venv would lay them out.

    `python` is `X.Y`; scripts start the interpreter of `prefix`. Raises ResolveError
    naming the wheel and the entry for a wheel that is damaged or would write outside.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            archive.filename = wheel.filename
            source = _Source(archive, wheel.filename)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # __pycache__ entries are left out
                batch = bytecode.batch() if bytecode is not None else None
                install(source, _Destination(layer, python, wheel.filename, batch, prefix),
                        additional_metadata={"INSTALLER": b"toolchain\n"})
    except zipfile.BadZipFile as error:
        raise _bad(wheel.filename, "", f"not a zip file: {error}") from None
    except (InstallerError, InvalidRecordEntry, InvalidScript, AssertionError, KeyError,
            ValueError, TypeError, NotImplementedError, RuntimeError, EOFError, OverflowError,
            configparser.Error, csv.Error, struct.error, zlib.error) as error:
        raise _bad(wheel.filename, "", f"not a valid wheel: {error}") from None


class _Source(WheelFile):
    """A wheel whose entries are checked before they are believed."""

    def __init__(self, archive: zipfile.ZipFile, filename: str) -> None:
        super().__init__(archive)
        self._filename = filename
        total = 0
        for item in archive.infolist():
            check_path(item.filename, filename)
            if "\0" in item.orig_filename:
                raise _bad(filename, item.filename, "has a NUL in its name")
            parts = item.filename.split("/")
            if parts[0].endswith(".data") and (len(parts) < 3 or not parts[2]) and parts[-1]:
                raise _bad(filename, item.filename, "is in no scheme")
            mode = item.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or not stat.S_IFMT(mode)):
                raise _bad(filename, item.filename, "is a link or device, not a file")
            total += item.file_size
            if (item.file_size > _HIGHEST_RATIO * item.compress_size + _HIGHEST_RATIO
                    or item.file_size > _LARGEST_ENTRY or total > _LARGEST_WHEEL):
                raise _bad(filename, item.filename, "declares an impossible size")

    def get_contents(self) -> Iterator[tuple[tuple[str, str, str], BinaryIO, bool]]:
        lines = self.read_dist_info("RECORD").splitlines()
        records = {record[0]: record for record in parse_record_file(lines)}
        for item in self._zipfile.infolist():
            if item.is_dir():
                continue
            mode = item.external_attr >> 16
            executable = bool(mode and stat.S_ISREG(mode) and mode & 0o111)
            record = records.get(item.filename, (item.filename, "", ""))
            yield record, _Content(*self._content(item)), executable

    def read_dist_info(self, filename: str) -> str:
        path = posixpath.join(self.dist_info_dir, filename)
        try:
            item = self._zipfile.getinfo(path)
        except KeyError:
            raise _bad(self._filename, path, "is missing") from None
        return self._content(item)[0].decode("utf-8")

    def _content(self, item: zipfile.ZipInfo) -> tuple[bytes, bytes]:
        """An entry's bytes and, if it is large, the same as a gzip member, else nothing."""
        import deflate

        if item.compress_type != zipfile.ZIP_DEFLATED or item.flag_bits & 1 or not item.file_size:
            try:
                return self._zipfile.read(item), b""
            except (NotImplementedError, RuntimeError, OSError, EOFError, ValueError,
                    zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
                raise _bad(self._filename, item.filename, f"cannot be read: {error}") from None
        stream = self._zipfile.fp
        assert stream is not None
        stream.seek(item.header_offset)
        header = stream.read(30)
        if len(header) != 30 or header[:4] != b"PK\3\4":
            raise _bad(self._filename, item.filename, "has no local header")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        stream.seek(name_length + extra_length, io.SEEK_CUR)
        pressed = stream.read(item.compress_size)
        data, is_whole = _inflate(pressed, item.file_size)
        if data is None or len(data) != item.file_size or deflate.crc32(data) != item.CRC:
            raise _bad(self._filename, item.filename, "is damaged")
        if not is_whole:
            return data, b""
        return data, b"".join((_GZIP_HEADER, pressed,
                               struct.pack("<II", item.CRC, item.file_size & 0xFFFFFFFF)))


def _inflate(pressed: bytes, size: int) -> tuple[bytes | None, bool]:
    """What deflate made of `size` bytes, None if it is damaged; and whether a gzip member can be
    made of it: nothing may follow the stream's end.

    libdeflate is several times faster than zlib but does not tell where the stream ended.
    """
    import deflate

    try:
        if size < _LEAST_MEMBER:
            return bytes(deflate.deflate_decompress(pressed, size)), False
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        data = stream.decompress(pressed, size + 1)
    except (deflate.DeflateError, zlib.error):
        return None, False
    return data, stream.eof and not stream.unused_data


class _Content(io.BytesIO):
    """A file of a wheel; `member` is it as a gzip member, or empty."""

    def __init__(self, data: bytes, member: bytes) -> None:
        super().__init__(data)
        self.member = member


class _Destination(WheelDestination):
    def __init__(self, layer: Sink, python: str, filename: str,
                 batch: Batch | None, prefix: str) -> None:
        self._layer = layer
        self._interpreter = f"{prefix}/bin/python"
        self._batch = batch
        self._filename = filename
        site = f"{PREFIX}/lib/python{python}/site-packages"
        self._schemes = {
            "purelib": site, "platlib": site, "scripts": f"{PREFIX}/bin", "data": PREFIX,
            "headers": f"{PREFIX}/include/site/python{python}/{filename.split('-')[0]}",
        }

    def write_script(self, name: str, module: str, attr: str, section: Any) -> RecordEntry:
        script = Script(name, module, attr, section)
        script_name, data = script.generate(self._interpreter, "posix")
        return self._write(Scheme("scripts"), script_name, data, executable=True)

    def write_file(self, scheme: Scheme, path: Any, stream: BinaryIO,
                   is_executable: bool) -> RecordEntry:
        if scheme == "scripts":
            with fix_shebang(stream, self._interpreter) as fixed:
                return self._write(scheme, path, fixed.read(), executable=True)
        member = stream.member if isinstance(stream, _Content) else b""
        return self._write(scheme, path, stream.read(), executable=is_executable, member=member)

    def finalize_installation(self, scheme: Scheme, record_file_path: str,
                              records: Iterable[tuple[Scheme, RecordEntry]]) -> None:
        def prefix(other: Scheme) -> str | None:
            if other == scheme:
                return None
            return posixpath.relpath(self._schemes[other], self._schemes[scheme]) + "/"

        compiled = [(scheme, entry) for entry in self._compiled(self._schemes[scheme])]
        with construct_record_file([*records, *compiled], prefix) as stream:
            self._write(scheme, record_file_path, stream.read(), executable=False)

    def _compiled(self, site: str) -> Iterator[RecordEntry]:
        """Add the byte-code. RECORD lists it without hash and size, as installers do."""
        for path, data in self._batch.results() if self._batch is not None else ():
            self._layer.add(Entry(path=path, data=data, mode=0o644))
            yield RecordEntry(posixpath.relpath(path, site), None, None)

    def _write(self, scheme: Scheme, path: str, data: bytes, *, executable: bool,
               member: bytes = b"") -> RecordEntry:
        check_path(path, self._filename)
        self._layer.add(Entry(path=f"{self._schemes[scheme]}/{path}", data=data, member=member,
                              mode=0o755 if executable else 0o644))
        digest = hashlib.sha256(data).digest()
        if self._batch is not None and scheme in ("purelib", "platlib"):
            self._batch.add(f"{self._schemes[scheme]}/{path}", data, digest)
        hashed = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return RecordEntry(path, Hash("sha256", hashed), len(data))


def check_path(path: str, archive: str) -> None:
    """Raise ResolveError for a path that is absolute, leaves its root or is no path at all."""
    parts = path.split("/")
    # A folder's entry ends with a slash, so only the last part may be empty.
    if {"", ".", ".."} & {*parts[:-1]} or parts[-1] in (".", "..") or {"\\", "\0"} & {*path} \
            or not path:
        raise _bad(archive, path, "leaves the folder that it is unpacked to")


def _bad(archive: str, entry: str, reason: str) -> ResolveError:
    return ResolveError(
        f"refused: {entry!r} {reason}" if entry else f"refused: {reason}",
        where=f"{archive}, entry {entry}" if entry else archive,
        fix="do not use this file; pin another version of the package",
    )

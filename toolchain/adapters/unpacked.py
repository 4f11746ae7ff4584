"""Layers -> folders, one each under cache/layers, named by diff_id and shared by all images.

Rule 1: a layer is believed only if its tar has the digest that names the folder: a foreign image
cannot put its files under another layer's name.
Rule 2: nothing is written outside the folder. Entries with `..` or an absolute path, and entries
below a link, are refused; devices and pipes are left out; no link is ever followed.
Rule 3: a folder appears whole. It holds the layer as it is, whiteouts too (OCI image-spec,
layer.md); they take effect when a root is put together.
Rule 4: files of the image's root are read-only; what the image gives to another user keeps its
mode, as that is what the job may change, in its own overlay. Owners are mapped away.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from toolchain.adapters.hashed import Hashed
from toolchain.adapters.tar_stream import Member, TarStream, Unusual
from toolchain.bundle import Fetch
from toolchain.errors import EngineError
from toolchain.layer import GZIP, Layer
from toolchain.layer.archive import LARGEST_TAR, plain
from toolchain.layer.foreign_tar import ForeignTar
from toolchain.layer.gunzip import Gunzip
from toolchain.prune import mark_used
from toolchain.trace import Trace
from toolchain.workfolder import remove, work_folder

_CHUNK = 1 << 20
_DONE = ".json"
_LEFT_OUT = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


class UnpackedLayers:
    """The folders of one cache. `fetch` gives the blobs."""

    def __init__(self, folder: Path, fetch: Fetch, trace: Trace) -> None:
        self._folder = folder
        self._fetch = fetch
        self._trace = trace

    def bring(self, layer: Layer) -> tuple[Path, frozenset[str]]:
        """The layer's folder, and those folders in it that the layer itself does not name.

        Raises EngineError for a layer that is refused, and what `fetch` raises.
        """
        target = self._folder / layer.diff_id.hex
        done = target.with_suffix(_DONE)
        if not mark_used(done):
            with self._trace.holding("unpack", layer.diff_id):
                if not done.exists():
                    self._unpack(layer, target)
        named = json.loads(done.read_bytes())
        return target, frozenset(named["implied"])

    def _unpack(self, layer: Layer, target: Path) -> None:
        with work_folder(self._folder / "tmp") as scratch:
            folder, done = scratch / "layer", scratch / "done"
            folder.mkdir()
            implied = self._write(layer, folder)
            if target.exists():  # cut short between the two renames below
                remove(target)
            os.rename(folder, target)
            done.write_text(json.dumps({"implied": sorted(implied)}))
            os.rename(done, target.with_suffix(_DONE))

    def _write(self, layer: Layer, folder: Path) -> set[str]:
        tree = _Tree(folder, f"layer {layer.diff_id}")
        stream = self._plain(layer)
        try:
            for member, content in TarStream(stream.read):
                tree.add(member, content)
        except Unusual:
            remove(folder)
            folder.mkdir()
            tree, stream = _Tree(folder, tree.where), self._plain(layer)
            _write_with_tarfile(stream, tree)
        stream.drain()
        if stream.digest != layer.diff_id:
            raise EngineError("a layer is not the one that the image's config names",
                              where=tree.where, fix="push the image again; its source is damaged")
        return tree.implied

    def _plain(self, layer: Layer) -> Hashed:
        blob = cast(BinaryIO, _Pieces(self._fetch(layer.digest, layer.size)))
        if layer.media_type == GZIP:
            return Hashed(plain(cast(BinaryIO, Gunzip(blob)), GZIP.removesuffix("+gzip")))
        return Hashed(plain(blob, layer.media_type))


def _write_with_tarfile(stream: Hashed, tree: _Tree) -> None:
    left = LARGEST_TAR
    try:
        with ForeignTar(stream) as archive:
            for info in archive:
                # A sparse file and an old type are files too.
                kind = (tarfile.REGTYPE if info.isreg() else
                        tarfile.DIRTYPE if info.isdir() else info.type)
                if info.isreg():
                    left -= info.size  # a sparse file has its holes filled
                if left < 0:
                    raise tarfile.ReadError("it holds more than a layer may")
                tree.add(Member(name=info.name, kind=kind, mode=info.mode, uid=info.uid,
                                mtime=info.mtime, size=info.size, link=info.linkname),
                         _content(archive, info))
    except tarfile.TarError as error:
        raise EngineError(f"not a valid layer: {error}", where=tree.where,
                          fix="push the image again") from None


def _content(archive: ForeignTar, info: tarfile.TarInfo) -> Iterator[memoryview]:
    source = archive.content(info)
    left = info.size
    while left:
        data = source.read(min(left, _CHUNK))
        if not data:
            raise tarfile.ReadError("unexpected end of data")
        left -= len(data)
        yield memoryview(data)


class _Tree:
    """A folder that entries of one layer go into."""

    def __init__(self, folder: Path, where: str) -> None:
        self.where = where
        self.implied: set[str] = set()
        self._folder = str(folder)
        self._kinds: dict[str, bytes] = {"": tarfile.DIRTYPE}
        self._umask = _umask()

    def add(self, member: Member, content: Iterator[memoryview]) -> None:
        """Put an entry into the folder. Raises EngineError."""
        try:
            self._add(member, content)
        except (OSError, ValueError) as error:  # a name that no file can have, a full disk
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise EngineError(f"an entry cannot be written: {member.name[:80]!r}: {reason}",
                              where=self.where,
                              fix="free some space; or use an image that you trust") from None

    def _add(self, member: Member, content: Iterator[memoryview]) -> None:
        path = self._checked(member.name)
        if path == "" or member.kind in _LEFT_OUT:
            return
        self._above(path)
        target = f"{self._folder}/{path}"
        kind = self._kinds.get(path)
        if member.kind == tarfile.DIRTYPE:
            if kind != tarfile.DIRTYPE:
                self._clear(path, target)
                os.mkdir(target)
            # Whoever unpacked it must be able to remove it.
            os.chmod(target, (member.mode & 0o1777) | 0o700)
            self.implied.discard(path)
            self._kinds[path] = tarfile.DIRTYPE
            return
        self._clear(path, target)
        if member.kind == tarfile.SYMTYPE:
            os.symlink(member.link, target)
            self._kinds[path] = tarfile.SYMTYPE
        elif member.kind == tarfile.LNKTYPE:
            source = self._checked(member.link)
            if self._kinds.get(source) not in (tarfile.REGTYPE, tarfile.SYMTYPE):
                raise self._refused("a hard link to what is not in its layer", member.name)
            os.link(f"{self._folder}/{source}", target, follow_symlinks=False)
            self._kinds[path] = self._kinds[source]
        elif member.kind == tarfile.REGTYPE:
            self._file(member, content, target)
            self._kinds[path] = tarfile.REGTYPE
        else:
            raise self._refused("an entry of an unknown kind", member.name)

    def _file(self, member: Member, content: Iterator[memoryview], target: str) -> None:
        mode = member.mode & 0o777 | 0o400
        if member.uid == 0:
            mode &= 0o555
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
        try:
            for view in content:
                while view:
                    view = view[os.write(handle, view):]
            if mode & self._umask:
                os.fchmod(handle, mode)
            # Byte-code is believed by the time of its source.
            os.utime(handle, (member.mtime, member.mtime))
        finally:
            os.close(handle)

    def _clear(self, path: str, target: str) -> None:
        """A later entry replaces an earlier one."""
        kind = self._kinds.pop(path, None)
        if kind == tarfile.DIRTYPE:
            remove(Path(target))
            for inner in [name for name in self._kinds if name.startswith(f"{path}/")]:
                del self._kinds[inner]
        elif kind is not None:
            os.unlink(target)

    def _checked(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._refused("an entry that leaves its folder", name)
        return "/".join(parts)

    def _above(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if self._kinds.get(folder) == tarfile.DIRTYPE:
            return
        self._above(folder)
        if folder in self._kinds:
            raise self._refused("an entry below something that is no folder", path)
        os.mkdir(f"{self._folder}/{folder}", 0o755)
        self._kinds[folder] = tarfile.DIRTYPE
        self.implied.add(folder)

    def _refused(self, what: str, name: str) -> EngineError:
        return EngineError(f"refused: {what}: {name!r}", where=self.where,
                           fix="use an image that you trust; engine=docker takes any")


class _Pieces(io.RawIOBase):
    """Pieces as a stream. `read` gives less than asked for only at the end of a piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        size = len(self._rest) if size < 0 else size
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


def _umask() -> int:
    """What is taken from the modes of new files. (os.umask would change it for other threads.)"""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o777

"""Unpacked layers -> one folder with an image's files, under cache/roots, by hard links.

Rule 1: a root appears whole, under the digest of the image's config, which names all its layers.
Rule 2: layers are laid over one another as OCI image-spec 1.1 says (layer.md, Applying
Changesets): a whiteout removes what lower layers have, a folder keeps what is in it, anything else
replaces. No link is followed but within the root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from toolchain.adapters.unpacked import UnpackedLayers
from toolchain.errors import EngineError
from toolchain.image import Image
from toolchain.prune import mark_used
from toolchain.trace import Trace
from toolchain.workers import Workers
from toolchain.workfolder import remove, work_folder

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# Files that a container engine puts into a container from its machine.
_HOSTS_OWN = ("etc/resolv.conf", "etc/hosts")


class Roots:
    """The roots of one cache."""

    def __init__(self, folder: Path, layers: UnpackedLayers, trace: Trace) -> None:
        self._folder = folder
        self._layers = layers
        self._trace = trace

    def bring(self, image: Image) -> Path:
        """The image's root. Raises EngineError, and what fetching a layer raises."""
        target = self._folder / image.config_digest.hex
        if mark_used(target):
            return target
        with self._trace.holding("root", image.config_digest):
            if target.exists():
                return target
            with work_folder(self._folder / "tmp") as scratch:
                self._make(image, scratch / "root")
                os.rename(scratch / "root", target)
        return target

    def _make(self, image: Image, folder: Path) -> None:
        # Large layers first: all processors have something to do until the end.
        order = sorted(set(image.layers), key=lambda layer: -layer.size)
        folder.mkdir()
        with Workers(os.cpu_count()) as pool:
            brought = {layer: pool.submit(self._layers.bring, layer) for layer in order}
            for layer in image.layers:  # while others are still unpacked
                source, implied = brought[layer].result()
                _Overlay(str(source), str(folder), implied).lay("", "")
        for name in _HOSTS_OWN:
            with contextlib.suppress(OSError):
                path = _resolved(str(folder), os.path.dirname(name))
                path = os.path.join(str(folder), path, os.path.basename(name))
                _remove(path)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


class _Overlay:
    """One layer that goes over a root. `implied`: its folders that it does not name itself."""

    def __init__(self, layer: str, root: str, implied: frozenset[str]) -> None:
        self._layer = layer
        self._root = root
        self._implied = implied

    def lay(self, path: str, place: str) -> None:
        """Lay the layer's folder `path` over the root's folder `place`; both are relative."""
        with os.scandir(os.path.join(self._layer, path)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        marks = [entry.name for entry in entries if entry.name.startswith(_WHITEOUT)]
        if marks:
            self._erase(place, marks)
        folder = os.path.join(self._root, place)
        for entry in entries:
            if marks and entry.name.startswith(_WHITEOUT):
                continue
            target = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                inner = os.path.join(path, entry.name)
                self.lay(inner, self._folder(inner, os.path.join(place, entry.name)))
                continue
            try:
                self._link(entry.path, target)
            except FileExistsError:
                _remove(target)
                self._link(entry.path, target)

    def _erase(self, place: str, names: list[str]) -> None:
        folder = os.path.join(self._root, place)
        if _OPAQUE in names:
            for name in os.listdir(folder):
                _remove(os.path.join(folder, name))
        for name in names:
            gone = name.removeprefix(_WHITEOUT)
            # A name such as `.wh...` would reach above the folder.
            if name != _OPAQUE and gone not in ("", ".", ".."):
                _remove(os.path.join(folder, gone))

    def _folder(self, inner: str, place: str) -> str:
        """Make a folder of the layer a folder of the root; where it is there."""
        target = os.path.join(self._root, place)
        mode = stat.S_IMODE(os.lstat(os.path.join(self._layer, inner)).st_mode)
        try:
            there = os.lstat(target)
        except FileNotFoundError:
            os.mkdir(target)
            os.chmod(target, mode)
            return place
        if stat.S_ISDIR(there.st_mode):
            if inner not in self._implied:
                os.chmod(target, mode)
            return place
        if stat.S_ISLNK(there.st_mode) and inner in self._implied:
            # `lib/x` alone says nothing of lib, which stays a link to usr/lib.
            found = _resolved(self._root, place)
            if os.path.isdir(os.path.join(self._root, found)):
                return found
        _remove(target)
        os.mkdir(target)
        os.chmod(target, mode)
        return place

    @staticmethod
    def _link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except PermissionError:  # a disk without hard links
            raise EngineError("the cache's disk has no hard links", where=target,
                              fix="set `cache` to a folder on another disk") from None


def _resolved(root: str, place: str) -> str:
    """Where a path in a root leads to, every link taken as within the root; relative."""
    left = [part for part in place.split("/") if part]
    found: list[str] = []
    for _ in range(1000):
        if not left:
            return "/".join(found)
        part = left.pop(0)
        if part == "..":
            found = found[:-1]
            continue
        path = os.path.join(root, *found, part)
        if not os.path.islink(path):
            found.append(part)
            continue
        link = os.readlink(path)
        found = [] if link.startswith("/") else found
        left = [step for step in link.split("/") if step not in ("", ".")] + left
    raise EngineError("links without an end", where=place, fix="use another base image")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        remove(Path(path))

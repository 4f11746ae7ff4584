"""The interpreter of a Debian suite, out of its .debs, in a folder of the cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from toolchain.adapters.compiler import Program, failed
from toolchain.digest import Digest
from toolchain.layer import bytecode
from toolchain.layer.archive import Entry
from toolchain.layer.deb import unpack
from toolchain.lock.base import BasePins
from toolchain.store import Store
from toolchain.workfolder import work_folder

_CONTENTS = "contents.json"  # in an unpacked interpreter: its files and their sizes
_REMEDY = "delete `interpreters` in the cache folder and try again"


def program(pins: BasePins, python: str, folder: Path, store: Store,
            fetch: Callable[[BasePins], None]) -> Program:
    """The interpreter of `pins`, which are this machine's; `fetch` puts their .debs into the store.

    It is started by its own loader with its own C library, so that it runs on any Linux of its
    architecture. Raises ResolveError.
    """
    root = unpacked(pins, python, folder, store, fetch)
    found = sorted(root.glob("usr/lib/*/ld-linux-*.so.*"))
    if not found:
        raise failed("it has no loader", root, _REMEDY)
    return Program(
        arguments=(found[0], "--library-path", found[0].parent, root / f"usr/bin/python{python}"),
        environ={"PYTHONHOME": str(root / "usr")}, root=root, remedy=_REMEDY)


def unpacked(pins: BasePins, python: str, folder: Path, store: Store,
             fetch: Callable[[BasePins], None]) -> Path:
    """The root of the unpacked interpreter, unpacked now if it is not there whole.

    Twice is as once, and two processes may do it at the same time. Raises ResolveError.
    """
    needed = bytecode.needed(pins, python)
    root = folder / Digest.of_json(needed.to_json()).hex[:32]
    if _is_whole(root):
        return root
    fetch(needed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with work_folder(folder.parent / "work") as scratch:
            new, broken = scratch / "root", scratch / "broken"
            for package in needed.packages:
                with store.open(package.sha256) as stream:
                    for entry in unpack(package.name, cast("BinaryIO", stream)).entries:
                        if _is_wanted(entry.path, python):
                            _place(new, entry)
            (new / _CONTENTS).write_text(json.dumps(_sizes(new)))
            with contextlib.suppress(FileNotFoundError):
                os.rename(root, broken)
            try:
                os.rename(new, root)
            except OSError:
                if not _is_whole(root):  # otherwise another process was faster
                    raise
    except OSError as error:
        raise failed(f"cannot be unpacked: {error}", folder, _REMEDY) from None
    return root


def _is_whole(root: Path) -> bool:
    """Whether every file has the size that it was written with. After a power cut some have not."""
    try:
        expected = json.loads((root / _CONTENTS).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(root))


def _sizes(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*")
            if path.is_file() and path.name != _CONTENTS}


def _is_wanted(path: str, python: str) -> bool:
    """Program, standard library, and shared libraries; not their plug-ins."""
    parts = path.split("/")
    return (path == f"usr/bin/python{python}" or parts[:3] == ["usr", "lib", f"python{python}"]
            or (parts[:2] == ["usr", "lib"] and len(parts) == 4 and ".so" in parts[3]))


def _place(root: Path, entry: Entry) -> None:
    target = root / entry.path
    if entry.kind == tarfile.DIRTYPE:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == tarfile.SYMTYPE:
        if not entry.link.startswith("/"):
            target.symlink_to(entry.link)
    elif entry.kind == tarfile.LNKTYPE:
        shutil.copy(root / entry.link, target)
    else:
        target.write_bytes(entry.data)
        target.chmod(0o755 if entry.mode & 0o111 else 0o644)

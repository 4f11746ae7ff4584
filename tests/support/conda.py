"""Tiny conda packages and channels of them, valid or deliberately not."""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import io
import json
import stat
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

# As long as conda-build makes it, so that any real prefix fits into a binary.
PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3" + "_placehold" * 22
_SKIPPED = {"test", "tests", "idlelib", "ensurepip", "lib2to3", "site-packages", "turtledemo",
            "__pycache__", "tkinter", "distutils"}


@dataclass(frozen=True)
class File:
    """A file of a package. `link` makes it a symbolic link, `hard` a hard link; `mode` is
    `text` or `binary` where it holds the placeholder."""

    data: bytes = b""
    executable: bool = False
    link: str = ""
    hard: str = ""
    mode: str = ""
    placeholder: str = PLACEHOLDER
    kind: bytes = b""


def package(channel: Path, name: str, version: str = "1.0", build: str = "0", *,
            files: Mapping[str, File | bytes] | None = None, depends: Sequence[str] = (),
            subdir: str = "linux-64", noarch: str = "", entry_points: Sequence[str] = (),
            suffix: str = ".conda", paths: Any = None, index: Mapping[str, Any] | None = None,
            constrains: Sequence[str] = ()) -> Path:
    """Write `<channel>/<subdir>/<name>-<version>-<build><suffix>`.

    `paths` takes the place of what info/paths.json says, `index` adds to info/index.json.
    """
    content = {path: item if isinstance(item, File) else File(item)
               for path, item in (files or {}).items()}
    subdir = "noarch" if noarch else subdir
    number = build.rpartition("_")[2]
    described = {"name": name, "version": version, "build": build,
                 "build_number": int(number) if number.isdigit() else 0,
                 "depends": list(depends), "constrains": list(constrains), "subdir": subdir,
                 **({"noarch": noarch} if noarch else {}), **(index or {})}
    info: dict[str, File] = {
        "info/index.json": _json(described),
        "info/paths.json": _json(paths if paths is not None else {
            "paths_version": 1,
            "paths": [_path(path, item, content) for path, item in content.items()]}),
        "info/files": File("".join(f"{path}\n" for path in content).encode()),
    }
    if noarch == "python":
        info["info/link.json"] = _json({"package_metadata_version": 1, "noarch": {
            "type": "python", "entry_points": list(entry_points)}})
    folder = channel / subdir
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{version}-{build}{suffix}"
    if suffix == ".conda":
        stem = target.name.removesuffix(suffix)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for entry, data in (
                ("metadata.json", b'{"conda_pkg_format_version": 2}'),
                (f"pkg-{stem}.tar.zst", _zst(tar(content))),
                (f"info-{stem}.tar.zst", _zst(tar(info))),
            ):
                archive.writestr(zipfile.ZipInfo(entry, (2020, 1, 1, 0, 0, 0)), data)
    else:
        target.write_bytes(bz2.compress(tar({**info, **content})))
    return target


def index(channel: Path) -> str:
    """Write the channel's repodata.json files, with the indexer that real channels use; its URL."""
    from rattler.index import index_fs

    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=False, write_shards=False))
    return channel.as_uri()


def python(channel: Path) -> str:
    """Package the interpreter that runs the tests, as `python`; its version.

    It is a real one: a start script with the placeholder, the program and its standard library.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    minor = ".".join(map(str, sys.version_info[:2]))
    base = Path(sys.base_prefix)
    files: dict[str, File] = {
        "bin/python": File(
            f'#!/bin/sh\nLD_LIBRARY_PATH="{PLACEHOLDER}/lib" '
            f'exec "{PLACEHOLDER}/libexec/python{minor}" "$@"\n'.encode(),
            executable=True, mode="text"),
        "bin/python3": File(link="python"),
        f"bin/python{minor}": File(link="python"),
        f"libexec/python{minor}": File(
            (base / f"bin/python{minor}").resolve().read_bytes(), executable=True),
        f"lib/python{minor}/site-packages/README.txt": File(b"packages\n"),
    }
    for path in sorted(base.glob(f"lib/libpython{minor}.so.*")):
        files[f"lib/{path.name}"] = File(path.read_bytes(), executable=True)
    library = base / f"lib/python{minor}"
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if (path.is_file() and not _SKIPPED & {*parts} and not parts[0].startswith("config-")
                and path.suffix in (".py", ".so") and not path.name.startswith("_test")):
            files[f"lib/python{minor}/{'/'.join(parts)}"] = File(path.read_bytes())
    package(channel, "python", version, "h0_0_cpython", files=files)
    return version


def tar(files: Mapping[str, File]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, item in files.items():
            member = tarfile.TarInfo(path)
            member.mode = 0o755 if item.executable else 0o644
            if item.kind:
                member.type = item.kind
            elif item.link:
                member.type, member.linkname = tarfile.SYMTYPE, item.link
            elif item.hard:
                member.type, member.linkname = tarfile.LNKTYPE, item.hard
            else:
                member.size = len(item.data)
            archive.addfile(member, io.BytesIO(item.data))
    return stream.getvalue()


def _path(path: str, item: File, files: Mapping[str, File]) -> dict[str, Any]:
    data = files[item.hard].data if item.hard else item.data
    entry: dict[str, Any] = {
        "_path": path, "path_type": "softlink" if item.link else "hardlink",
        "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
    if item.kind == tarfile.DIRTYPE:
        entry = {"_path": path, "path_type": "directory"}
    if item.mode:
        entry |= {"prefix_placeholder": item.placeholder, "file_mode": item.mode}
    return entry


def _json(value: Any) -> File:
    return File(json.dumps(value, indent=2).encode())


def _zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXUSR)

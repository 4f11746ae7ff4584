"""What conda has installed already, in a form that uv's resolver takes for true.

uv has no word for "this is there, from elsewhere". So each distribution is a constraint to the
version that conda chose, has no needs of its own (conda met them), and is to be found as an empty
wheel, since an index may not have that version.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

_NAME = "provided"


def for_uv(provided: tuple[tuple[str, str], ...], folder: Path,
            environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """uv's arguments, and lines of constraints. `folder` is where uv is started."""
    if not provided:
        return [], []
    wheels = folder / _NAME
    wheels.mkdir()
    for name, version in provided:
        _empty_wheel(wheels, name, version)
    (folder / "uv.toml").write_text("\n".join(
        f"[[dependency-metadata]]\nname = {json.dumps(name)}\nversion = {json.dumps(version)}\n"
        "requires-dist = []\n" for name, version in provided))
    # An argument takes the place of the variable.
    known = filter(None, environ.get("UV_FIND_LINKS", "").split(","))
    links = [item for place in (*known, str(wheels)) for item in ("--find-links", place)]
    return links, [f"{name}=={version}" for name, version in provided]


def _empty_wheel(folder: Path, name: str, version: str) -> None:
    stem = f"{name.replace('-', '_')}-{version.replace('-', '_')}"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA",
                         f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: toolchain\n"
                                          "Root-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")

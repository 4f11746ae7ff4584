"""What conda has installed already, in a form that uv's resolver takes for true.

uv has no word for "this is there, from elsewhere". So each distribution is a constraint to an empty
wheel of the version that conda chose: it is found whatever indexes have and whatever uv's settings
say, and it has no needs of its own, since conda met them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Set as AbstractSet
from pathlib import Path

_NAME = "provided"


def constraints(provided: tuple[tuple[str, str], ...], linked: AbstractSet[str],
                folder: Path) -> list[str]:
    """Lines for uv; the wheels go below `folder`. Of what is `linked`, which is required from a
    place of its own, the version must agree."""
    if not provided:
        return []
    wheels = folder / _NAME
    wheels.mkdir()
    return [f"{name}=={version}" if name in linked
            else f"{name} @ {_empty_wheel(wheels, name, version).as_uri()}"
            for name, version in provided]


def _empty_wheel(folder: Path, name: str, version: str) -> Path:
    stem = f"{name.replace('-', '_')}-{version.replace('-', '_')}"
    info = f"{stem}.dist-info"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA",
                         f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: toolchain\n"
                                          "Root-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path

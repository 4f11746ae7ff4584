"""Which files of a release fit an image: wheel tags, best first (PEP 425, PEP 600)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.errors import ResolveError

_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # by glibc 2.x


def machine_of(platform: str) -> str:
    """`linux/amd64` -> `x86_64`. Raises ResolveError for a platform that is not known."""
    if platform not in _MACHINES:
        raise ResolveError(f"unknown platform {platform!r}", where="image.platform",
                           fix=f"known: {', '.join(_MACHINES)}")
    return _MACHINES[platform]


def host_platform() -> str:
    """This machine as OCI names it; empty for one that images are not made for."""
    names = {machine: platform for platform, machine in _MACHINES.items()}
    return names.get(os.uname().machine, "") if sys.platform == "linux" else ""


def tag_ranks(python: str, platform: str, glibc: tuple[int, int]) -> dict[str, int]:
    """Wheel tag -> how good it is (0 is best), for the image's Python, machine and C library."""
    from packaging import tags

    machine = machine_of(platform)
    major, newest = glibc
    platforms: list[str] = []
    for minor in range(newest, 4, -1):
        if machine == "aarch64" and minor < 17:
            break
        platforms.append(f"manylinux_{major}_{minor}_{machine}")
        if minor in _LEGACY:
            platforms.append(f"{_LEGACY[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    version = tuple(int(part) for part in python.split(".")[:2])
    ordered = [
        *tags.cpython_tags(version, platforms=platforms),
        *tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platforms),
    ]
    return {str(tag): rank for rank, tag in reversed(list(enumerate(ordered)))}


def best_file(entry: dict[str, Any], ranks: Mapping[str, int],
              allowed: tuple[str, ...] | None) -> dict[str, Any] | None:
    """The release's file to install: the best wheel, else the sdist, else None.

    `entry` is a package of pylock.toml (PEP 751). `allowed` are the sha256 digests that the
    project insists on, if it does.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    best: tuple[int, str, dict[str, Any]] | None = None
    for wheel in entry.get("wheels", []):
        if allowed and wheel["hashes"].get("sha256") not in allowed:
            continue
        location = next((wheel[key] for key in ("name", "url", "path", "filename")
                         if wheel.get(key)), "")
        filename = unquote(urlsplit(location).path.rsplit("/", 1)[-1])
        try:
            tags = parse_wheel_filename(filename)[3]
        except InvalidWheelFilename:
            continue
        rank = min((ranks[str(tag)] for tag in tags if str(tag) in ranks), default=None)
        if rank is not None and (best is None or (rank, filename) < best[:2]):
            best = (rank, filename, wheel)
    if best is not None:
        return best[2]
    sdist: dict[str, Any] | None = entry.get("sdist")
    if sdist and allowed and sdist["hashes"].get("sha256") not in allowed:
        return None
    return sdist

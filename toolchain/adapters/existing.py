"""Another tool's lock -> the packages of one image: as it stands, for its platform and Python.

Source: uv's lock file, version 1; PEP 751 for pylock.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.adapters.compatible import best_file, machine_of
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import Existing, Package, Request
from toolchain.spec.pyproject import UV_LOCK, pylock_packages
from toolchain.spec.tomltext import load
from toolchain.spec.uvlock import UvLock, holds


def pick(request: Request, ranks: Mapping[str, int]) -> Iterator[tuple[Package, str, str]]:
    """(package, URL, file name) of all that the lock has for the image. The URL is where the lock
    says that the file is; empty where it does not. Raises ResolveError, SpecError."""
    existing = request.existing
    assert existing is not None
    settled = {item.package.name: item.package for item in request.settled}
    for entry in _entries(existing, request):
        name, version = entry["name"], str(entry.get("version", ""))
        if name in settled:
            yield settled[name], "", ""
            continue
        for wheel in entry.get("wheels") or ():
            _hashed(wheel)
        if "sdist" in entry:
            _hashed(entry["sdist"])
        file = best_file(entry, ranks, None)
        if file is None:
            raise ResolveError(
                f"no file of {name} {version} in {existing.path} fits Python {request.python} on "
                f"{request.platform}", where=existing.path,
                fix="lock for that platform too, or choose another image.platform or Python")
        if "sha256" not in file["hashes"]:
            raise ResolveError(f"{name} {version} has no sha256", where=existing.path,
                               fix="lock it anew, with sha256 hashes")
        url = str(file.get("url") or "")
        place = str(file.get("name") or file.get("filename") or url or file.get("path") or "")
        filename = unquote(urlsplit(place).path.rsplit("/", 1)[-1])
        yield Package(name=name, version=version, sha256=Digest(file["hashes"]["sha256"])), url, \
            filename


def environment(python: str, platform: str) -> dict[str, str]:
    """The image's markers (PEP 508). Where only X.Y is known the patch is 0, as uv takes it."""
    full = python if python.count(".") == 2 else f"{python}.0"
    return {"implementation_name": "cpython", "implementation_version": full, "os_name": "posix",
            "platform_machine": machine_of(platform), "platform_release": "",
            "platform_system": "Linux", "platform_version": "", "python_full_version": full,
            "platform_python_implementation": "CPython", "sys_platform": "linux",
            "python_version": ".".join(python.split(".")[:2]), "extra": ""}


def _entries(existing: Existing, request: Request) -> Iterator[dict[str, Any]]:
    from packaging.utils import canonicalize_name

    data = load(existing.text, existing.path)
    markers = environment(request.python, request.platform)
    if existing.path.split("/")[-1] == UV_LOCK:
        yield from UvLock(data, existing.path).packages(
            load(existing.project, "pyproject.toml"), markers)
        return
    groups = data.get("default-groups")
    more = {"extras": frozenset(), "dependency_groups": frozenset(
        str(name) for name in (groups if isinstance(groups, list) else ()))}
    seen: dict[str, str] = {}
    for entry in pylock_packages(data, existing.path):
        name = canonicalize_name(str(entry.get("name", "")))
        if not holds(entry.get("marker"), {**markers, **more}, existing.path):
            continue
        if name in seen:
            raise ResolveError(f"{name} is locked twice for one image: {seen[name]} and "
                               f"{entry.get('version')}", where=existing.path,
                               fix="give the two markers that exclude each other")
        seen[name] = str(entry.get("version"))
        yield {**entry, "name": name}


def _hashed(file: dict[str, Any]) -> None:
    """uv.lock's `hash = "sha256:…"` as pylock.toml has it."""
    if "hashes" not in file:
        algorithm, _, value = str(file.get("hash", "")).partition(":")
        file["hashes"] = {algorithm: value} if value else {}
    if re.fullmatch(r"[0-9a-fA-F]{64}", str(file["hashes"].get("sha256", ""))):
        file["hashes"]["sha256"] = file["hashes"]["sha256"].lower()
    else:
        file["hashes"].pop("sha256", None)

"""The shape of what another tool's lock says of a package and its files, before anyone reads it.

Sources: PEP 751 for pylock.toml; uv's lock file, version 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from toolchain.errors import SpecError

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_OF_A_PACKAGE = ("version", "marker", "requires-python")
_OF_A_FILE = ("name", "filename", "url", "path", "hash")
_PLACES = ("name", "filename", "url", "path")


def is_name(value: Any) -> bool:
    """Whether it can be a package's name (PEP 508)."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check_package(package: Mapping[str, Any], where: str) -> None:
    """Raise SpecError unless its name, version, marker and files are what they ought to be."""
    if not is_name(package.get("name")):
        raise _damaged("name", where)
    for key in _OF_A_PACKAGE:
        _check_text(package, key, where)
    markers = package.get("resolution-markers", [])
    if not isinstance(markers, list) or not all(isinstance(item, str) for item in markers):
        raise _damaged("resolution-markers", where)
    for key, file in _files(package, where):
        _check_file(file, f"{where}, {key}")


def _files(package: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wheels = package.get("wheels", [])
    if not isinstance(wheels, list):
        raise _damaged("wheels", where)
    for number, wheel in enumerate(wheels):
        yield f"wheels[{number}]", wheel
    if "sdist" in package:
        yield "sdist", package["sdist"]


def _check_file(file: Any, where: str) -> None:
    if not isinstance(file, dict):
        raise _damaged("a file", where)
    for key in _OF_A_FILE:
        _check_text(file, key, where)
    hashes = file.get("hashes", {})
    if not isinstance(hashes, dict) or not all(isinstance(text, str) for text in hashes.values()):
        raise _damaged("hashes", where)
    for key in _PLACES:
        try:
            urlsplit(file.get(key, ""))
        except ValueError:
            raise _damaged(key, where) from None


def _check_text(table: Mapping[str, Any], key: str, where: str) -> None:
    if not isinstance(table.get(key, ""), str):
        raise _damaged(key, where)


def _damaged(what: str, where: str) -> SpecError:
    return SpecError(f"the lock is damaged: {what} has not the form that it ought to have",
                     where=where, fix="make it anew with the tool that wrote it")

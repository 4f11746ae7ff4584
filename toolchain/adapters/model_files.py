"""A model's files -> digests that two trainings can be compared by.

`MLmodel` names the run, the model and the time; those are no part of what was learned and are left
out. A `.skops` file, which MLflow makes of scikit-learn's models, is a zip archive with the time in
it, whose members and objects are called by where they were in memory: these are counted instead.
Everything else counts, byte for byte.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from toolchain.digest import Digest

_SKOPS_SCHEMA = "schema.json"
_SKOPS_ADDRESS = re.compile(r'(?<="__id__": )[0-9]+|(?<="file": ")[0-9]+(?=\.)')
_NAMES = re.compile(rb"^(run_id|model_id|model_uuid|utc_time_created|artifact_path): .*\n", re.M)


def digests(folder: Path, names: Iterable[str] = ()) -> dict[str, Digest]:
    """Path -> digest, of every file below `folder`. `names`: what run and model are called."""
    found = {}
    for top, _, files in os.walk(folder):
        for name in files:
            path = Path(top, name)
            relative = path.relative_to(folder).as_posix()
            if name == "MLmodel":
                found[relative] = Digest.of(_nameless(path.read_bytes(), names))
            else:
                found[relative] = (_skops(path) if name.endswith(".skops") else None) or _of(path)
    return dict(sorted(found.items()))


def _of(path: Path) -> Digest:
    with open(path, "rb") as stream:
        return Digest.of_stream(stream)


def _skops(path: Path) -> Digest | None:
    """The digest of what such an archive holds; None if it is none."""
    numbers: dict[str, str] = {}

    def number(address: str) -> str:
        return numbers.setdefault(address, str(len(numbers)))

    try:
        with zipfile.ZipFile(path) as archive:
            schema = _SKOPS_ADDRESS.sub(lambda found: number(found[0]),
                                        archive.read(_SKOPS_SCHEMA).decode())
            members = {}
            for name in archive.namelist():
                if name != _SKOPS_SCHEMA:
                    address, dot, kind = name.partition(".")
                    with archive.open(name) as stream:
                        members[f"{numbers.get(address, address)}{dot}{kind}"] = str(
                            Digest.of_stream(stream))
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError, EOFError,
            zipfile.BadZipFile, zlib.error):
        return None
    return Digest.of_json({"schema": schema, "members": members})


def _nameless(text: bytes, names: Iterable[str]) -> bytes:
    text = _NAMES.sub(b"", text)
    for name in names:
        text = text.replace(name.encode(), b"-") if name else text
    return text

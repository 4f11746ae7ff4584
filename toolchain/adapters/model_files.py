"""A model's files -> digests that two trainings can be compared by.

`MLmodel` names the run, the model and the time; those are no part of what was learned and are left
out. Everything else counts, byte for byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from toolchain.digest import Digest

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
                with open(path, "rb") as stream:
                    found[relative] = Digest.of_stream(stream)
    return dict(sorted(found.items()))


def _nameless(text: bytes, names: Iterable[str]) -> bytes:
    text = _NAMES.sub(b"", text)
    for name in names:
        text = text.replace(name.encode(), b"-") if name else text
    return text

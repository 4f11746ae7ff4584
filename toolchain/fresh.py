"""The fast answer to "is anything to be done?": one look at times instead of seven plans.

After a run in which every stage asked for was fresh, the times of all that decided it (the
project's files, locks, receipts, blobs, the tracking database) are put on record as one
fingerprint. While that fingerprint holds, those stages are fresh. It is only ever a shortcut: if
anything differs, the stages are planned as usual.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from toolchain.digest import Digest, canonical_json, fingerprint
from toolchain.errors import ToolchainError
from toolchain.journal import Journal
from toolchain.tree import Found, Stamp, is_settled, stamp, walk

# Raise when a stage's plan or result changes for the same inputs: what an older version of this
# package found fresh may not be so any more. tests/test_fresh.py tells when that is.
GENERATION = 2


class Shortcut:
    """The fingerprints of one cache, with the times of files that projects share read once."""

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        self._shared: dict[str, Stamp | None] = {}

    def stages(self, project: str, folder: Path, settings: str) -> frozenset[str]:
        """The stages that are certainly fresh."""
        rows = self._journal.rows(
            "select signature, stages, outputs from fresh where project=? and settings=?",
            (project, settings),
        )
        if not rows:
            return frozenset()
        signature, stages, outputs = rows[0]
        try:
            now = self._signature(walk(folder), json.loads(outputs))
        except ToolchainError:
            return frozenset()
        return frozenset(stages.split()) if now == signature else frozenset()

    def record(self, project: str, files: Iterable[Found], settings: str, stages: Iterable[str],
               outputs: Iterable[Path], since: int) -> None:
        """Remember that these stages are fresh, unless something changed meanwhile.

        `files` are the project's as the stages were planned from them. What moved after `since`,
        in nanoseconds, or a moment before, may not be what was looked at: a long call for other
        projects leaves time for an edit.
        """
        paths, found = sorted({str(path) for path in outputs}), list(files)
        self._shared.clear()
        stamps = [item.stamp for item in found]
        stamps += filter(None, map(self._stamp, paths))
        if is_settled(iter(stamps), since):
            signature = self._signature(found, paths)
            self._journal.write(
                "insert or replace into fresh values (?,?,?,?,?)",
                (project, settings, signature, " ".join(sorted(stages)),
                 canonical_json(paths).decode()),
            )

    def _signature(self, files: Iterable[Found], outputs: list[str]) -> str:
        found = [(file.path, file.mode, file.stamp) for file in files]
        shared = [self._stamp(path) for path in outputs]
        return fingerprint(repr((found, shared)).encode())

    def _stamp(self, path: str) -> Stamp | None:
        if path not in self._shared:
            try:
                self._shared[path] = stamp(os.stat(path))
            except OSError:
                self._shared[path] = None
        return self._shared[path]


def settings_key(values: Mapping[str, object]) -> str:
    """What tells one set of settings from another."""
    return Digest.of_json({"generation": GENERATION, **values}).hex[:32]

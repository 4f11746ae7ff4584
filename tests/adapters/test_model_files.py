"""Two trainings that gave the same are told from two that did not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from toolchain.adapters.model_files import digests
from toolchain.digest import Digest


def _skops(folder: Path, addresses: tuple[int, int], weights: bytes, day: int) -> Digest:
    """A model as skops writes it: objects and members are called by where they were in memory."""
    schema = {"__class__": "ElasticNet", "content": {
        "coef": {"__id__": addresses[0], "file": f"{addresses[0]}.npy"},
        "seed": {"__id__": addresses[1], "content": "0"}}}
    folder.mkdir()
    with zipfile.ZipFile(folder / "model.skops", "w") as archive:
        for name, data in ((f"{addresses[0]}.npy", weights),
                           ("schema.json", json.dumps(schema, indent=2).encode())):
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, day, 0, 0, 0)), data)
    return digests(folder)["model.skops"]


def test_a_skops_model_counts_by_what_it_holds(tmp_path: Path) -> None:
    first = _skops(tmp_path / "a", (140682487254928, 9710048), b"weights", 1)
    assert _skops(tmp_path / "b", (139654759460624, 9710048), b"weights", 2) == first
    assert _skops(tmp_path / "c", (140682487254928, 9710048), b"others", 1) != first


def test_objects_that_are_one_are_told_from_two(tmp_path: Path) -> None:
    assert _skops(tmp_path / "a", (7, 7), b"weights", 1) != _skops(
        tmp_path / "b", (7, 8), b"weights", 1)


def test_a_file_that_only_has_such_a_name_counts_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(b"no archive")
    assert digests(tmp_path) == {"model.skops": Digest.of(b"no archive")}

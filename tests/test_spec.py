"""Whole projects in, whole Specs or whole error messages out; and what must not change a Spec.

tests/data/spec/<case>/ holds a project, and `expected.json` or `error.txt`, and `warnings.txt` if
it is warned about. To write them anew after a change that is meant, run with UPDATE_EXPECTED=1 and
read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.spec import Spec
from toolchain.spec.mlproject import name_of, parse
from toolchain.spec.reader import TreeReader
from toolchain.tree import Tree

CASES = Path(__file__).parent / "data/spec"
RESULTS = ("expected.json", "error.txt", "warnings.txt")


def read(folder: Path, cache: Path, warnings: list[str] | None = None) -> Spec:
    reader = TreeReader(Tree(folder, Journal(cache)), folder.parent)
    return parse("MLproject", folder.name, reader, "3.11",
                 lambda text: (warnings if warnings is not None else []).append(text))


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_a_project_is_read_whole(case: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    found: dict[str, str] = {}
    try:
        spec = read(CASES / case, tmp_path, warnings)
    except SpecError as error:
        found["error.txt"] = f"{error}\n"
    else:
        found["expected.json"] = json.dumps(spec.to_json(), indent=2, sort_keys=True) + "\n"
        assert Spec.from_json(json.loads(found["expected.json"])) == spec
    if warnings:
        found["warnings.txt"] = "".join(f"{line}\n" for line in warnings)
    if os.environ.get("UPDATE_EXPECTED") == "1":
        for name in RESULTS:
            (CASES / case / name).unlink(missing_ok=True)
        for name, text in found.items():
            (CASES / case / name).write_text(text)
    expected = {name: (CASES / case / name).read_text() for name in RESULTS
                if (CASES / case / name).exists()}
    assert found == expected


def test_errors_keep_secrets_to_themselves() -> None:
    for path in CASES.rglob("error.txt"):
        assert "hunter2" not in path.read_text()


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_bytes(b"name: \xff\n")
    with pytest.raises(SpecError, match="not UTF-8: byte 6"):
        read(folder, tmp_path / "cache")


def test_a_name_is_found_without_judging_the_rest() -> None:
    assert name_of(b"name: one\nnonsense: [1\n") == ""
    assert name_of(b"name: one\ndocker_env: 3\n") == "one"
    assert name_of(b"\xff") == ""


NAMES = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "eps"]), min_size=1,
                 unique=True)


def write(folder: Path, lines: list[str], end: str = "\n") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "MLproject").write_text("entry_points: {main: {command: x}}\n")
    (folder / "requirements.txt").write_bytes(end.join([*lines, ""]).encode())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_how_requirements_are_written_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("law")
    lines = [f"{name}>=1" for name in data.draw(NAMES)]
    write(root / "project", lines)
    plain = read(root / "project", root / "cache").to_json()
    changed = [data.draw(st.sampled_from(["{}", " {} ", "{}  # why", "# note\n{}", "\n{}"]))
               .format(line.replace(">=", data.draw(st.sampled_from([">=", " >= "]))))
               for line in data.draw(st.permutations(lines))]
    write(root / "project", changed, data.draw(st.sampled_from(["\n", "\r\n"])))
    assert read(root / "project", root / "cache").to_json() == plain


@settings(max_examples=40, deadline=None)
@given(NAMES, st.data())
def test_every_edited_dependency_changes_the_spec(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("law")
    lines = [f"{name}==1.0" for name in names]
    write(root / "project", lines)
    before = read(root / "project", root / "cache").requirements
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = data.draw(st.sampled_from(
        [f"{names[place]}==1.1", f"{names[place]}>=1.0", f"{names[place]}[x]==1.0", "zeta"]))
    write(root / "project", lines)
    assert read(root / "project", root / "cache").requirements != before

"""Real projects mean here what they mean to MLflow.

The projects are other people's text and are not part of this repository: TOOLCHAIN_CORPUS names a
folder of them, one project a folder, with INDEX.tsv saying what MLflow made of each. Without it,
`../shared/corpus` beside the repository is taken if it is there.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.scan import scan
from toolchain.spec import PARAMETER_TYPES, Spec
from toolchain.spec.command import call
from toolchain.spec.mlproject import parse
from toolchain.spec.reader import TreeReader
from toolchain.tree import Tree

CORPUS = Path(os.environ.get("TOOLCHAIN_CORPUS")
              or Path(__file__).resolve().parents[2] / "shared/corpus")

pytestmark = pytest.mark.skipif(
    not (CORPUS / "INDEX.tsv").is_file(),
    reason="no corpus of projects here: TOOLCHAIN_CORPUS names one")

# Project -> what of our error is right although MLflow loads the project, and why. None is known.
RIGHTLY_REFUSED: dict[str, str] = {}

_KINDS = {"conda_env": "conda", "python_env": "python_env", "docker_env": "docker"}
_VALUES = {"int": "3", "float": "0.5", "bool": "true", "uri": "s3://bucket/key", "path": "a b/c",
           "string": "it's $HOME"}
_PROGRAMS = ("python", "python3", "curl", "sleep", "cat", "wc")


def _rows() -> list[dict[str, str]]:
    if not (CORPUS / "INDEX.tsv").is_file():
        return []
    with open(CORPUS / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = {row["dir"]: row for row in _rows()}


class WithoutConda(TreeReader):
    """Reads every conda environment as an empty one: what MLproject says can be judged alone."""

    def read(self, path: str) -> str | None:
        text = super().read(path)
        return "dependencies: []\n" if text and path.endswith((".yaml", ".yml")) else text


def load(folder: Path, cache: Path, kind: type[TreeReader] = TreeReader) -> tuple[Spec, list[str]]:
    (mlproject,) = [name for name in os.listdir(folder) if name.lower() == "mlproject"]
    warnings: list[str] = []
    reader = kind(Tree(folder, Journal(cache)), folder)
    return parse(mlproject, folder.name, reader, "3.11", warnings.append), warnings


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_project_means_what_it_means_to_mlflow(name: str, tmp_path: Path) -> None:
    row, folder = ROWS[name], CORPUS / name
    if row["mlflow_load"] != "ok":
        with pytest.raises(SpecError):
            load(folder, tmp_path)
        return
    if name in RIGHTLY_REFUSED:
        with pytest.raises(SpecError, match=re.escape(RIGHTLY_REFUSED[name])):
            load(folder, tmp_path)
        return
    is_conda = row["env"].startswith("conda_env")
    spec, warnings = load(folder, tmp_path, WithoutConda if is_conda else TreeReader)
    assert spec.environment == _KINDS[row["env"].partition(":")[0]]
    assert set(spec.entry_points) == {
        item.partition("=")[0].strip() for item in row["entry_points"].split(";")}
    theirs = _mlflow(folder)
    for entry_name, entry in spec.entry_points.items():
        meant = {word for word in entry.parameters if any(
            f"entry_points.{entry_name}.parameters.{word}: " in text and "one word for YAML" in text
            for text in warnings)}
        other = theirs.get_entry_point(entry_name)
        assert set(other.parameters) == set(entry.parameters)
        for word, parameter in other.parameters.items():
            if word in meant:
                continue  # MLflow takes no notice of its type or default
            ours = entry.parameters[word]
            assert ours.type == (parameter.type if parameter.type in PARAMETER_TYPES else "string")
            assert ours.default == (None if parameter.default is None else str(parameter.default))
        given = {word: _VALUES[parameter.type] for word, parameter in entry.parameters.items()}
        settled = call(spec, entry_name, given, lambda _: None)
        line = other.compute_command(given, None)
        assert _runs(settled.command(), settled.variables(), tmp_path) == _runs(line, {}, tmp_path)


def _mlflow(folder: Path) -> Any:
    from mlflow.projects._project_spec import load_project

    return load_project(str(folder))  # type: ignore[no-untyped-call]


def _runs(line: str, variables: Mapping[str, str], folder: Path) -> bytes:
    """What a line calls, and with which words: every program that it names says so itself."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in _PROGRAMS:
        (programs / name).write_text(f"#!{shutil.which('bash')}\nprintf '%s|' {name} \"$@\"\n")
        (programs / name).chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-c", line], cwd=folder, capture_output=True,
                          env={"PATH": str(programs), "HOME": "/nowhere", **variables})
    assert done.stdout or done.returncode, line
    return done.stdout


def test_a_conda_environment_that_is_not_understood_says_why(tmp_path: Path) -> None:
    """Their number is printed; what MLproject says of those projects is judged above."""
    refused = []
    for name in ROWS:
        try:
            load(CORPUS / name, tmp_path)
        except SpecError as error:
            refused.append((name, error))
    print(f"{len(refused)} of {len(ROWS)} environments are not understood:")
    for name, why in refused:
        print(f"  {name}: {why.what}, {why.where}")
        assert ROWS[name]["env"].startswith("conda_env")
        assert re.search(r"\.ya?ml:\d+", why.where) or "leaves the workspace" in why.what
        assert why.fix


def test_as_one_monorepo_every_project_is_found(tmp_path: Path) -> None:
    found = scan(CORPUS, ".", str(tmp_path), Journal(tmp_path))
    doubles = [project for project in found.projects.values() if project.mistake]
    assert all("projects are named" in str(project.mistake) for project in doubles)
    several = sum(str(project.mistake).count("MLproject") - 1 for project in doubles)
    assert len(found.projects) + several >= len(ROWS) > 0

"""Real projects mean here what they mean to MLflow.

The projects are other people's text and are not part of this repository: TOOLCHAIN_CORPUS names a
folder of them, one project a folder, with INDEX.tsv saying what MLflow made of each. Without it,
`../shared/corpus` beside the repository is taken if it is there. A folder without INDEX.tsv is
compared with what the installed MLflow makes of it; `python -m tests.support.compare FOLDER` says
the same at more length.
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

from tests.support.compare import (
    SAMPLES,
    WithoutConda,
    entry_differences,
    judge,
    load,
    projects,
)
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.scan import scan
from toolchain.spec.command import call
from toolchain.spec.reader import TreeReader

CORPUS = Path(os.environ.get("TOOLCHAIN_CORPUS")
              or Path(__file__).resolve().parents[2] / "shared/corpus")

needs_index = pytest.mark.skipif(
    not (CORPUS / "INDEX.tsv").is_file(),
    reason="no corpus of projects here: TOOLCHAIN_CORPUS names one")

# Project -> what of our error is right although MLflow loads the project, and why. None is known.
RIGHTLY_REFUSED: dict[str, str] = {}

_KINDS = {"conda_env": "conda", "python_env": "python_env", "docker_env": "docker"}
_PROGRAMS = ("python", "python3", "curl", "sleep", "cat", "wc")


def _rows() -> list[dict[str, str]]:
    if not (CORPUS / "INDEX.tsv").is_file():
        return []
    with open(CORPUS / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = {row["dir"]: row for row in _rows()}


@needs_index
@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_project_means_what_it_means_to_mlflow(name: str, tmp_path: Path) -> None:
    row, folder = ROWS[name], CORPUS / name
    if row["mlflow_load"] != "ok":
        with pytest.raises(SpecError):
            load(folder, folder, tmp_path)
        return
    if name in RIGHTLY_REFUSED:
        with pytest.raises(SpecError, match=re.escape(RIGHTLY_REFUSED[name])):
            load(folder, folder, tmp_path)
        return
    is_conda = row["env"].startswith("conda_env")
    spec, warnings = load(folder, folder, tmp_path, WithoutConda if is_conda else TreeReader)
    assert spec.environment == _KINDS[row["env"].partition(":")[0]]
    assert set(spec.entry_points) == {
        item.partition("=")[0].strip() for item in row["entry_points"].split(";")}
    theirs = _mlflow(folder)
    for entry_name, entry in spec.entry_points.items():
        assert not [*entry_differences(spec, entry_name, warnings, theirs, [])]
        given = {word: SAMPLES[parameter.type] for word, parameter in entry.parameters.items()}
        settled = call(spec, entry_name, given, lambda _: None)
        line = theirs.get_entry_point(entry_name).compute_command(given, None)
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


@needs_index
def test_a_conda_environment_that_is_not_understood_says_why(tmp_path: Path) -> None:
    """Their number is printed; what MLproject says of those projects is judged above."""
    refused = []
    for name in ROWS:
        try:
            load(CORPUS / name, CORPUS / name, tmp_path)
        except SpecError as error:
            refused.append((name, error))
    print(f"{len(refused)} of {len(ROWS)} environments are not understood:")
    for name, why in refused:
        print(f"  {name}: {why.what}, {why.where}")
        assert ROWS[name]["env"].startswith("conda_env")
        assert re.search(r"\.ya?ml:\d+", why.where) or "leaves the workspace" in why.what
        assert why.fix


@needs_index
def test_as_one_monorepo_every_project_is_found(tmp_path: Path) -> None:
    found = scan(CORPUS, ".", str(tmp_path), Journal(tmp_path))
    doubles = [project for project in found.projects.values() if project.mistake]
    assert all("projects are named" in str(project.mistake) for project in doubles)
    several = sum(str(project.mistake).count("MLproject") - 1 for project in doubles)
    assert len(found.projects) + several >= len(ROWS) > 0


def _without_index() -> list[Path]:
    return [] if ROWS or "TOOLCHAIN_CORPUS" not in os.environ else [*projects(CORPUS)]


@pytest.mark.parametrize("folder", _without_index(), ids=lambda folder: folder.name)
def test_a_project_means_what_the_installed_mlflow_makes_of_it(folder: Path,
                                                               tmp_path: Path) -> None:
    verdict = judge(folder, CORPUS, tmp_path)
    assert not verdict.differences
    if verdict.error:
        assert verdict.theirs, verdict.error
        assert re.search(r":\d+|the file is empty", str(verdict.error))
        assert verdict.error.fix

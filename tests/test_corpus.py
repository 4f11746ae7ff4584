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
    differences,
    entry_differences,
    judge,
    load,
    projects,
)
from tests.support.environments import environment_differences
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.scan import scan
from toolchain.spec import Spec
from toolchain.spec.command import call
from toolchain.spec.reader import TreeReader

CORPUS = Path(os.environ.get("TOOLCHAIN_CORPUS")
              or Path(__file__).resolve().parents[2] / "shared/corpus")

needs_index = pytest.mark.skipif(
    not (CORPUS / "INDEX.tsv").is_file(),
    reason="no corpus of projects here: TOOLCHAIN_CORPUS names one")

# Project -> what of our error is right although MLflow loads the project. Each with its reason; the
# rest of such a project is compared all the same.
RIGHTLY_REFUSED = {
    # Its requirements are `-e ../../../`, which the corpus lacks; pip would fail too.
    "Tomev__qcflow__tests__resources__example_project__MLproject":
        "leaves the workspace: ../../../pyproject.toml",
}
# Project -> the warning with which we take what MLflow refuses. None is known.
RIGHTLY_TAKEN: dict[str, str] = {}

_KINDS = {"conda_env": "conda", "python_env": "python_env", "docker_env": "docker"}
_PROGRAMS = ("python", "python3", "curl", "sleep", "cat", "wc")


def _rows() -> list[dict[str, str]]:
    if not (CORPUS / "INDEX.tsv").is_file():
        return []
    with open(CORPUS / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = {row["dir"]: row for row in _rows()}


@needs_index
def test_the_index_is_that_of_the_folder() -> None:
    """A project without a row would not be looked at."""
    assert {*ROWS} == {folder.name for folder in projects(CORPUS)}
    assert {*RIGHTLY_REFUSED, *RIGHTLY_TAKEN} <= {*ROWS}


@needs_index
@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_project_means_what_it_means_to_mlflow(name: str, tmp_path: Path) -> None:
    row, folder = ROWS[name], CORPUS / name
    if row["mlflow_load"] != "ok":
        _check_what_mlflow_refuses(name, folder, tmp_path)
        return
    kind: type[TreeReader] = TreeReader
    if name in RIGHTLY_REFUSED:
        _check_refusal(folder, tmp_path, RIGHTLY_REFUSED[name])
        kind = WithoutConda
    spec, warnings = load(folder, folder, tmp_path, kind)
    theirs = _mlflow(folder)
    announced = any("which MLflow would not do" in text for text in warnings)
    assert not [*differences(spec, warnings, theirs, [])]
    assert spec.environment == _KINDS[row["env"].partition(":")[0]]
    named = row["env"].partition(":")[2]
    assert named in spec.files or (named in ("", "-") and (announced or not spec.requirements))
    if kind is TreeReader:
        assert not [*environment_differences(spec, folder, theirs)]
    said = {item.partition("=")[0].strip(): item.partition("=")[2].strip()
            for item in row["entry_points"].split(";")}
    assert set(spec.entry_points) == set(said)
    for entry_name, entry in spec.entry_points.items():
        assert not [*entry_differences(spec, entry_name, warnings, theirs, [])]
        if said[entry_name] == "ok":
            given = {word: SAMPLES[item.type] for word, item in entry.parameters.items()}
            # A default that MLflow does not see (`{type:int, default:1}`) is given to it.
            hidden = {word for word, item in theirs.get_entry_point(entry_name).parameters.items()
                      if item.default is None}
            for some in (given, {word: given[word] for word in hidden}):
                _check_command(spec, entry_name, some, theirs, tmp_path)


def _check_what_mlflow_refuses(name: str, folder: Path, scratch: Path) -> None:
    if name not in RIGHTLY_TAKEN:
        _check_refusal(folder, scratch, "")
        return
    _, warnings = load(folder, folder, scratch)
    assert any(RIGHTLY_TAKEN[name] in text for text in warnings)


def _check_refusal(folder: Path, scratch: Path, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(folder, folder, scratch)
    assert what in caught.value.what
    assert caught.value.where
    assert caught.value.fix


def _check_command(spec: Spec, entry_point: str, given: dict[str, str], theirs: Any,
                   scratch: Path) -> None:
    """Both lines call the same programs with the same words."""
    settled = call(spec, entry_point, given, lambda _: None)
    line = theirs.get_entry_point(entry_point).compute_command(given, None)
    assert _runs(settled.command(), settled.variables(), scratch) == _runs(line, {}, scratch)


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

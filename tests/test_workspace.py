"""Where projects are, what they are called, and which settings hold for them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from toolchain.errors import ConfigError, SpecError
from toolchain.journal import Journal
from toolchain.workspace import Project, Workspace, select


def add(root: Path, folder: str, text: str = "", name: str = "MLproject") -> Path:
    path = root / "projects" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(root: Path, journal: Journal) -> dict[str, str]:
    found = Workspace.open(root, {}).projects(journal)
    return {name: project.folder for name, project in found.items()}


def test_projects_are_found_at_any_depth(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a", "name: first\n")
    add(tmp_path, "team/b", "entry_points: {}\n")
    add(tmp_path, "team/b/inner", "name: inner\n")
    add(tmp_path, "c", "", name="mlproject")
    add(tmp_path, "mlruns/d", "name: never\n")
    add(tmp_path, "c/.venv/e", "name: never\n")
    assert names(tmp_path, journal) == {
        "first": "projects/a", "b": "projects/team/b", "inner": "projects/team/b/inner",
        "c": "projects/c",
    }


def test_a_broken_project_has_its_folders_name(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "broken", "name: [\n")
    add(tmp_path, "odd", "name: {a: 1}\n")
    assert set(names(tmp_path, journal)) == {"broken", "odd"}


def test_two_of_one_name_are_both_named(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a", "name: same\n")
    add(tmp_path, "b/same", "")
    with pytest.raises(SpecError) as caught:
        names(tmp_path, journal)
    assert caught.value.where == "projects/a/MLproject and projects/b/same/MLproject"


def test_changes_are_noticed_although_the_last_look_is_remembered(
    tmp_path: Path, journal: Journal
) -> None:
    path = add(tmp_path, "a", "name: first\n")
    time.sleep(2.1)
    assert set(names(tmp_path, journal)) == {"first"}
    assert set(names(tmp_path, journal)) == {"first"}
    path.write_text("name: again\n")
    assert set(names(tmp_path, journal)) == {"again"}
    add(tmp_path, "b", "name: more\n")
    assert set(names(tmp_path, journal)) == {"again", "more"}
    path.unlink()
    assert set(names(tmp_path, journal)) == {"more"}


def test_a_missing_folder_names_the_setting(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(ConfigError, match="projects folder does not exist"):
        names(tmp_path, journal)


def test_selecting_names_the_near_one(tmp_path: Path) -> None:
    known = {name: Project(name=name, folder=name, mlproject="MLproject")
             for name in ("elasticnet", "digits")}
    assert list(select(known, "digits, elasticnet")) == ["digits", "elasticnet"]
    with pytest.raises(SpecError, match="did you mean 'digits'"):
        select(known, "digit")


def test_the_nearest_setting_wins(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a")
    add(tmp_path, "b")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.toolchain]\nrepository = "of/all"\nalias = "all"\n')
    (tmp_path / "projects/a/pyproject.toml").write_text(
        '[tool.toolchain]\nrepository = "of/a"\nimage.platform = "linux/arm64"\n')
    workspace = Workspace.open(tmp_path, {"alias": "call"})
    a, b = (workspace.config_for(workspace.projects(journal)[name]) for name in "ab")
    assert (a.repository, a.alias, a.image_platform) == ("of/a", "call", "linux/arm64")
    assert (b.repository, b.alias, b.image_platform) == ("of/all", "call", "linux/amd64")


def test_a_project_cannot_move_the_cache(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a")
    (tmp_path / "projects/a/pyproject.toml").write_text('[tool.toolchain]\ncache = "own"\n')
    workspace = Workspace.open(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot be given here") as caught:
        workspace.config_for(workspace.projects(journal)["a"])
    assert caught.value.where == "projects/a/pyproject.toml, [tool.toolchain]"

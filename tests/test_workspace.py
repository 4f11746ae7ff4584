"""Where projects are, what they are called, and which settings hold for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.errors import ConfigError, SpecError
from toolchain.journal import Journal
from toolchain.workspace import Project, Workspace, select


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock ten seconds on: what the test writes lies beyond the grain of file times."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)


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


@pytest.mark.usefixtures("_later")
def test_a_folder_with_a_name_that_is_not_utf_8_hinders_nobody(
    tmp_path: Path, journal: Journal
) -> None:
    add(tmp_path, "a", "name: first\n")
    (tmp_path / "projects" / os.fsdecode(b"caf\xe9")).mkdir()
    assert set(names(tmp_path, journal)) == {"first"}


def mistakes(root: Path, journal: Journal) -> dict[str, SpecError | None]:
    found = Workspace.open(root, {}).projects(journal)
    return {name: project.mistake for name, project in found.items()}


def test_a_project_in_such_a_folder_is_a_mistake_of_its_own(
    tmp_path: Path, journal: Journal
) -> None:
    add(tmp_path, "a", "name: first\n")
    add(tmp_path, os.fsdecode(b"caf\xe9"), "name: second\n")
    found = mistakes(tmp_path, journal)
    assert set(found) == {"first", "caf_xe9"}
    assert found["first"] is None
    mistake = found["caf_xe9"]
    assert mistake is not None
    assert "not UTF-8" in mistake.what
    assert mistake.where == "projects/caf\\xe9"


def test_the_workspace_itself_is_no_project(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.toolchain]\nprojects = "."\n')
    (tmp_path / "MLproject").touch()
    add(tmp_path, "a", "name: first\n")
    found = mistakes(tmp_path, journal)
    own = next(found[name] for name in found if name != "first")
    assert own is not None
    assert "the workspace itself" in own.what
    assert own.fix == "move the project into a folder of its own"
    assert found["first"] is None


def test_a_project_that_cannot_be_read_is_named(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "b", "name: first\n")
    (tmp_path / "projects/a").mkdir(parents=True)
    (tmp_path / "projects/a/MLproject").symlink_to("/proc/self/mem")
    found = mistakes(tmp_path, journal)
    assert found["first"] is None
    assert found["a"] is not None
    assert (found["a"].what.split(":")[0], found["a"].where) == (
        "cannot be read", "projects/a/MLproject")


@pytest.mark.parametrize("folder", ["a:b", "a=b", "a,b", "-a", "a*b"])
def test_a_folder_that_names_no_task_needs_a_name_in_mlproject(
    tmp_path: Path, journal: Journal, folder: str
) -> None:
    path = add(tmp_path, folder, "entry_points: {}\n")
    ((name, mistake),) = mistakes(tmp_path, journal).items()
    assert mistake is not None
    assert "like its folder" in mistake.what
    assert not set(":=,*") & set(name)
    path.write_text("name: good\n")
    assert mistakes(tmp_path, journal) == {"good": None}


def test_the_file_is_found_in_any_case_and_only_as_a_file(
    tmp_path: Path, journal: Journal
) -> None:
    for name in ("MLproject", "mlproject", "MLProject", "MLPROJECT"):
        add(tmp_path, name.swapcase(), "", name=name)
    (tmp_path / "projects/folder/MLproject").mkdir(parents=True)
    add(tmp_path, "folder/MLproject/inner", "")
    add(tmp_path, "both", "name: capital\n")
    add(tmp_path, "both", "name: small\n", name="mlproject")
    (tmp_path / "projects/pipe").mkdir()
    os.mkfifo(tmp_path / "projects/pipe/MLproject")
    assert set(names(tmp_path, journal)) == {
        "mlPROJECT", "MLPROJECT", "mlpROJECT", "mlproject", "inner", "capital"}


def test_templates_and_near_misses_are_noted(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a", "name: first\n")
    add(tmp_path, "{{cookiecutter.name}}", "name: '{{cookiecutter.name}}'\n")
    add(tmp_path, "t/x{{y}}/deeper", "name: never\n")
    add(tmp_path, "b", "name: never\n", name="mlproject.yaml")
    for _ in range(2):  # seen, and then remembered
        scan = Workspace.open(tmp_path, {}).scan(journal)
        assert set(scan.projects) == {"first"}
        assert scan.notes == (
            "projects/b/mlproject.yaml is not read: MLflow's file is called MLproject, without an "
            "extension; rename it",
            "projects/t/x{{y}} is a template, not a project; it was passed over",
            "projects/{{cookiecutter.name}} is a template, not a project; it was passed over",
        )
    with pytest.raises(SpecError, match="no project named 'b'") as caught:
        select(scan.projects, "b", scan.notes)
    assert "mlproject.yaml" in caught.value.fix


def test_many_notes_are_counted(tmp_path: Path, journal: Journal) -> None:
    for number in range(13):
        (tmp_path / f"projects/{{{{{number}}}}}").mkdir(parents=True)
    notes = Workspace.open(tmp_path, {}).scan(journal).notes
    assert (len(notes), notes[-1]) == (11, "and 3 more like these")


@pytest.mark.parametrize("cache", ["cache", "./cache/", "{root}/cache"])
def test_the_whole_workspace_may_be_the_projects_folder(
    tmp_path: Path, journal: Journal, cache: str
) -> None:
    """Its cache holds copies of projects, which are none."""
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.toolchain]\nprojects = "."\ncache = "{cache.format(root=tmp_path)}"\n')
    add(tmp_path, "a", "name: first\n")
    (tmp_path / "cache/environments/x").mkdir(parents=True)
    (tmp_path / "cache/environments/x/MLproject").write_text("name: first\n")
    assert names(tmp_path, journal) == {"first": "projects/a"}


def test_projects_of_one_name_are_all_named_and_hinder_nobody(
    tmp_path: Path, journal: Journal
) -> None:
    add(tmp_path, "a", "name: same\n")
    add(tmp_path, "b/same", "")
    add(tmp_path, "c", "name: other\n")
    found = mistakes(tmp_path, journal)
    assert found["other"] is None
    assert found["same"] is not None
    assert found["same"].what == "two projects are named 'same'"
    assert found["same"].where == "projects/a/MLproject and projects/b/same/MLproject"
    add(tmp_path, "d", "name: same\n")
    again = mistakes(tmp_path, journal)["same"]
    assert again is not None
    assert again.what == "3 projects are named 'same'"


@pytest.mark.usefixtures("_later")
def test_changes_are_noticed_although_the_last_look_is_remembered(
    tmp_path: Path, journal: Journal
) -> None:
    path = add(tmp_path, "a", "name: first\n")

    def after(change: Callable[[], object]) -> dict[str, str]:
        time.sleep(0.02)  # the clock of files ticks every 10 ms at least
        change()
        return names(tmp_path, journal)

    assert names(tmp_path, journal) == names(tmp_path, journal) == {"first": "projects/a"}
    assert after(lambda: path.write_text("name: again\n")) == {"again": "projects/a"}
    assert after(lambda: add(tmp_path, "b", "name: more\n")) == {
        "again": "projects/a", "more": "projects/b"}
    assert after(lambda: path.parent.rename(tmp_path / "projects/c")) == {
        "more": "projects/b", "again": "projects/c"}
    assert after((tmp_path / "projects/c/MLproject").unlink) == {"more": "projects/b"}
    assert after(lambda: add(tmp_path, "b/.venv/x").with_name("MLproject").touch()) == {
        "more": "projects/b"}


@pytest.mark.usefixtures("_later")
def test_a_name_is_not_read_again_while_its_file_has_not_moved(
    tmp_path: Path, journal: Journal
) -> None:
    add(tmp_path, "a", "name: first\n")
    names(tmp_path, journal)
    # Only a scan that takes the name from its record does not notice that this is a lie.
    journal.write("update files set entries = replace(entries, 'first', 'a lie')")
    assert set(names(tmp_path, journal)) == {"a lie"}


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

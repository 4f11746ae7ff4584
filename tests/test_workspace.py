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


def test_a_project_in_such_a_folder_is_a_mistake(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, os.fsdecode(b"caf\xe9"), "name: first\n")
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        names(tmp_path, journal)
    assert caught.value.where == "projects/caf\\xe9"


def test_the_workspace_itself_is_no_project(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.toolchain]\nprojects = "."\n')
    (tmp_path / "MLproject").touch()
    with pytest.raises(SpecError, match="the workspace itself") as caught:
        names(tmp_path, journal)
    assert caught.value.fix == "move the project into a folder of its own"


def test_a_project_that_cannot_be_read_is_named(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "projects/a").mkdir(parents=True)
    (tmp_path / "projects/a/MLproject").symlink_to("/proc/self/mem")
    with pytest.raises(SpecError, match="cannot be read") as caught:
        names(tmp_path, journal)
    assert caught.value.where == "projects/a/MLproject"


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


def test_two_of_one_name_are_both_named(tmp_path: Path, journal: Journal) -> None:
    add(tmp_path, "a", "name: same\n")
    add(tmp_path, "b/same", "")
    with pytest.raises(SpecError) as caught:
        names(tmp_path, journal)
    assert caught.value.where == "projects/a/MLproject and projects/b/same/MLproject"


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

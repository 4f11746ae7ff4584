"""Settings: where they may be given, which one wins, what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from toolchain.config import CALL, PROJECT, WORKSPACE, Config, read_settings, reference
from toolchain.errors import ConfigError
from toolchain.journal import Journal
from toolchain.workspace import Project, Workspace

IRIS = Project(name="iris", folder="projects/iris", mlproject="MLproject")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["[tool.toolchain]", *lines]))


def refusal(values: dict[str, Any], scope: str = WORKSPACE) -> str:
    with pytest.raises(ConfigError) as caught:
        Config().given(values, scope=scope, where="here")
    return str(caught.value)


def test_without_any_file_every_setting_has_its_default(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path, {})
    assert workspace.config == Config()
    assert workspace.config_for(IRIS) == Config()


def test_the_call_wins_over_the_project_over_the_workspace_over_the_default(
    tmp_path: Path,
) -> None:
    write(tmp_path / "pyproject.toml", 'alias = "w"', 'engine = "w"', 'repository = "w"')
    write(tmp_path / "projects/iris/pyproject.toml", 'alias = "p"', 'engine = "p"')
    config = Workspace.open(tmp_path, {"alias": "c"}).config_for(IRIS)
    assert (config.alias, config.engine, config.repository) == ("c", "p", "w")
    assert config.registry == Config().registry


def test_a_projects_table_holds_for_that_project_alone(tmp_path: Path) -> None:
    write(tmp_path / "projects/iris/pyproject.toml", 'alias = "p"')
    workspace = Workspace.open(tmp_path, {})
    other = Project(name="o", folder="projects/o", mlproject="MLproject")
    assert workspace.config_for(IRIS).alias == "p"
    assert workspace.config_for(other) == workspace.config == Config()


def test_dotted_names_are_tables_or_keys(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", 'image.base = "auto"', "[tool.toolchain.image]")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_settings(tmp_path / "pyproject.toml")
    write(tmp_path / "a.toml", 'image.mirror = "file:///m"', "image.updates = false")
    write(tmp_path / "b.toml", "[tool.toolchain.image]", 'mirror = "file:///m"', "updates = false")
    assert read_settings(tmp_path / "a.toml") == read_settings(tmp_path / "b.toml") == {
        "image.mirror": "file:///m", "image.updates": False}


def test_the_cache_is_below_the_workspace(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", 'cache = "build/cache"')
    assert Workspace.open(tmp_path, {}).cache == tmp_path / "build/cache"


def test_an_unknown_setting_names_the_nearest_and_all() -> None:
    text = refusal({"enigne": "local"})
    assert text.startswith("unknown setting 'enigne' (did you mean 'engine'?)\n  at here\n")
    for name, *_ in reference():
        assert name in text


def test_settings_are_known_by_the_name_that_users_write() -> None:
    assert "did you mean 'image.base'" in refusal({"image_base": "auto"})


@pytest.mark.parametrize(("scope", "name", "where_to_give"), [
    (PROJECT, "projects", "in the workspace's pyproject.toml or as name=value on the command line"),
    (PROJECT, "cache", "in the workspace's pyproject.toml or as name=value on the command line"),
    (PROJECT, "entry_point", "as name=value on the command line"),
    (WORKSPACE, "params", "as name=value on the command line"),
])
def test_a_setting_in_the_wrong_place_is_refused_with_the_right_one(
    scope: str, name: str, where_to_give: str,
) -> None:
    assert refusal({name: "x"}, scope) == (
        f"setting {name!r} cannot be given here\n  at here\n  fix: give it {where_to_give}")


@pytest.mark.parametrize(("name", "default", "scope"), [row[:3] for row in reference()])
def test_every_setting_can_be_given_where_its_scope_says_and_nowhere_else(
    name: str, default: Any, scope: str,
) -> None:
    admitted = {WORKSPACE: [WORKSPACE, CALL], PROJECT: [PROJECT, WORKSPACE, CALL], CALL: [CALL]}
    quantities = {slot.metadata["name"] or slot.name for slot in fields(Config)
                  if slot.metadata["reads"]}
    value = ((not default) if isinstance(default, bool)
             else "7" if name in quantities else "3.9" if name == "python" else "given")
    for place in (PROJECT, WORKSPACE, CALL):
        if place in admitted[scope]:
            given = Config().given({name: value}, scope=place, where="here")
            assert getattr(given, name.replace(".", "_")) == value
        else:
            refusal({name: value}, place)


@pytest.mark.parametrize(("word", "meaning"), [
    ("1", True), ("true", True), ("Yes", True), (True, True),
    ("0", False), ("FALSE", False), ("no", False), (False, False),
])
def test_these_words_mean_yes_or_no(word: Any, meaning: bool) -> None:
    assert Config().given({"insecure": word}, scope=CALL, where="").insecure is meaning


@pytest.mark.parametrize("word", ["", "2", "on", "truee", 1, 1.0, None])
def test_other_words_for_yes_or_no_are_refused(word: Any) -> None:
    assert refusal({"insecure": word}) == (
        f"insecure is yes or no, not {word!r}\n  at here\n  fix: insecure=1 or insecure=0")


@pytest.mark.parametrize("value", [1, True, 1.5, ["x"], {"x": "y"}])
def test_text_must_be_text(value: Any) -> None:
    assert refusal({"engine": value}).startswith(f"engine is text, not {type(value).__name__}\n")


def test_a_python_version_that_is_a_number_is_refused_for_its_lost_zero() -> None:
    assert refusal({"python": 3.10}) == (
        "python = 3.1 is a number, which drops a last zero\n  at here\n"
        '  fix: write it as text, as in python = "3.11"')


@pytest.mark.parametrize("value", ["3.11", "3.11.2", "2.7", "3.14"])
def test_a_python_is_a_version(value: str) -> None:
    assert Config().given({"python": value}, scope=CALL, where="").python == value


@pytest.mark.parametrize("value", ["", "3", "3.11.x", ">=3.11", "3.11.*", "3.11 ", "3.11.2.1",
                                   "python3.11", "3.11rc1", "3.\u0661"])
def test_a_python_that_is_no_version_is_refused(value: str) -> None:
    assert refusal({"python": value}) == (
        f"python is a version, not {value!r}\n  at here\n"
        "  fix: write it as X.Y or X.Y.Z; a range belongs into the project's own environment file")


def test_a_mistake_says_which_file_and_table(tmp_path: Path) -> None:
    write(tmp_path / "projects/iris/pyproject.toml", 'cache = "x"')
    with pytest.raises(ConfigError) as caught:
        Workspace.open(tmp_path, {}).config_for(IRIS)
    assert caught.value.where == "projects/iris/pyproject.toml, [tool.toolchain]"
    with pytest.raises(ConfigError) as caught:
        Workspace.open(tmp_path, {"cahce": "x"})
    assert caught.value.where == "command line"


@pytest.mark.parametrize("text", [
    '[project]\nname = "x"\n', "", '[tool.other]\nx = 1\n', "# toolchain\n", "[tool]\n# toolchain",
])
def test_a_file_without_the_table_has_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert read_settings(tmp_path / "pyproject.toml") == {}


@pytest.mark.parametrize("data", [
    b"[tool.toolchain\n", b"[tool]\ntoolchain = 1\n", b'tool = "toolchain"\n',
    b'[tool.toolchain]\nengine = "\xff"\n',
    b"[tool.toolchain]\nx = " + b"9" * 5000, b"[tool.toolchain]\nx = " + b"[" * 5000,
])
def test_a_file_that_makes_no_sense_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pyproject.toml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path / "pyproject.toml")
    assert caught.value.where == str(tmp_path / "pyproject.toml")
    assert caught.value.fix


def test_a_missing_projects_folder_says_how_to_set_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="projects folder does not exist") as caught:
        Workspace.open(tmp_path, {}).projects(Journal(tmp_path / "cache"))
    assert caught.value.fix.startswith(
        "make it, or set `projects` in pyproject.toml's [tool.toolchain]; ")


def test_every_setting_is_described() -> None:
    for name, default, scope, doc in reference():
        assert name
        assert type(default) in (str, bool)
        assert scope in (WORKSPACE, PROJECT, CALL)
        assert doc

"""Whole projects in, whole Specs or whole error messages out; and what must not change a Spec.

tests/data/spec/<case>/ holds a project, and `expected.json` or `error.txt`, and `warnings.txt` if
it is warned about. To write them anew after a change that is meant, run with UPDATE_EXPECTED=1 and
read the difference.
"""

from __future__ import annotations

import json
import os
import random
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolchain import lock
from toolchain.digest import Digest, canonical_json
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.spec import PARAMETER_TYPES, Conda, Docker, EntryPoint, Parameter, Spec
from toolchain.spec.docker import placed
from toolchain.spec.mlproject import name_of, parse
from toolchain.spec.reader import TreeReader
from toolchain.spec.source import FILE, FOLDER, GIT, Source
from toolchain.spec.yamltext import canonical
from toolchain.tree import Tree

CASES = Path(__file__).parent / "data/spec"
RESULTS = ("expected.json", "error.txt", "warnings.txt")


class Texts(dict[str, str]):
    """Files in memory; implements toolchain.spec.Reader."""

    def read(self, path: str) -> str | None:
        return self.get(path)


def spec_of(**files: str) -> Spec:
    """`python_env_yaml="…"` is that file's text."""
    texts = Texts({re.sub("_(yaml|txt|toml)$", r".\1", name): text
                   for name, text in files.items()})
    texts.setdefault("MLproject", "name: one\n")
    return parse("MLproject", "one", texts, "3.11", lambda _: None)


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_a_project_is_read_whole(case: str, tmp_path: Path) -> None:
    folder = CASES / case
    warnings: list[str] = []
    found: dict[str, str] = {}
    reader = TreeReader(Tree(folder, Journal(tmp_path)), CASES.parent)
    try:
        spec = parse("MLproject", case, reader, "3.11", warnings.append)
    except SpecError as error:
        found["error.txt"] = f"{error}\n"
    else:
        found["expected.json"] = json.dumps(spec.to_json(), indent=2, sort_keys=True) + "\n"
        assert Spec.from_json(json.loads(found["expected.json"])) == spec
    if warnings:
        found["warnings.txt"] = "".join(f"{line}\n" for line in warnings)
    if os.environ.get("UPDATE_EXPECTED") == "1":
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)
        for name, text in found.items():
            (folder / name).write_text(text)
    expected = {name: (folder / name).read_text() for name in RESULTS
                if (folder / name).exists()}
    assert found == expected


def test_every_mistake_says_what_where_and_how_to_fix_it_and_no_secret() -> None:
    for case in CASES.glob("error-*"):
        text = (case / "error.txt").read_text()
        assert "\n  at " in text, case
        assert "\n  fix: " in text, case
        assert "secret" not in text, case


def test_the_name_alone_is_found_whatever_the_rest_is_like() -> None:
    assert name_of(b"\xef\xbb\xbfname: 'one'\r\nentry_points: [odd]\r\n") == "one"
    assert name_of(b"name: 7\ndocker_env: 3\n") == "7"
    assert name_of(b"name: a/b\n") == "a-b"
    for data in (b"", b"- a\n", b"name:\n", b"name: {a: b}\n", b"name: ..\n", b"name: one\n[",
                 b"name: \xff"):
        assert name_of(data) == ""


text = st.text(st.characters(codec="utf-8"), max_size=20)
fields: dict[str, st.SearchStrategy[Any]] = {
    "name": text, "environment": st.sampled_from(["python_env", "conda", "docker"]),
    "python": text,
    "requirements": st.lists(text).map(tuple), "constraints": st.lists(text).map(tuple),
    "hashes": st.dictionaries(text, st.lists(text).map(tuple), max_size=2),
    "entry_points": st.dictionaries(text, st.builds(
        EntryPoint, command=text, description=text, parameters=st.dictionaries(
            text, st.builds(Parameter, type=st.sampled_from(PARAMETER_TYPES),
                            default=st.none() | text, description=text), max_size=3)),
        max_size=3),
    "files": st.dictionaries(text, text, max_size=3),
    "docker": st.none() | st.builds(
        Docker, image=text, volumes=st.lists(text).map(tuple),
        environment=st.dictionaries(text, text, max_size=3), copied=st.lists(text).map(tuple)),
    "sources": st.lists(st.builds(
        Source, kind=st.sampled_from([FOLDER, GIT, FILE]), location=text, name=text,
        extras=st.lists(text, max_size=2).map(tuple), marker=text, revision=text,
        subdirectory=text, hashes=st.lists(text, max_size=2).map(tuple)).map(Source.to_json),
        max_size=3).map(tuple),
    "options": st.lists(text, max_size=3).map(tuple), "locked": text,
    "conda": st.none() | st.builds(Conda, channels=st.lists(text).map(tuple),
                                   packages=st.lists(text).map(tuple), file=text),
    "variables": st.dictionaries(text, text, max_size=3)}
specs = st.builds(Spec, **fields)


def test_the_round_trip_leaves_no_field_of_a_spec_at_its_default() -> None:
    """One that is added to Spec has to be added above too."""
    # Where a package is asked for is for messages, and not on record.
    assert fields.keys() | {"places"} == Spec.__dataclass_fields__.keys()


@settings(max_examples=100, deadline=None)
@given(specs)
def test_a_spec_survives_its_receipt(spec: Spec) -> None:
    assert Spec.from_json(json.loads(canonical_json(spec.to_json()))) == spec
    small = spec.for_runner()
    assert Spec.from_json(json.loads(canonical_json(small.to_json()))) == small


# Laws: what must not change a Spec, and what must.

words = st.text("abcdefghij klmn-_.0123456789:#'\"{}éß", min_size=1, max_size=12).filter(str.strip)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
parameters = st.dictionaries(names, st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "path"])}, optional={"default": words}), max_size=3)
mlprojects = st.fixed_dictionaries({
    "name": names,
    "entry_points": st.dictionaries(names, st.fixed_dictionaries(
        {"command": words, "parameters": parameters}), max_size=3),
    "python_env": st.just("python_env.yaml"),
})
versions = st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}", fullmatch=True)
pins = st.dictionaries(names, versions, min_size=1, max_size=5)
styles = st.fixed_dictionaries({
    "indent": st.integers(2, 8), "default_flow_style": st.sampled_from([True, False, None]),
    "default_style": st.sampled_from([None, "'", '"']), "allow_unicode": st.booleans(),
})


keys = names | words | st.text(max_size=6)
scalars: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words | text
           | names | st.sampled_from(["yes", "Off", "null", "~", "a: b", "a #b", "-", "- a", "=",
                                      "<<", "python x {a} --b={c}", "1e3", ".5", "2026-01-02"])
           | st.binary(max_size=4) | st.just(set()) | st.dates() | st.datetimes())
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(keys, inner, max_size=4), max_leaves=12)


@settings(max_examples=400, deadline=None)
@example([0.0, -0.0])
@given(values)
def test_canonical_text_is_what_pyyaml_writes(value: Any) -> None:
    assert canonical(value) == yaml.safe_dump(value, sort_keys=True, allow_unicode=True,
                                              width=1 << 20)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same value with its keys in another order."""
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, chance)) for key, item in value.items()]
    chance.shuffle(items)
    return dict(items)


def written(value: Any, style: Mapping[str, Any], chance: random.Random) -> str:
    """YAML of `value` in some style."""
    text = yaml.safe_dump(shuffled(value, chance), sort_keys=False, width=1 << 20, **style)
    return with_noise(text.splitlines(), chance)


def with_noise(lines: list[str], chance: random.Random) -> str:
    """Comments, blank lines, trailing blanks and line ends by chance."""
    end = chance.choice(["\n", "\r\n"])
    noisy = []
    for line in lines:
        noisy += chance.choice([[], [], ["# a comment: {x"], [""]])
        noisy.append(line + chance.choice(["", "", " ", "  # why"]))
    return end.join(noisy) + chance.choice(["", end])


def requirements(pinned: Mapping[str, str], chance: random.Random) -> list[str]:
    lines = [chance.choice([f"{name}=={version}", f"{name.upper()} == {version}",
                            f"{name}(=={version})"])
             for name, version in pinned.items()]
    chance.shuffle(lines)
    return lines


@settings(max_examples=60, deadline=None)
@given(mlprojects, pins, styles, styles, st.randoms(use_true_random=False))
def test_style_comments_and_order_change_nothing(
    project: dict[str, Any], pinned: dict[str, str], one: dict[str, Any], two: dict[str, Any],
    chance: random.Random,
) -> None:
    def spec(style: Mapping[str, Any]) -> Spec:
        listed = [*requirements(pinned, chance), "-r requirements.txt"]
        chance.shuffle(listed)
        environment = {"python": "3.11", "dependencies": listed}
        return spec_of(MLproject=written(project, style, chance),
                       python_env_yaml=written(environment, style, chance),
                       requirements_txt=with_noise(requirements(pinned, chance), chance))

    assert spec(one).to_json() == spec(two).to_json()


@pytest.mark.parametrize("kind", ["requirements", "python_env", "conda", "constraint"])
@settings(max_examples=30, deadline=None)
@given(pinned=pins, data=st.data())
def test_another_version_of_one_package_changes_the_spec(
    kind: str, pinned: dict[str, str], data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(sorted(pinned)))
    other = {**pinned, name: data.draw(versions.filter(lambda v: v != pinned[name]))}

    def spec(pinned: Mapping[str, str]) -> Spec:
        lines = [f"{name}=={version}" for name, version in pinned.items()]
        if kind == "requirements":
            return spec_of(requirements_txt="\n".join(lines))
        if kind == "python_env":
            return spec_of(python_env_yaml=yaml.safe_dump({"dependencies": lines}))
        if kind == "constraint":
            return spec_of(requirements_txt="-c c.txt\nanything", c_txt="\n".join(lines))
        return spec_of(conda_yaml=yaml.safe_dump({"dependencies": ["pip", {"pip": lines}]}))

    one, two = spec(pinned), spec(other)
    assert (one.requirements, one.constraints) != (two.requirements, two.constraints)
    assert one.files != two.files


def request_of(spec: Spec) -> Digest:
    """What a lock answers."""
    plan = lock.request(spec, "3.11", "linux/amd64").plan()
    return Digest.of_json([plan, spec.conda and spec.conda.to_json()])


def documents(kind: str, lines: list[str], style: Mapping[str, Any], chance: random.Random,
              ) -> dict[str, str]:
    """An environment of that kind that asks for `lines`, in some style."""
    if kind == "requirements":
        return {"requirements_txt": with_noise(lines, chance)}
    if kind == "included":
        return {"requirements_txt": with_noise(["-r more.txt"], chance),
                "more_txt": with_noise(lines, chance)}
    if kind == "constraints":
        return {"requirements_txt": with_noise(["anything", "-c more.txt"], chance),
                "more_txt": with_noise(lines, chance)}
    if kind == "python_env":
        return {"python_env_yaml": written(
            {"python": "3.11", "build_dependencies": ["pip"], "dependencies": lines}, style,
            chance)}
    if kind == "pyproject":
        return {"pyproject_toml": with_noise(
            ["[project]", 'name = "x"', *toml_list("dependencies", lines, chance)], chance)}
    if kind == "pylock":
        return {"pylock_toml": with_noise(
            ['lock-version = "1.0"', *(line for text in lines for line in locked(text, chance))],
            chance)}
    if kind == "conda packages":
        return {"conda_yaml": written(
            {"name": "x", "channels": ["one", "two"],
             "dependencies": ["python=3.11", *(conda_package(text) for text in lines)]}, style,
            chance)}
    conda: list[Any] = ["python=3.11", "pip", {"pip": lines}]
    chance.shuffle(conda)
    return {"conda_yaml": written({"name": "x", "dependencies": conda}, style, chance)}


def toml_list(key: str, lines: list[str], chance: random.Random) -> list[str]:
    quote = chance.choice("\"'")
    quoted = [f"{quote}{line}{quote}" for line in lines]
    if chance.random() < 0.5:
        return [f"{key} = [{', '.join(quoted)}]"]
    return [f"{key} = [", *(f"  {line}," for line in quoted), "]"]


def name_and_version(requirement: str) -> tuple[str, str]:
    name, version = requirement.replace("(", "").replace(")", "").split("==")
    return name.strip().lower(), version.strip()


def locked(requirement: str, chance: random.Random) -> list[str]:
    name, version = name_and_version(requirement)
    fields = [f'name = "{name}"', f"version = '{version}'",
              f"wheels = [{{ name = '{name}-{version}-py3-none-any.whl' }}]"]
    chance.shuffle(fields)
    return ["[[packages]]", *fields]


def conda_package(requirement: str) -> str:
    name, version = name_and_version(requirement)
    return f"z{name}={version}"  # `pip` and `python` are names that mean something


@pytest.mark.parametrize("kind", ["requirements", "included", "constraints", "python_env", "conda",
                                  "pyproject", "pylock", "conda packages"])
@settings(max_examples=40, deadline=None)
@given(project=mlprojects, pinned=pins, one=styles, two=styles,
       chance=st.randoms(use_true_random=False), data=st.data())
def test_a_lock_answers_what_is_wanted_and_not_how_it_is_written(
    kind: str, project: dict[str, Any], pinned: dict[str, str], one: dict[str, Any],
    two: dict[str, Any], chance: random.Random, data: st.DataObject,
) -> None:
    del project["python_env"]

    def spec(wanted: Mapping[str, str], style: Mapping[str, Any]) -> Spec:
        return spec_of(MLproject=written(project, style, chance),
                       **documents(kind, requirements(wanted, chance), style, chance))

    before = spec(pinned, one)
    assert spec(pinned, two).to_json() == before.to_json()
    name = data.draw(st.sampled_from(sorted(pinned)))
    edits = [
        {**pinned, name: data.draw(versions.filter(lambda v: v != pinned[name]))},
        {word: version for word, version in pinned.items() if word != name},
        {**pinned, data.draw(names.filter(lambda word: word not in pinned)): "1.0"},
    ]
    for edited in edits:
        if edited or kind != "conda":
            assert request_of(spec(edited, one)) != request_of(before)


@pytest.mark.parametrize(("one", "two"), [
    ("default: 0.5", 'default: "0.5"'), ("default: 0.5", "default: '0.5'"),
    ("default: 1e-1", 'default: "1e-1"'), ("default: 7", 'default: "7"'),
    ("type: float", 'type: "float"'), ("default: None", "default: 'None'"),
    ("default: 0.50", "default: 0.5"), ("default: a b", "default: >-\n          a\n          b"),
])
def test_quotes_that_mean_nothing_change_nothing(one: str, two: str) -> None:
    text = ("name: {0}\nentry_points:\n  main:\n    command: run {{x}}\n    parameters:\n"
            "      x:\n        {1}\ndocker_env:\n  image: base:1\n  environment: [[A, {2}]]\n")
    assert (spec_of(MLproject=text.format("7", one, "1")).to_json()
            == spec_of(MLproject=text.format("'7'", two, '"1"')).to_json())


@pytest.mark.parametrize(("one", "two"), [
    ("default: yes", 'default: "yes"'),  # `True` for the program
    ("default: 0.50", 'default: "0.50"'),
    ("default: null", 'default: "null"'),
    ("default: 0.5", "default: 0.6"),
])
def test_quotes_that_mean_something_change_the_spec(one: str, two: str) -> None:
    text = "entry_points: {{main: {{command: 'run {{x}}', parameters: {{x: {{{0}}}}}}}}}"
    first, second = spec_of(MLproject=text.format(one)), spec_of(MLproject=text.format(two))
    assert first.entry_points != second.entry_points
    assert first.files != second.files


@settings(max_examples=30, deadline=None)
@given(channels=st.lists(names, min_size=2, max_size=4, unique=True),
       chance=st.randoms(use_true_random=False))
def test_the_order_of_channels_means_something(channels: list[str], chance: random.Random) -> None:
    def spec(channels: list[str]) -> Spec:
        return spec_of(conda_yaml=yaml.safe_dump({"channels": channels,
                                                  "dependencies": ["zlib=1.2"]}))

    other = [*channels[1:], channels[0]]
    assert request_of(spec(channels)) != request_of(spec(other))
    assert spec(channels).files != spec(other).files


# Rules that tables say best.

@pytest.mark.parametrize(("wanted", "python", "pip"), [
    ("python=3.11", "3.11", ()), ("python==3.11.4", "3.11.4", ()), ("python 3.10", "3.10", ()),
    ("python=3.11.*", "3.11", ()), ("python>=3.9,<3.12", "3.11", ()), ("python<3.11", "3.10", ()),
    ("python >=3.12", "3.13", ()), ("python!=3.11.*", "3.13", ()), ("defaults::python", "", ()),
    ("Python", "", ()), ("pip", "", ()), ("pip=23.1", "", ("pip==23.1.*",)),
    ("pip=23.1.*", "", ("pip==23.1.*",)), ("pip==23.1", "", ("pip==23.1",)),
    ("pip>=23,<24", "", ("pip<24,>=23",)), ("pip 23.1", "", ("pip==23.1",)),
])
def test_conda_versions_of_python_and_pip_are_understood(
    wanted: str, python: str, pip: tuple[str, ...],
) -> None:
    spec = spec_of(conda_yaml=yaml.safe_dump({"dependencies": [wanted]}))
    assert (spec.python, spec.requirements) == (python, pip)


@pytest.mark.parametrize("value", [
    '!!int ""', "!!int x", "!!float x", "!!bool maybe", "!!timestamp yesterday", "0x_",
    "2026-02-30", "!mine x", "=",
])
def test_a_value_that_yaml_cannot_read_is_a_mistake_with_a_line(value: str) -> None:
    with pytest.raises(SpecError, match="not valid YAML") as caught:
        spec_of(MLproject="entry_points:\n  main:\n    command: a\n    parameters:\n      x:\n"
                          f"        default: {value}")
    assert caught.value.where.startswith("MLproject:6")


def merges(depth: int) -> str:
    """Merge keys within merge keys: a few hundred bytes that stand for 10 ** (depth + 1) keys."""
    if depth == 0:
        return "&a0 {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}"
    return f"&a{depth} {{<<: [{merges(depth - 1)}" + f", *a{depth - 1}" * 9 + "]}"


@pytest.mark.parametrize("bomb", ["a: &a [*a]", "a: &a {b: *a}", "[" * 2000 + "]" * 2000,
                                  "[" * 200_000, "- " * 50_000, "a: &a {<<: *a}"])
def test_yaml_without_end_is_refused(bomb: str) -> None:
    with pytest.raises(SpecError, match="too large or too deep"):
        spec_of(MLproject=bomb)


def test_mappings_are_merged_as_yaml_has_it() -> None:
    """A mapping's own keys win, then those of the mapping that is named first."""
    spec = spec_of(MLproject="x: &x {type: int, default: 1}\ny: &y {default: a, type: string}\n"
                             "entry_points: {main: {command: a, parameters: "
                             "{p: {<<: [*x, *y], default: 2}, q: {default: 3, <<: *x}}}}")
    parameters = spec.entry_points["main"].parameters
    assert {name: (found.type, found.default) for name, found in parameters.items()} == {
        "p": ("int", "2"), "q": ("int", "3")}


def test_merges_of_nothing_are_counted_too() -> None:
    bomb = "&a0 {}"
    for depth in range(1, 10):
        bomb = f"&a{depth} {{<<: [{bomb}" + f", *a{depth - 1}" * 9 + "]}"
    with pytest.raises(SpecError, match="too large or too deep"):
        spec_of(MLproject=f"x: {bomb}")


@pytest.mark.parametrize("value", ["requirements.txt", '"a\\0b"'])
def test_a_file_that_leads_nowhere_is_a_mistake(tmp_path: Path, value: str) -> None:
    """A loop of links, and a name that no file has."""
    (tmp_path / "requirements.txt").symlink_to("requirements.txt")
    (tmp_path / "MLproject").write_text(f"name: one\npython_env: {value}\n")
    reader = TreeReader(Tree(tmp_path, Journal(tmp_path / "cache")), tmp_path)
    with pytest.raises(SpecError, match="cannot be read"):
        parse("MLproject", "one", reader, "3.11", lambda _: None)


def test_a_small_file_cannot_become_a_huge_value() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match="too large or too deep"):
            spec_of(MLproject=f"x: {merges(5)}")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("volume", "expected"), [
    ("$(pwd)/data:/opt/data", "/w/one/data:/opt/data"), ("${PWD}:/code:ro", "/w/one:/code:ro"),
    ("$PWD/../src/data:/data", "/w/src/data:/data"), ("`pwd`/a b:/c", "/w/one/a b:/c"),
    ("./data:/data", "/w/one/data:/data"), (".:/data", "/w/one:/data"),
    ("../data:/data", "/w/data:/data"), ("/data:/data", "/data:/data"),
    ("name:/data", "name:/data"),
    ("$(id; pwd):/x", "$(id; pwd):/x"), (".hidden:/x", ".hidden:/x"),
    ("$(pwd):$(pwd):ro", "/w/one:/w/one:ro"), ("$PWDX:/x", "$PWDX:/x"), ("~/a:/x", "~/a:/x"),
])
def test_a_volume_of_the_projects_folder(volume: str, expected: str) -> None:
    docker = Docker(image="a", volumes=(volume,))
    assert placed(docker, Path("/w/one")).volumes == (expected,)


@pytest.mark.parametrize("folder", ["/w/$HOME", "/w/a:b", "/w/`id`"])
def test_a_folder_that_no_volume_can_name_is_refused_where_it_is_needed(folder: str) -> None:
    docker = Docker(image="one", volumes=("$(pwd)/data:/data",))
    with pytest.raises(SpecError, match="no volume can name"):
        placed(docker, Path(folder))
    other = Docker(image="one", volumes=("/data:/data",))
    assert placed(other, Path(folder)) == other


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("name", "content"), [
    ("requirements.txt", "alpha\nbeta>=1  # é\n"),
    ("conda.yaml", "dependencies:\n- python=3.11\n- pip: [alpha, beta>=1]  # é\n"),
])
def test_environment_files_as_powershell_writes_them(name: str, content: str, encoding: str,
                                                     tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_text("name: one\n")
    (tmp_path / name).write_bytes(content.encode(encoding))
    reader = TreeReader(Tree(tmp_path, Journal(tmp_path / "cache")), tmp_path)
    spec = parse("MLproject", "one", reader, "3.11", lambda _: None)
    assert spec.requirements == ("alpha", "beta>=1")


def test_an_mlproject_in_utf_16_is_refused_as_by_mlflow(tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_bytes("name: one\n".encode("utf-16"))
    reader = TreeReader(Tree(tmp_path, Journal(tmp_path / "cache")), tmp_path)
    with pytest.raises(SpecError, match="not UTF-8") as caught:
        parse("MLproject", "one", reader, "3.11", lambda _: None)
    assert caught.value.fix == "save the file as UTF-8"

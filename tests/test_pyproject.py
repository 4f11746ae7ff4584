"""pyproject.toml, uv.lock and pylock.toml are read as their own tools read them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_requirements import Texts
from toolchain.errors import SpecError
from toolchain.spec.environment import Environment
from toolchain.spec.pyproject import default_file, read_existing_lock, read_pyproject
from toolchain.spec.tomltext import canonical, load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = '[project]\nname = "one"\nrequires-python = ">=3.10"\n'
LOCK = ('version = 1\nrequires-python = ">=3.10"\n'
        '[[package]]\nname = "one"\nversion = "0"\nsource = { virtual = "." }\n')


def read(text: str, **others: str) -> Environment:
    return read_pyproject("pyproject.toml", Texts({"pyproject.toml": text, **others}), "MLproject",
                          "3.11", lambda _: None)


def read_lock(name: str, text: str, project: str = PROJECT, **others: str) -> Environment:
    files = Texts({name: text, "pyproject.toml": project, **others})
    return read_existing_lock(name, files, "MLproject", "3.11", lambda _: None)


_TEXT = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(
    _TEXT | st.integers(-2**63, 2**63 - 1)
    | st.booleans() | st.floats(allow_nan=False) | st.datetimes() | st.dates(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8)


@given(st.dictionaries(_TEXT, _VALUES, max_size=4))
def test_canonical_toml_is_the_same_value(value: dict[str, Any]) -> None:
    assert tomllib.loads(canonical(value)) == value
    assert canonical(load(canonical(value), "x")) == canonical(value)


def test_order_and_comments_do_not_matter() -> None:
    one = load("# why\na = 1\n[b]\nc = 'x'\nd = [1, 2]\n", "x")
    two = load("b.d = [1,\n2]\nb.c = \"x\"\na = 0x1\n", "x")
    assert canonical(one) == canonical(two)


def project_text_of(dependencies: str, groups: str) -> str:
    text = (PROJECT + f"dependencies = {dependencies}\n[project.optional-dependencies]\n"
            f"x = {dependencies}\n[dependency-groups]\ntest = {groups}\n"
            f"[build-system]\nrequires = {dependencies}\n"
            f"[tool.uv]\ndev-dependencies = {dependencies}\nconstraint-dependencies = {groups}\n")
    return read(text).wanted.files["pyproject.toml"]


def test_the_order_and_spelling_of_requirements_do_not_matter_and_an_edit_does() -> None:
    one = project_text_of('["beta", "Alpha_x >= 1"]', '[{include-group = "a"}, "b", "a"]')
    assert one == project_text_of('["alpha-x>=1", "beta"]', '["a", {include-group = "a"}, "b"]')
    assert one != project_text_of('["alpha-x>=2", "beta"]', '["a", {include-group = "a"}, "b"]')
    assert one != project_text_of('["alpha-x>=1", "beta"]', '["a", {include-group = "a"}, "c"]')
    uv = [f"[tool.uv]\ndev-dependencies = {several}\n" for several in (
        '["b", "a>=1"]', '["a >= 1", "b"]', '["a>=1", "c"]')]
    dev, mixed, edited = (read(PROJECT + text).wanted.files for text in uv)
    assert dev == mixed != edited
    indexes = ['[[tool.uv.index]]\nurl = "https://a.invalid"\n',
               '[[tool.uv.index]]\nurl = "https://b.invalid"\n']
    first, second = (read(PROJECT + "".join(several)).wanted.files
                     for several in (indexes, indexes[::-1]))
    assert first != second


@pytest.mark.parametrize(("name", "head", "parts"), [
    ("pylock.toml", 'lock-version = "1.0"\n', [
        f'[[packages]]\nname = "{name}"\nversion = "1"\nwheels = [{{ name = "w" }}]\n'
        for name in "abc"]),
    ("uv.lock", LOCK, [f'[[package]]\nname = "{name}"\nsource = {{ registry = "r" }}\n'
                       for name in "abc"]),
])
def test_the_order_of_packages_in_a_lock_does_not_matter_and_an_edit_does(
    name: str, head: str, parts: list[str],
) -> None:
    def text(parts: list[str]) -> str:
        return read_lock(name, head + "".join(parts)).wanted.files[name]

    assert text(parts) == text(parts[::-1])
    assert text(parts) != text(parts[:2])
    assert text(parts) != text([*parts[:2], parts[2].replace('"c"', '"d"')])


_DYNAMIC = 'dynamic = ["version", "dependencies"]\n'


@pytest.mark.parametrize(("files", "found"), [
    ({}, ""),
    ({"pyproject.toml": "[tool.toolchain]\n"}, ""),
    ({"pyproject.toml": PROJECT}, "pyproject.toml"),
    ({"pyproject.toml": PROJECT + _DYNAMIC}, ""),
    ({"pyproject.toml": PROJECT + "dynamic = true\n"}, "pyproject.toml"),
    ({"pyproject.toml": PROJECT + _DYNAMIC, "pylock.toml": ""}, "pylock.toml"),
    ({"pyproject.toml": PROJECT + _DYNAMIC, "../uv.lock": LOCK.replace('"."', '"a"')},
     "../uv.lock"),
    ({"pyproject.toml": PROJECT, "pylock.toml": ""}, "pylock.toml"),
    ({"pyproject.toml": PROJECT, "pylock.toml": "", "uv.lock": ""}, "uv.lock"),
    ({"pyproject.toml": PROJECT, "../../uv.lock": LOCK.replace('"."', '"a/b"')}, "../../uv.lock"),
    ({"pyproject.toml": PROJECT, "../uv.lock": LOCK.replace('"one"', '"two"')}, "pyproject.toml"),
])
def test_the_file_that_stands_for_a_project(files: dict[str, str], found: str) -> None:
    assert default_file(Texts(files), lambda _: None) == found


@pytest.mark.parametrize(("requires", "pinned", "python"), [
    (">=3.10", None, ""), ("", None, ""), (">=3.12", None, "3.13"), ("==3.12.*", None, "3.12"),
    (">=3.10", "3.12\n", "3.12"), (">=3.10", "3.12.4", "3.12.4"), (">=3.13", "3.12", "3.13"),
    ("<3.9", None, "3.8"), (">=3.10", "pypy", ""),
])
def test_the_python_that_it_wants(requires: str, pinned: str | None, python: str) -> None:
    others = {} if pinned is None else {".python-version": pinned}
    text = f'[project]\nname = "one"\nrequires-python = "{requires}"\n'
    assert read(text, **others).python == python


def test_dependencies_and_places_of_uv() -> None:
    found = read(PROJECT + (
        'dependencies = ["Alpha>=1", "beta[x]; os_name == \'posix\'", "gamma", "delta", "eps"]\n'
        '[tool.uv.sources]\nBeta = { path = "../libs/beta", editable = true }\n'
        'gamma = { git = "https://host.invalid/g", rev = "v1", subdirectory = "py" }\n'
        'delta = { url = "https://host.invalid/delta-1-py3-none-any.whl" }\n'
        'eps = { index = "own" }\n'
        '[[tool.uv.index]]\nname = "own"\nurl = "https://own.invalid/simple"\n'),
        **{"../libs/beta/pyproject.toml": ""}).wanted
    assert found.requirements == {"alpha>=1", "eps"}
    assert sorted(map(str, found.sources)) == [
        'beta[x] @ ../libs/beta ; os_name == "posix"',
        "delta @ https://host.invalid/delta-1-py3-none-any.whl",
        "gamma @ git+https://host.invalid/g@v1#subdirectory=py"]
    assert found.options.to_lines() == ("--extra-index-url https://own.invalid/simple",)


@pytest.mark.parametrize(("text", "place"), [
    ("x = 1\ny = [1,\n 2\n\n", "3"), ("x = 1\ny = ?\n", "2:5"), ("x =", "1")])
def test_a_mistake_in_toml_has_a_line(text: str, place: str) -> None:
    with pytest.raises(SpecError, match="not valid TOML") as caught:
        load(text, "uv.lock")
    assert caught.value.where == f"uv.lock:{place}"


@pytest.mark.parametrize(("text", "what"), [
    ("x = [", "not valid TOML"),
    (f"x = {'9' * 5000}", "not valid TOML"),
    (f"x = {'[' * 5000}", "not valid TOML"),
    ("[tool.x]\n", "has no [project] table"),
    (PROJECT + 'dynamic = ["dependencies"]\n', "the dependencies are dynamic"),
    (PROJECT + "dynamic = true\n", "not a list of texts"),
    (PROJECT + "x." + "y." * 5000 + "z = 1\n", "not valid TOML: nested too deeply"),
    (PROJECT + f"x = 0x{'f' * 5000}\n", "not valid TOML: a number has more than 64 bits"),
    (PROJECT + 'dependencies = "alpha"\n', "not a list of texts"),
    (PROJECT + "[tool.uv]\nindex = 1\n", "not a list of tables"),
    (PROJECT + 'dependencies = ["alpha=1"]\n', "not a requirement"),
    (PROJECT + 'dependencies = ["--pre"]\n', "not a requirement"),
    (PROJECT + 'dependencies = ["a"]\n[tool.uv.sources]\na = { workspace = true }\n',
     "understood only with a lock"),
    ('[project]\nname = "one"\nrequires-python = "3"\n', "not a range of Python versions"),
    ('[project]\nname = "one"\nrequires-python = ">=4"\n', "no Python satisfies"),
])
def test_a_pyproject_that_cannot_be_followed_is_refused(text: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert what in caught.value.what
    assert caught.value.where.startswith("pyproject.toml")
    assert caught.value.fix


def test_places_of_a_uv_lock() -> None:
    found = read_lock("uv.lock", LOCK + (
        'dependencies = [{ name = "lib" }, { name = "far" }, { name = "file" }]\n'
        '[[package]]\nname = "lib"\nversion = "0"\nsource = { editable = "../lib" }\n'
        'dependencies = [{ name = "deep" }]\n'
        '[[package]]\nname = "deep"\nversion = "0"\nsource = { directory = "sub/deep" }\n'
        '[[package]]\nname = "far"\nversion = "0"\n'
        f'source = {{ git = "https://host.invalid/far?rev=main&subdirectory=x#{"a" * 40}" }}\n'
        '[[package]]\nname = "file"\nversion = "1"\n'
        'source = { url = "https://host.invalid/file-1-py3-none-any.whl" }\n'
        f'wheels = [{{ url = "x", hash = "sha256:{"b" * 64}" }}]\n'
        '[[package]]\nname = "other"\nversion = "0"\nsource = { editable = "../other" }\n'))
    assert found.locked == "uv.lock"
    assert sorted(map(str, found.wanted.sources)) == [
        "deep @ ./sub/deep", f"far @ git+https://host.invalid/far@{'a' * 40}#subdirectory=x",
        "file @ https://host.invalid/file-1-py3-none-any.whl", "lib @ ../lib"]
    assert {source.hashes for source in found.wanted.sources} == {(), ("b" * 64,)}


_FROM = LOCK + (
    'dependencies = [{ name = "lib" }]\n[[package]]\nname = "lib"\nversion = "1"\n'
    'source = { registry = "https://NAME.invalid/simple" }\n')
_NAMES = '[[tool.uv.index]]\nurl = "https://NAME.invalid/simple"\n'


@pytest.mark.parametrize(("project", "root", "found"), [
    (_NAMES, None, ["https://one.invalid/simple"]),
    ("", _NAMES, ["https://one.invalid/simple"]),
    (_NAMES, _NAMES, ["https://one.invalid/simple"]),
    (_NAMES.replace("NAME", "other"), None, []),  # nothing in the lock is from there
    ("", None, []),  # it was a setting of the machine that made the lock
], ids=["project", "workspace", "both", "another", "unnamed"])
def test_indexes_that_a_uv_lock_names_count_where_the_project_names_them(
    project: str, root: str | None, found: list[str]
) -> None:
    texts = {"../uv.lock": _FROM.replace("NAME", "one").replace('"."', '"member"'),
             "pyproject.toml": PROJECT + project.replace("NAME", "one")}
    if root is not None:
        texts["../pyproject.toml"] = "[tool.uv.workspace]\n" + root.replace("NAME", "one")
    read = read_existing_lock("../uv.lock", Texts(texts), "MLproject", "3.11", lambda _: None)
    assert read.wanted.options.extra_indexes == found


def test_a_secret_in_a_uv_lock_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        read_lock("uv.lock", _FROM.replace("NAME", "user:hunter2@one"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.where == "uv.lock, lib"


_ONE = (LOCK + 'dependencies = [{ name = "lib", extra = [[1]] }]\n[[package]]\nname = "lib"\n'
        'source = { registry = "https" }\n')
_PACKAGE = 'lock-version = "1.0"\n[[packages]]\nname = "a"\n'


@pytest.mark.parametrize(("name", "text", "what"), [
    ("uv.lock", "version = 2\n", "not a uv.lock of version 1"),
    ("uv.lock", "version = 1\npackage = [1]\n", "uv.lock is damaged"),
    ("uv.lock", LOCK + '[[package]]\nname = "a\\nb"\nsource = { url = "x" }\n', "has no name"),
    ("uv.lock", "version = 1\n", "uv.lock has no member one"),
    ("uv.lock", LOCK + 'dependencies = [{ name = "gone" }]\n', "gone is needed and not there"),
    ("uv.lock", _ONE + "wheels = 7\n", "wheels has not the form"),
    ("uv.lock", _ONE + "wheels = ['x']\n", "a file has not the form"),
    ("uv.lock", _ONE + "sdist = { hash = 7 }\n", "hash has not the form"),
    ("uv.lock", _ONE + "version = 7\n", "version has not the form"),
    ("uv.lock", _ONE + "resolution-markers = 7\n", "resolution-markers has not the form"),
    ("uv.lock", _ONE.replace("registry", "git").replace("https", "https://[#a"),
     "without a commit"),
    ("pylock.toml", _PACKAGE + "wheels = ['x']\n", "a file has not the form"),
    ("pylock.toml", _PACKAGE + "wheels = [{ hashes = 'x' }]\n", "hashes has not the form"),
    ("pylock.toml", _PACKAGE + "wheels = [{ url = 'http://[' }]\n", "url has not the form"),
    ("pylock.toml", _PACKAGE.replace('"a"', '"a\\nb"'), "name has not the form"),
    ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\n', "name has not the form"),
    ("pylock.toml", _PACKAGE + "marker = ['x']\n", "marker has not the form"),
    ("pylock.toml", "x = 1\n", "not a pylock.toml of version 1"),
    ("pylock.toml", 'lock-version = "1.0"\npackages = 1\n', "not a list of tables"),
    ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\nname = "a"\n'
                    'vcs = { type = "hg", url = "x" }\n', "other than git"),
    ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\nname = "a"\n'
                    'archive = { url = "https://h.invalid/a-1.zip" }\n', "has no sha256"),
])
def test_a_lock_that_cannot_be_followed_is_refused(name: str, text: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_lock(name, text)
    assert what in caught.value.what
    assert "\n" not in caught.value.where
    assert caught.value.fix

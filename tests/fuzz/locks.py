"""`python -m tests.fuzz.locks --runs 1000000`: pyproject.toml, uv.lock, pylock.toml, conda.lock.

A file is changed in its tables (tests.fuzz.tables) or, now and then, damaged as text; it is the
project's own, or that of a workspace above. What is read is then picked from for an image, as a
resolver does.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.fuzz.mlproject import Texts
from tests.fuzz.mutation import Mutator, main
from tests.fuzz.tables import Reshaper, places
from toolchain import lock
from toolchain.adapters.compatible import tag_ranks
from toolchain.adapters.existing import pick
from toolchain.digest import Digest, canonical_json
from toolchain.lock import Package, Settled, condafile
from toolchain.lock.conda import CondaLock, CondaPackage, CondaRequest, Described
from toolchain.spec import Spec, yamltext
from toolchain.spec.mlproject import parse
from toolchain.spec.source import Source
from toolchain.spec.tomltext import canonical, load

_WHEEL = f'{{ url = "https://h.invalid/alpha-1-py3-none-any.whl", hash = "sha256:{"a" * 64}" }}'
_HASHES = f'hashes = {{ sha256 = "{"b" * 64}" }}'
_SEEDS = {
    "pyproject.toml": ('''[project]
name = "one"
requires-python = ">=3.10"
dependencies = ["alpha[x]>=1 ; os_name == 'posix'", "beta", "gamma @ git+https://h.invalid/g@v1"]
dynamic = ["version"]
[dependency-groups]
test = ["pytest"]
[tool.uv]
default-groups = ["test"]
[tool.uv.sources]
beta = { git = "https://h.invalid/b", rev = "v1", subdirectory = "py" }
[[tool.uv.index]]
url = "https://own.invalid/simple"
''',),
    "uv.lock": (f'''version = 1
requires-python = ">=3.10"
[[package]]
name = "one"
version = "0"
source = {{ virtual = "." }}
dependencies = [{{ name = "alpha", extra = ["x"], marker = "sys_platform == 'linux'" }}]
[package.dev-dependencies]
test = [{{ name = "far" }}, {{ name = "file" }}]
[[package]]
name = "alpha"
version = "1"
source = {{ registry = "https://own.invalid/simple" }}
resolution-markers = ["python_full_version < '3.13'"]
sdist = {{ url = "https://h.invalid/alpha-1.tar.gz", hash = "sha256:{"c" * 64}" }}
wheels = [{_WHEEL}]
[package.optional-dependencies]
x = [{{ name = "alpha" }}]
[[package]]
name = "far"
version = "0"
source = {{ git = "https://h.invalid/far?rev=main&subdirectory=x#{"a" * 40}" }}
[[package]]
name = "file"
version = "1"
source = {{ url = "https://h.invalid/alpha-1-py3-none-any.whl" }}
wheels = [{_WHEEL}]
''',),
    "pylock.toml": (f'''lock-version = "1.0"
requires-python = ">=3.10"
default-groups = ["test"]
[[packages]]
name = "alpha"
version = "1"
marker = "python_version >= '3.8' and 'test' in dependency_groups"
sdist = {{ path = "alpha-1.tar.gz", {_HASHES} }}
wheels = [{{ name = "alpha-1-py3-none-any.whl", url = "https://h.invalid/x", {_HASHES} }}]
[[packages]]
name = "far"
vcs = {{ type = "git", url = "https://h.invalid/far", commit-id = "{"a" * 40}" }}
[[packages]]
name = "lib"
directory = {{ path = "../lib", subdirectory = "py" }}
[[packages]]
name = "file"
archive = {{ url = "https://h.invalid/alpha-1.zip", {_HASHES} }}
''',),
}
_CONDA = CondaRequest(channels=("conda-forge", "./c", "https://${T}@h.invalid/é"), packages=("a",),
                      platform="linux/amd64", virtual=(), pip=True)
_CONDA_LOCK = condafile.to_text(CondaLock(
    platform="linux/amd64", input=Digest.of_json(_CONDA.plan()), packages=tuple(
        CondaPackage(name=name, version="1!2.0", build="py_0", channel=channel, subdir=subdir,
                     file=f"{name}-1!2.0-py_0.conda", size=7, sha256=Digest("a" * 64),
                     python=(f"{name}==2.0",),
                     described=Described(depends=("python >=3", "__unix")))
        for name, channel, subdir in zip(("a", "b", "c"), _CONDA.channels,
                                         ("noarch", "linux-64", "noarch"), strict=True))),
    _CONDA.channels, "one")
_WORDS = ('"', "'", "[", "]", "{", "}", "=", ".", ",", "\n", "#", "[[package]]\n", "[[packages]]\n",
          "true", "1", "-1.5", "inf", "2026-01-02", "[]", "{}", '""', "0x" + "f" * 40, "a." * 70,
          "(" * 2000, "[" * 300, "marker = ", "http://[", "sha256:", "../", "\\u0000", "\r\n", "é",
          "@", "name", "extra", "wheels", "hashes", "source", "${", "user:secret@", ";", "==",
          "in ")
_ODD: tuple[Any, ...] = (True, 7, -0.5, "", "x", "é", "http://[", "\x00", "(" * 2000 + "os_name",
                         "os_name", "a @ b", "extra in 3", [], {}, [[]], [7], ["x"], [{}],
                         {"x": 7}, {"x": "y"})
_MARKERS = ("os_name == 'posix'", "sys_platform == 'win32'", "extra == 'x'", "'test' in extras",
            "python_version < '3.12' or platform_machine == 'aarch64'", "python_version in '3.11'",
            "'test' in dependency_groups", "implementation_version >= 'x'", "(os_name > '1')",
            "extra == 'extra-3-one-x' and extra != 'group-3-one-test'")
_PLACES = (
    "https://h.invalid/beta-1-py3-none-any.whl", "https://h.invalid/beta-1.zip", "../lib", ".",
    "http://h.invalid/a.tar.gz#sha256=x", "https://h.invalid/g?rev=v1#abc", "./a[x]", "/etc",
    "git+https://h.invalid/g@v1", "file:///a", "ssh://git@h.invalid/g", "../../x", "C:\\x",
    "https://${USER_NAME}:${WORD}@h.invalid/simple", "https://h.invalid/é %zz.whl")
_FILES = (
    "alpha-1-py3-none-any.whl", "alpha-1-cp311-cp311-manylinux_2_17_x86_64.whl", "alpha-1.zip",
    "alpha-1-cp313-cp313-musllinux_1_2_x86_64.whl", "alpha-1-1build-py2.py3-none-any.whl",
    "alpha.whl", "-.whl", "alpha-1-py3-none-any", "beta-1.tar.gz", "a-x-y-z-1-2-3.whl")
_WORTH: dict[str, tuple[Any, ...]] = {
    "": ("alpha", "one", "x", "1", "test", "", *_MARKERS[:2], *_PLACES[:4]),
    "name": ("alpha", "Alpha", "one", "far", "file", "lib", "gamma_", "ONE", *_FILES[:3]),
    "version": ("1", "0", "1.0+local", "v1!x", ""),
    "marker": _MARKERS, "resolution-markers": ([], [*_MARKERS[:2]], ["x"]),
    "requires-python": (">=3.8", "<3.9", "==3.12.*", ">=4", "~=3.11", "3", "!=3.11.*,>=3.10"),
    "source": tuple({kind: place} for kind in ("registry", "git", "url", "path", "editable",
                                               "virtual", "directory") for place in _PLACES[:5]),
    "url": _PLACES, "path": _PLACES, "git": _PLACES, "editable": _PLACES, "directory": _PLACES,
    "filename": _FILES, "rev": ("v1", "-x", "a b", "a" * 40),
    "hash": ("sha256:" + "A" * 64, "md5:0"),
    "extra": (["x"], ["x", "y"], "x"), "extras": (["x"], []), "hashes": ({}, {"md5": "0"}),
    "default-groups": ("all", ["test"], ["dev"], []), "index": ([{"url": _PLACES[9]}], []),
    "dynamic": (["dependencies"], ["version"]), "vcs": ({"type": "hg"}, {"url": "https://h.invalid"}),
    "dependencies": (["alpha"], ["-e ."], ["a; os_name in 3"], [{"name": "far"}], [{"name": "no"}]),
    "sources": tuple({"beta": item} for item in (
        {"path": "../lib"}, {"url": _PLACES[0]}, {"workspace": True}, {"index": "own"},
        [{"git": _PLACES[6]}], {"git": _PLACES[8], "tag": "v1"}, {"git": 7})),
}
_TEXTS = {name: Mutator(seeds, _WORDS) for name, seeds in _SEEDS.items()}
_CONDA_TEXTS = Mutator((_CONDA_LOCK,), (*_WORDS, "- ", ": ", "&a ", "*a", "!!set ", "? ", "| "))
_TABLES = {name: Reshaper(
    [load(text, "seed") for text in seeds], texts=_WORTH, odd=_ODD, words=_WORDS,
    keys=(*filter(None, _WORTH), "subdirectory", "wheels", "sdist", "archive", "package",
          "packages", "virtual", "registry", "optional-dependencies", "dev-dependencies",
          "dependency-groups", "commit-id", "type", "tag", "branch", "workspace", "sha256",
          "project", "tool", "uv"))
    for name, seeds in _SEEDS.items()}
_RANKS = tag_ranks("3.11", "linux/amd64", (2, 36))


def attempt(chance: random.Random) -> None:
    """One project, or its lock. Raises ToolchainError, or a mistake of ours."""
    (_attempt_conda if chance.random() < 0.25 else _attempt_project)(chance)


def _attempt_project(chance: random.Random) -> None:
    above = chance.choice(("", "", "../", "../../"))
    texts = Texts({"MLproject": "name: one\n", "pyproject.toml": _SEEDS["pyproject.toml"][0],
                   "../lib/pyproject.toml": "", "gamma/setup.py": ""})
    texts["pyproject.toml"] = _made("pyproject.toml", chance, damaged=0.04)
    name = chance.choice(("uv.lock", "uv.lock", "pylock.toml", "pyproject.toml"))
    if name == "uv.lock":
        texts[f"{above}uv.lock"] = _made(name, chance)
        if above:
            texts[f"{above}pyproject.toml"] = _made("pyproject.toml", chance)
    elif name == "pylock.toml":
        texts[name if above else "pylock.test.toml"] = _made(name, chance)
        if not above:
            texts["MLproject"] += "python_env: pylock.test.toml\n"
    if chance.random() < 0.2:
        texts[".python-version"] = chance.choice(("3.12", "3.12.4 # why", "pypy@3", "", "3.7\n3"))
    _judge(texts)


def _made(name: str, chance: random.Random, damaged: float = 0.1) -> str:
    if chance.random() < damaged:
        return _TEXTS[name].make(chance)
    return canonical(_TABLES[name].make(chance))


def _judge(texts: Texts) -> None:
    """Read it, and what a resolver would make of it."""
    spec = parse("MLproject", "one", texts, "3.11", lambda text: None)
    assert Spec.from_json(json.loads(canonical_json(spec.to_json()))) == spec
    assert "://user:secret@" not in "".join(spec.options)
    request = lock.request(spec, "3.11", "linux/amd64")
    canonical_json(request.plan())
    settled = tuple(_settled(source) for source in request.sources)
    if request.existing:
        request = replace(request, settled=settled)
        for package, url, filename in pick(request, _RANKS):
            canonical_json([package.to_json(), url, filename])


def _attempt_conda(chance: random.Random) -> None:
    text = _CONDA_TEXTS.make(chance)
    if chance.random() < 0.6:
        value = yamltext.load(_CONDA_LOCK, "seed").texts()
        _reshape(value, chance)
        text = "\n".join([_CONDA_LOCK.splitlines()[1], yamltext.canonical(value)])
    wanted = replace(_CONDA, pip=chance.random() < 0.5)  # so that the lock is not the answer
    found = condafile.from_text(text, "conda.lock", wanted, "one")
    canonical_json(found.to_json())
    assert "://user:secret@" not in condafile.to_text(found, wanted.channels, "one")
    assert condafile.from_text(condafile.to_text(found, wanted.channels, "one"), "conda.lock",
                               wanted, "one") == found


def _settled(source: Source) -> Settled:
    package = Package(name=source.name, version="1", sha256=Digest("0" * 64))
    return Settled(source=source, package=package, wheel=package.sha256, filename="")


def _reshape(value: Any, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        found = list(places(value))
        if not found:
            break
        holder, key = chance.choice(found)
        if chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = deepcopy(chance.choice(_ODD))


if __name__ == "__main__":
    main(attempt)

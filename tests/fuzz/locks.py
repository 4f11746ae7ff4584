"""`python -m tests.fuzz.locks --runs 1000000`: pyproject.toml, uv.lock and pylock.toml.

A file is damaged as text, or one of its values is taken for another; what is read is then picked
from for an image, as a resolver does.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.fuzz.mlproject import Texts
from tests.fuzz.mutation import Mutator, main
from toolchain import lock
from toolchain.adapters.compatible import tag_ranks
from toolchain.adapters.existing import pick
from toolchain.digest import Digest, canonical_json
from toolchain.lock import Package, Settled
from toolchain.spec import Spec
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
_WORDS = ('"', "'", "[", "]", "{", "}", "=", ".", ",", "\n", "#", "[[package]]\n", "[[packages]]\n",
          "true", "1", "-1.5", "inf", "2026-01-02", "[]", "{}", '""', "0x" + "f" * 40, "a." * 70,
          "(" * 2000, "[" * 300, "marker = ", "http://[", "sha256:", "../", "\\u0000", "\r\n", "é",
          "@", "name", "extra", "wheels", "hashes", "source", "${", "user:secret@", ";", "==",
          "in ")
_ODD: tuple[Any, ...] = (True, 7, -0.5, "", "x", "é", "http://[", "\x00", "(" * 2000 + "os_name",
                         "os_name", "a @ b", "extra in 3", [], {}, [[]], [7], ["x"], [{}],
                         {"x": 7}, {"x": "y"})
_TEXTS = {name: Mutator(seeds, _WORDS) for name, seeds in _SEEDS.items()}
_RANKS = tag_ranks("3.11", "linux/amd64", (2, 36))


def attempt(chance: random.Random) -> None:
    """One project. Raises ToolchainError, or a mistake of ours."""
    texts = Texts({"MLproject": "name: one\n", "pyproject.toml": _SEEDS["pyproject.toml"][0]})
    for name in ("pyproject.toml", chance.choice(("uv.lock", "pylock.toml", "pyproject.toml"))):
        if name != "pyproject.toml" or chance.random() < 0.5:
            texts[name] = (_TEXTS[name].make(chance) if chance.random() < 0.5
                           else _reshaped(_SEEDS[name][0], chance))
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


def _settled(source: Source) -> Settled:
    package = Package(name=source.name, version="1", sha256=Digest("0" * 64))
    return Settled(source=source, package=package, wheel=package.sha256, filename="")


def _reshaped(text: str, chance: random.Random) -> str:
    """A file in which one value, or a few, are of another kind."""
    value = load(text, "seed")
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            break
        holder, key = chance.choice(places)
        if chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = deepcopy(chance.choice(_ODD))
    return canonical(value)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += _places(value[key])
    return found


if __name__ == "__main__":
    main(attempt)

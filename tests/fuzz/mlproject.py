"""`python -m tests.fuzz.mlproject --runs 1000000`: MLproject and its environment file.

Texts are damaged, or changed in what they say (tests.fuzz.tables). `--environments` leaves
MLproject as it is, and gives every project an environment file.
"""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.mutation import Mutator, main
from tests.fuzz.tables import Reshaper
from toolchain.digest import canonical_json
from toolchain.errors import SpecError
from toolchain.spec import Spec
from toolchain.spec.command import call, parse_params
from toolchain.spec.mlproject import name_of, parse

_CASES = Path(__file__).parents[1] / "data/spec"
_ENVIRONMENTS = ("python_env.yaml", "conda.yaml", "conda.yml", "requirements.txt")
_WORDS = (
    "name:", "entry_points:", "docker_env:", "python_env: python_env.yaml", "conda_env: conda.yaml",
    "command:", "parameters:", "{type: int, default: 1}", "{type:int}", "&a", "*a", "<<: *a", "!!",
    "!!int", "!!binary", "!!set", "!!timestamp", "- ", ": ", "\n", "\n  ", "\t", "|\n", ">-\n", "'",
    '"', "\\", "{", "}", "[", "]", "{a}", "{a.b}", "{{", "}}", "${a}", "#", " #", "%", "---\n",
    "...\n", "? ", "=", "~", "null", ".inf", ".nan", "0x", "1_0", "2026-13-01", "1:2:3", "\0",
    "\ufeff", "\x85", "\u2028", "\\ud800", '"\\ud800"', '"\\0"', "\r\n", "\ud800", "9" * 5000,
    "python=3.11", "pip", "-r ", "-c ", "--hash=sha256:", "../", "==", ">=", ";", "@ ", "$(", "<<E",
)


def _texts(names: tuple[str, ...]) -> list[str]:
    found = [path.read_bytes().decode("utf-8", "replace")
             for path in sorted(_CASES.glob("*/*"))
             # A hundred thousand nodes a text would leave time for little else.
             if path.name in names and path.parent.name != "error-alias-bomb"]
    return [text for text in found if len(text) < 4000]


def _values(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The files that are mappings. They hold no dates: those have no order among texts."""
    found = []
    for text in _texts(names):
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


_LINES = ("alpha==1", "alpha[x]>=1 ; os_name == 'posix'", "-r more.txt", "-c more.txt", "-e .", "",
          "git+https://h.invalid/g@v1#egg=g", "--index-url https://h.invalid/simple", "./lib",
          "--hash=sha256:x", "-f ./wheels", "alpha @ https://h.invalid/alpha-1.zip", "# nothing")
_PACKAGES = (
    "python=3.11", "python >=3.9,<3.12", "pip", "numpy=1.26.*", "c::numpy=1=py311_0", "x|y", "_x",
    "numpy[version='>=1']", "numpy =", "python", "pip=23", "scipy>=1,<2|3", "a b c",
    {"pip": ["alpha==1"]}, {"pip": list(_LINES[:4])}, {"pip": None}, {"npm": ["x"]})
_WORTH: dict[str, tuple[Any, ...]] = {
    "": ("main", "string", "x", "1", *_LINES[:2], *_PACKAGES[:5]),
    "name": ("one", "a/b", "a:b", "..", "-", "é", "1.5"), "type": (
        "int", "float", "bool", "path", "uri", "string", "Int", "integer", "type", ""),
    "default": ("1", 1, 1.5, True, None, "None", "s3://b/k", "https://u:p@h.invalid/x?y", "nan",
                "a'b", "$(x)", [1], {"a": 1}, "\0", "1e-1", ".inf", "é"),
    "command": ("python a.py {a} '{b-c}' \"{a}\"", "cat <<'E'\n{a}\nE", "{a.__class__}", "`{a}`",
                "awk '{print $1}' ${HOME} {{a}} #", "x \\", "{a[0]} {a!r} {a:>9}", "", "a\n\nb"),
    "dependencies": (list(_LINES), list(_PACKAGES), [*_PACKAGES[:5]], [], None, "x"),
    "pip": (list(_LINES[:4]), [], None, "x"), "python": ("3.10", 3.1, "3.11.4", "3", "2.7", ">=3"),
    "build_dependencies": (["pip", "setuptools"], None, [1]),
    "channels": (["defaults"], ["conda-forge", "./c"], ["https://u:p@h.invalid/c"], ["nodefaults"],
                 ["https://h.invalid/t/abc/c"], ["https://${U}:${P}@h.invalid/c"], [None], []),
    "variables": ({"A": "1"}, {"A": True}, {"A-B": "x"}, {"A": None}, [1]),
    "image": ("python:3.11", "h.invalid:5000/a/b@sha256:x", "A", "dockerfile:x", 1, ""),
    "volumes": (["$(pwd)/a:/b"], ["/a:/b:ro"], ["a"], ["~/x:/y:z:w"], [1]),
    "environment": (["A"], [["A", "b"]], [["A"]], [["A", "b", "c"]], [[]], {"A": "b"}),
    "conda_env": ("conda.yaml", "../conda.yaml", "requirements.txt", "", 1),
    "python_env": ("python_env.yaml", "conda.yaml", "pyproject.toml", "../../x"),
    "parameters": ({"a": "int"}, {"a": {"type": "int"}, "b-c": None}, [],
                   {"a": {"type:int": None}}),
}
_KEYS = (*filter(None, _WORTH), "entry_points", "docker_env", "description", "prefix", "main", "a")
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, "", "x", "é\ud7ff", "a\nb", " x ", "\t", [], {}, [[]], [None], [{}],
    {"": ""}, {"a": {"b": {"c": "d"}}}, "9" * 400, 1 << 70)


def _reshaper(names: tuple[str, ...]) -> Reshaper:
    return Reshaper(_values(names), texts=_WORTH, odd=_ODD, keys=_KEYS, words=_WORDS)


_PROJECTS = Mutator(_texts(("MLproject",)), _WORDS), _reshaper(("MLproject",))
_OTHERS = Mutator(_texts(_ENVIRONMENTS), _WORDS), _reshaper(_ENVIRONMENTS[:3])
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Texts(dict[str, str]):
    """Files in memory; implements toolchain.spec.Reader."""

    def read(self, path: str) -> str | None:
        text = self.get(path)
        if text is None:
            return None
        try:
            return text.encode().decode("utf-8-sig")
        except UnicodeEncodeError:
            raise SpecError("not UTF-8", where=path, fix="save the file as UTF-8") from None


def attempt(chance: random.Random, *, environments: bool = False) -> None:
    """One project. Raises SpecError, or a mistake of ours."""
    mlproject = ("name: one\nentry_points: {main: {command: x}}\n" if environments
                 else _made(_PROJECTS, chance))
    name_of(mlproject.encode("utf-8", "surrogatepass"))
    texts = Texts({"MLproject": mlproject, "more.txt": "beta\n-r more.txt\n", "lib/setup.py": ""})
    if environments or chance.random() < 0.7:
        name = chance.choice(_ENVIRONMENTS)
        texts[name] = _OTHERS[0].make(chance) if name.endswith(".txt") else _made(_OTHERS, chance)
    else:
        texts["conda.yaml"] = texts["python_env.yaml"] = "dependencies: [pip]\n"
    spec = parse("MLproject", "one", texts, "3.11", lambda text: None)
    data = canonical_json(spec.to_json())
    assert Spec.from_json(json.loads(data)) == spec
    given = parse_params('a=1 l1_ratio=0.5 other="x y"')
    for name in spec.entry_points:
        settled = call(spec, name, given, lambda text: None)
        canonical_json(settled.identity())
        assert "\0" not in settled.command()
        canonical_json(settled.variables())


def _made(kinds: tuple[Mutator, Reshaper], chance: random.Random) -> str:
    if chance.random() < 0.25:
        return kinds[0].make(chance)
    text: str = yaml.dump(kinds[1].make(chance), Dumper=_DUMPER, allow_unicode=True,
                          sort_keys=False, default_flow_style=chance.random() < 0.2)
    return text


if __name__ == "__main__":
    if chosen := "--environments" in sys.argv:
        sys.argv.remove("--environments")
    main(partial(attempt, environments=chosen))

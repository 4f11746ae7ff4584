"""`python -m tests.fuzz.mlproject --runs 1000000`: MLproject and its environment file."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.fuzz.mutation import Mutator, main
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


_PROJECTS = Mutator(_texts(("MLproject",)), _WORDS)
_OTHERS = Mutator(_texts(_ENVIRONMENTS), _WORDS)


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


def attempt(chance: random.Random) -> None:
    """One project. Raises SpecError, or a mistake of ours."""
    mlproject = _PROJECTS.make(chance)
    name_of(mlproject.encode("utf-8", "surrogatepass"))
    texts = Texts({"MLproject": mlproject})
    if chance.random() < 0.5:
        texts[chance.choice(_ENVIRONMENTS)] = _OTHERS.make(chance)
    spec = parse("MLproject", "one", texts, "3.11", lambda text: None)
    data = canonical_json(spec.to_json())
    assert Spec.from_json(json.loads(data)) == spec
    given = parse_params('a=1 l1_ratio=0.5 other="x y"')
    for name in spec.entry_points:
        settled = call(spec, name, given, lambda text: None)
        canonical_json(settled.identity())
        assert "\0" not in settled.command()
        canonical_json(settled.variables())


if __name__ == "__main__":
    main(attempt)

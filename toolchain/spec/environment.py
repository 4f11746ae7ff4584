"""python_env.yaml, conda.yaml, requirements.txt -> what is to be installed.

Formats: MLflow's projects documentation; conda's environment file. A conda.yaml that asks conda
for nothing but python and pip needs no conda (toolchain.spec.conda reads the others).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from toolchain.errors import SpecError, nearest
from toolchain.spec import Conda, Reader, Warn, conda
from toolchain.spec.condapip import python_version, specifier
from toolchain.spec.named import read_named
from toolchain.spec.requirements import Requirements
from toolchain.spec.yamltext import Located, canonical, load
from toolchain.values import dataclass

_PYTHON_ENV_KEYS = ("python", "build_dependencies", "dependencies")
_CONDA_KEYS = ("name", "channels", "dependencies", "prefix", "variables")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What one project needs. `kind`, `python` and `locked` as in Spec; `wanted` holds the rest."""

    kind: str
    python: str
    wanted: Requirements
    locked: str = ""
    conda: Conda | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


def read_python_env(path: str, reader: Reader, named_at: str, default_python: str,
                    warn: Warn) -> Environment:
    data = _mapping(path, reader, named_at, warn)
    if _is_condas(data):
        warn(f"{path}: this is conda's form of an environment file, and MLflow fails at it under "
             "python_env; read as conda_env")
        return read_conda(path, reader, named_at, default_python, warn)
    _warn_of_unknown(data, _PYTHON_ENV_KEYS, path, warn)
    wanted = Requirements(warn)
    folder = posixpath.dirname(path)
    lists: dict[str, list[str]] = {}
    for key in ("build_dependencies", "dependencies"):
        lists[key] = sorted(
            wanted.add_line(item.text.strip(), posixpath.join(folder, posixpath.basename(path)),
                            item.line, reader)
            for item in _strings(_flat(data.get(key), key, path, warn), key, path)
        )
    python = ""
    if "python" in data and data["python"].value is not None:
        python = _python_version(data["python"], path, warn)
    wanted.files[path] = canonical(
        {**{key: item.plain() for key, item in data.items()}, **lists, "python": python}
    )
    return Environment(kind="python_env", python=python, wanted=wanted)


def read_conda(path: str, reader: Reader, named_at: str, default_python: str,
               warn: Warn) -> Environment:
    data = _mapping(path, reader, named_at, warn)
    _warn_of_unknown(data, _CONDA_KEYS, path, warn)
    wanted = Requirements(warn)
    python = ""
    asked: list[conda.Asked] = []
    pip_lines: list[str] = []
    for number, item in enumerate(_items(data.get("dependencies"), "dependencies", path)):
        if isinstance(item.value, dict):
            if set(item.value) != {"pip"}:
                raise SpecError(
                    f"not understood: {', '.join(item.value)}", where=f"{path}:{item.line}",
                    fix="the only section within dependencies is `pip:`",
                )
            for line in _strings(item.value["pip"], "pip", path):
                pip_lines.append(wanted.add_line(line.text.strip(), path, line.line, reader))
            continue
        asked.append(conda.package(item, f"{path}:{item.line}, dependencies[{number}]"))
        wanted.places.setdefault(asked[-1].name, []).append(f"{path}:{item.line}")
    channels = conda.channels(data.get("channels"), path)
    variables = conda.variables(data.get("variables"), path)
    wanted.files[path] = conda.canonical_text(data, channels, asked, pip_lines)
    if conda.is_needed(asked):
        return Environment(
            kind="conda", python="", wanted=wanted, variables=variables,
            conda=Conda(channels=conda.with_named(channels, asked), file=path,
                        packages=tuple(sorted({entry.text for entry in asked}))))
    for entry in asked:
        if entry.name == "python":
            python = python_version(entry.wanted, entry.where, default_python)
        elif entry.wanted:
            wanted.add_line(f"pip{specifier(entry.wanted)}", path, entry.line, reader)
    return Environment(kind="conda", python=python, wanted=wanted, variables=variables)


def read_requirements(path: str, reader: Reader, named_at: str, warn: Warn) -> Environment:
    wanted = Requirements(warn)
    wanted.add_file(path, reader, named_at=named_at)
    return Environment(kind="python_env", python="", wanted=wanted)


def _is_condas(data: Mapping[str, Located]) -> bool:
    if {"python", "build_dependencies"} & data.keys() or "dependencies" not in data:
        return False
    listed = data["dependencies"].value
    return "channels" in data or (isinstance(listed, list) and any(
        re.match(r"python\s*=[^=]", item.text) for item in listed))


def _mapping(path: str, reader: Reader, named_at: str, warn: Warn) -> dict[str, Located]:
    text = read_named(reader, path, named_at)
    if text is None:
        raise SpecError(
            f"no such environment file: {path}", where=named_at,
            fix="make the file, or name the right one",
        )
    data = load(text, path)
    if not isinstance(data.value, dict):
        raise SpecError("an environment file is a mapping", where=f"{path}:{data.line}",
                        fix="begin with `dependencies:`")
    for key, line in data.doubles:
        warn(f"{path}:{line}: key {key!r} is there twice; the last one counts")
    return data.value


def _warn_of_unknown(data: Iterable[str], known: tuple[str, ...], path: str, warn: Warn) -> None:
    for key in data:
        if key not in known:
            warn(f"{path}: unknown key {key!r}{nearest(key, known)}")


def _items(value: Located | None, key: str, path: str) -> list[Located]:
    if value is None or value.value is None:
        return []
    if not isinstance(value.value, list):
        raise SpecError(f"{key} is not a list", where=f"{path}:{value.line}",
                        fix=f"write each entry of {key} on a line of its own, after `- `")
    return value.value


def _flat(value: Located | None, key: str, path: str, warn: Warn) -> Located | None:
    """A list in which a `pip:` section, which is conda's, stands for its lines."""
    if value is None or not isinstance(value.value, list):
        return value
    flat: list[Located] = []
    for item in value.value:
        if isinstance(item.value, dict) and set(item.value) == {"pip"}:
            warn(f"{path}:{item.line}: a `pip:` section is conda's, and MLflow fails at it here; "
                 f"its lines are taken as {key}")
            flat += _items(item.value["pip"], "pip", path)
        else:
            flat.append(item)
    return Located(flat, value.line)


def _strings(value: Located | None, key: str, path: str) -> list[Located]:
    items = _items(value, key, path)
    for item in items:
        if not isinstance(item.value, str):
            raise SpecError(f"an entry of {key} is not text", where=f"{path}:{item.line}",
                            fix="put it in quotes")
    return items


def _python_version(value: Located, path: str, warn: Warn) -> str:
    text = value.text.strip()
    if text == "3":
        return ""
    if not re.fullmatch(r"3\.\d+(\.\d+)?", text):
        raise SpecError(
            f"{'Python 2 cannot be had' if text[:1] == '2' else 'not a Python version'}: {text}",
            where=f"{path}:{value.line}", fix='write it as "3.11" or "3.11.7"',
        )
    if isinstance(value.value, float) and text.endswith("0"):
        warn(f"{path}:{value.line}: python: {text} is a number in YAML; read as {text!r}, "
             "quote it to be safe")
    return text

"""python_env.yaml, conda.yaml, requirements.txt -> what is to be installed.

Formats: MLflow's projects documentation; conda's environment file. A conda.yaml that asks conda
for nothing but python and pip needs no conda.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from toolchain.errors import SpecError, nearest
from toolchain.spec import Reader, Warn
from toolchain.spec.requirements import Requirements
from toolchain.spec.yamltext import Located, canonical, load

_PYTHON_ENV_KEYS = ("python", "build_dependencies", "dependencies")
_CONDA_KEYS = ("name", "channels", "dependencies", "prefix", "variables")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What one project needs. `kind`, `python` and `locked` as in Spec; `wanted` holds the rest."""

    kind: str
    python: str
    wanted: Requirements
    locked: str = ""


def read_python_env(path: str, reader: Reader, named_at: str, warn: Warn) -> Environment:
    data = _mapping(path, reader, named_at)
    _warn_of_unknown(data, _PYTHON_ENV_KEYS, path, warn)
    wanted = Requirements(warn)
    folder = posixpath.dirname(path)
    lists: dict[str, list[str]] = {}
    for key in ("build_dependencies", "dependencies"):
        lists[key] = sorted(
            wanted.add_line(item.text.strip(), posixpath.join(folder, posixpath.basename(path)),
                            item.line, reader)
            for item in _strings(data.get(key), key, path)
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
    data = _mapping(path, reader, named_at)
    _warn_of_unknown(data, _CONDA_KEYS, path, warn)
    wanted = Requirements(warn)
    python = ""
    conda_lines: list[str] = []
    pip_lines: list[str] = []
    for item in _items(data.get("dependencies"), "dependencies", path):
        if isinstance(item.value, dict):
            if set(item.value) != {"pip"}:
                raise SpecError(
                    f"not understood: {', '.join(item.value)}", where=f"{path}:{item.line}",
                    fix="the only section within dependencies is `pip:`",
                )
            for line in _strings(item.value["pip"], "pip", path):
                pip_lines.append(wanted.add_line(line.text.strip(), path, line.line, reader))
            continue
        where = f"{path}:{item.line}"
        match = re.fullmatch(r"(?:[^:\s]+::)?([A-Za-z0-9_.-]+?)\s*((?:[=<>!~ ].*)?)", item.text)
        name = match[1].lower() if match else ""
        if name not in ("python", "pip"):
            raise SpecError(
                f"a conda package is not supported yet: {item.text}", where=where,
                fix="move it below `pip:` if a package index has it",
            )
        if match and name == "python":
            python = _conda_python(match[2].strip(), where, default_python)
        elif match and match[2]:
            wanted.add_line(_conda_pip(match[2].strip()), path, item.line, reader)
        conda_lines.append(item.text.strip())
    plain = {key: item.plain() for key, item in data.items()}
    plain["dependencies"] = [*sorted(conda_lines), {"pip": sorted(pip_lines)}]
    wanted.files[path] = canonical(plain)
    return Environment(kind="conda", python=python, wanted=wanted)


def read_requirements(path: str, reader: Reader, named_at: str, warn: Warn) -> Environment:
    wanted = Requirements(warn)
    wanted.add_file(path, reader, named_at=named_at)
    return Environment(kind="python_env", python="", wanted=wanted)


def _mapping(path: str, reader: Reader, named_at: str) -> dict[str, Located]:
    text = reader.read(path)
    if text is None:
        raise SpecError(
            f"no such environment file: {path}", where=named_at,
            fix="make the file, or name the right one",
        )
    data = load(text, path)
    if not isinstance(data.value, dict):
        raise SpecError("an environment file is a mapping", where=f"{path}:{data.line}",
                        fix="begin with `dependencies:`")
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


def _strings(value: Located | None, key: str, path: str) -> list[Located]:
    items = _items(value, key, path)
    for item in items:
        if not isinstance(item.value, str):
            raise SpecError(f"an entry of {key} is not text", where=f"{path}:{item.line}",
                            fix="put it in quotes")
    return items


def _python_version(value: Located, path: str, warn: Warn) -> str:
    text = value.text.strip()
    if not re.fullmatch(r"3\.\d+(\.\d+)?", text):
        raise SpecError(
            f"not a Python version: {text}", where=f"{path}:{value.line}",
            fix='write it as "3.11" or "3.11.7"',
        )
    if isinstance(value.value, float) and text.endswith("0"):
        warn(f"{path}:{value.line}: python: {text} is a number in YAML; read as {text!r}, "
             "quote it to be safe")
    return text


def _conda_python(wanted: str, where: str, default: str) -> str:
    """`=3.11`, `==3.11.4`, `3.11.*`, `>=3.9,<3.12` -> a Python version; empty for any."""
    exact = re.fullmatch(r"={0,2}\s*(3\.\d+(?:\.\d+)?)(?:\.\*)?", wanted)
    if exact:
        return exact[1]
    if not wanted or wanted == "*":
        return ""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(wanted)
    except InvalidSpecifier:
        raise SpecError(f"not a Python version: python{wanted}", where=where,
                        fix="write it as python=3.11") from None
    for candidate in (default, "3.13", "3.12", "3.11", "3.10", "3.9", "3.8"):
        minor = ".".join(candidate.split(".")[:2])
        if any(f"{minor}.{patch}" in allowed for patch in range(30)):
            return minor
    raise SpecError(f"no Python satisfies python{wanted}", where=where,
                    fix="write it as python=3.11")


def _conda_pip(wanted: str) -> str:
    """conda's `=23.1` means 23.1 and what begins with it; `==` and ranges are as in PEP 440."""
    if wanted.startswith("=") and not wanted.startswith("=="):
        return f"pip=={wanted[1:].strip().removesuffix('.*')}.*"
    if wanted[0].isdigit():  # `pip 23.1`, conda's own long form
        return f"pip=={wanted}"
    return f"pip{wanted}"

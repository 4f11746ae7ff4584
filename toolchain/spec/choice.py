"""MLproject's environment keys, else the files beside it -> the one file that says what is needed.

MLflow looks for its own two names. The names that other tools use come after those and are
announced, since MLflow takes no notice of them.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import NoReturn

from toolchain.errors import SpecError
from toolchain.spec import Reader, Warn
from toolchain.spec.yamltext import Located

KEYS = ("python_env", "conda_env", "docker_env")
# File -> the kind that reads it, first come, first served.
_MLFLOW = {"python_env.yaml": "python_env", "conda.yaml": "conda_env"}
_OURS = {"conda.yml": "conda_env", "environment.yml": "conda_env",
         "uv.lock": "uv.lock", "pylock.toml": "pylock.toml", "pyproject.toml": "pyproject.toml",
         "requirements.txt": "requirements.txt"}


@dataclass(frozen=True)
class Choice:
    """One environment file. kind: `python_env`, `conda_env`, or a file's own name for those that
    stand for themselves. where: who named it."""

    kind: str
    path: str
    where: str


def choose(top: dict[str, Located], path: str, reader: Reader, warn: Warn) -> Choice | None:
    """What MLproject names, else what is found; None for neither. docker_env is no file."""
    given = [key for key in KEYS if key in top]
    if len(given) > 1:
        raise SpecError(
            f"more than one environment: {', '.join(given)}",
            where=f"{path}:{top[given[1]].line}", fix="keep one of them",
        )
    if given and top[given[0]].value is not None:
        return _named(given[0], top[given[0]], path)
    for name, kind in (_MLFLOW | _OURS).items():
        text = reader.read(name)
        if text is None or (name == "pyproject.toml" and not _has_project(text)):
            continue
        if name in _OURS:
            warn(f"{path}: names no environment; {name} beside it is taken, which MLflow would "
                 "not do")
        return Choice(kind=kind, path=name, where=path)
    return None


def _named(key: str, value: Located, path: str) -> Choice:
    where = f"{path}:{value.line}"
    name = value.value.strip() if isinstance(value.value, str) else ""
    if not name:
        _refuse(key, where)
    name = posixpath.normpath(name)
    base = posixpath.basename(name)
    if base.endswith(".txt"):
        return Choice(kind="requirements.txt", path=name, where=where)
    if key == "python_env" and base in ("uv.lock", "pylock.toml", "pyproject.toml"):
        return Choice(kind=base, path=name, where=where)
    return Choice(kind=key, path=name, where=where)


def _refuse(key: str, where: str) -> NoReturn:
    example = "conda.yaml" if key == "conda_env" else "python_env.yaml"
    raise SpecError(f"{key} is not a file name", where=where, fix=f"write `{key}: {example}`")


def _has_project(text: str) -> bool:
    """Whether a pyproject.toml lists what a project needs; many hold settings of tools alone."""
    return any(line.strip() == "[project]" for line in text.splitlines())

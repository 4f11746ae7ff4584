"""MLproject's environment keys, else the files beside it -> the one file that says what is needed.

MLflow looks for its own two names. The names that other tools use come after those and are
announced, since MLflow takes no notice of them.
"""

from __future__ import annotations

import posixpath
from typing import NoReturn

from toolchain.errors import SpecError
from toolchain.spec import Reader, Warn
from toolchain.spec.pyproject import default_file
from toolchain.spec.yamltext import Located
from toolchain.values import dataclass

KEYS = ("python_env", "conda_env", "docker_env")
# In this order; after these, other tools' locks and pyproject.toml, then a list alone.
_MLFLOW = {"python_env.yaml": "python_env", "conda.yaml": "conda_env"}
_OURS = {"conda.yml": "conda_env", "environment.yml": "conda_env"}
_LAST = "requirements.txt"


@dataclass(frozen=True)
class Choice:
    """One environment file. kind: the key that it stands for. where: who named it."""

    kind: str
    path: str
    where: str


def is_given(value: Located) -> bool:
    """Whether MLflow takes notice of a key's value: an empty one is none."""
    return bool(value.value)


def choose(top: dict[str, Located], path: str, reader: Reader, warn: Warn) -> Choice | None:
    """What MLproject names, else what is found; None for neither. docker_env is no file."""
    given = [key for key in KEYS if key in top]
    if len(given) > 1:
        raise SpecError(
            f"more than one environment: {', '.join(given)}",
            where=f"{path}:{top[given[1]].line}", fix="keep one of them",
        )
    if given and is_given(top[given[0]]):
        return _named(given[0], top[given[0]], path)
    if given and top[given[0]].value is not None:
        warn(f"{path}:{top[given[0]].line}: {given[0]} is empty, and MLflow takes no notice of it")
    for name, kind in (_MLFLOW | _OURS).items():
        if reader.read(name) is not None:
            if name in _OURS:
                _announce(name, path, warn)
            return Choice(kind=kind, path=name, where=path)
    other = default_file(reader, warn) or (_LAST if reader.read(_LAST) is not None else "")
    if not other:
        return None
    _announce(other, path, warn)
    return Choice(kind="python_env", path=other, where=path)


def _announce(name: str, path: str, warn: Warn) -> None:
    warn(f"{path}: names no environment; {name} {'beside' if '/' not in name else 'above'} it is "
         "taken, which MLflow would not do")


def _named(key: str, value: Located, path: str) -> Choice:
    where = f"{path}:{value.line}"
    name = value.value.strip() if isinstance(value.value, str) else ""
    if not name:
        _refuse(key, where)
    return Choice(kind=key, path=posixpath.normpath(name), where=where)


def _refuse(key: str, where: str) -> NoReturn:
    example = "conda.yaml" if key == "conda_env" else "python_env.yaml"
    raise SpecError(f"{key} is not a file name", where=where, fix=f"write `{key}: {example}`")

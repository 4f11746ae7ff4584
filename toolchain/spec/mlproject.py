"""MLproject text -> Spec. The grammar is MLflow's; what MLflow lets pass silently is named."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from toolchain.errors import SpecError, nearest
from toolchain.spec import PARAMETER_TYPES, EntryPoint, Parameter, Reader, Spec, Warn
from toolchain.spec.environment import (
    DEFAULT_FILES,
    Environment,
    read_conda,
    read_python_env,
    read_requirements,
)
from toolchain.spec.pyproject import (
    PYPROJECT,
    default_file,
    is_existing_lock,
    read_existing_lock,
    read_pyproject,
)
from toolchain.spec.requirements import Requirements
from toolchain.spec.yamltext import Located, canonical, load

_TOP_KEYS = ("name", "entry_points", "python_env", "conda_env", "docker_env")
_ENTRY_KEYS = ("command", "parameters", "description")
# What doit's task names, registries of models and file systems can all hold.
_NAME = re.compile(r"(?!\.+\Z)[^\s:=,*/\\\x00-\x1f-][^:=,*/\\\x00-\x1f]*")
_PARAMETER_KEYS = ("type", "default", "description")


def parse(path: str, folder_name: str, reader: Reader, default_python: str, warn: Warn) -> Spec:
    """Read and validate a project.

    `path` is the MLproject file as the reader knows it; `folder_name` is the project's name
    where MLproject gives none. Raises SpecError with file and line.
    """
    text = reader.read(path)
    if text is None:
        raise SpecError("MLproject is gone", where=path,
                        fix="put it back, or run the command again")
    top = load(text, path)
    if not isinstance(top.value, dict):
        raise SpecError("MLproject is not a mapping", where=f"{path}:{top.line}",
                        fix="begin with `name: …` and `entry_points:`")
    for key, value in top.value.items():
        if key not in _TOP_KEYS:
            warn(f"{path}:{value.line}: unknown key {key!r}{nearest(key, _TOP_KEYS)}")
    environment = _environment(top.value, path, reader, default_python, warn)
    wanted = environment.wanted
    return Spec(
        name=_name(top.value, path) or folder_name,
        environment=environment.kind,
        python=environment.python,
        requirements=tuple(sorted(wanted.requirements)),
        constraints=tuple(sorted(wanted.constraints)),
        hashes={name: tuple(sorted(values)) for name, values in wanted.hashes.items()},
        entry_points=_entry_points(top.value.get("entry_points"), path, warn),
        files={**wanted.files, path: canonical(top.plain())},
        sources=tuple(source.to_json() for source in sorted(wanted.sources)),
        options=wanted.options.to_lines(),
        locked=environment.locked,
        conda=environment.conda,
        variables=environment.variables,
    )


def name_of(data: bytes) -> str:
    """The `name:` of an MLproject, without judging the rest; empty where there is none."""
    try:
        top = load(data.decode("utf-8-sig"), "MLproject")
    except (SpecError, UnicodeDecodeError):
        return ""
    if not isinstance(top.value, dict):
        return ""
    try:
        return _name(top.value, "MLproject")
    except SpecError:
        return ""


def _name(top: dict[str, Located], path: str) -> str:
    value = top.get("name")
    if value is None or value.value is None:
        return ""
    name = value.text.strip()
    if isinstance(value.value, (dict, list)) or not _NAME.fullmatch(name):
        raise SpecError(
            f"not a project name: {name or value.plain()!r}", where=f"{path}:{value.line}",
            fix="use letters, digits, blanks, '.', '_' and '-'",
        )
    return name


def _environment(
    top: dict[str, Located], path: str, reader: Reader, default_python: str, warn: Warn
) -> Environment:
    kinds = [key for key in ("python_env", "conda_env", "docker_env") if key in top]
    if len(kinds) > 1:
        raise SpecError(
            f"more than one environment: {', '.join(kinds)}",
            where=f"{path}:{top[kinds[1]].line}", fix="keep one of them",
        )
    if kinds == ["docker_env"]:
        raise SpecError(
            "docker_env is not supported yet", where=f"{path}:{top['docker_env'].line}",
            fix="use python_env, or a conda.yaml with only python, pip and a `pip:` section",
        )
    if kinds:
        value = top[kinds[0]]
        where = f"{path}:{value.line}"
        if not isinstance(value.value, str) or not value.value.strip():
            raise SpecError(f"{kinds[0]} is not a file name", where=where,
                            fix=f"write `{kinds[0]}: {DEFAULT_FILES[kinds[0] == 'conda_env']}`")
        name = posixpath.normpath(value.value.strip())
        return _read_environment(kinds[0], name, reader, where, default_python, warn)
    for name in (*DEFAULT_FILES[:-1], default_file(reader), DEFAULT_FILES[-1]):
        if name and reader.read(name) is not None:
            kind = {"conda.yaml": "conda_env", "python_env.yaml": "python_env"}.get(name, "")
            return _read_environment(kind, name, reader, path, default_python, warn)
    return Environment(kind="python_env", python="", wanted=Requirements())


def _read_environment(
    kind: str, name: str, reader: Reader, where: str, default_python: str, warn: Warn
) -> Environment:
    if is_existing_lock(name):
        return read_existing_lock(name, reader, where, default_python, warn)
    if posixpath.basename(name) == PYPROJECT:
        return read_pyproject(name, reader, where, default_python, warn)
    if name.endswith(".txt"):
        return read_requirements(name, reader, where, warn)
    if kind == "conda_env":
        return read_conda(name, reader, where, default_python, warn)
    return read_python_env(name, reader, where, warn)


def _entry_points(value: Located | None, path: str, warn: Warn) -> dict[str, EntryPoint]:
    if value is None or value.value is None:
        return {}
    if not isinstance(value.value, dict):
        raise SpecError("entry_points is not a mapping", where=f"{path}:{value.line}",
                        fix="write `entry_points:` and below it `main:` with `command: …`")
    return {
        name: _entry_point(name, entry, path, warn) for name, entry in value.value.items()
    }


def _entry_point(name: str, value: Located, path: str, warn: Warn) -> EntryPoint:
    where = f"{path}:{value.line}, entry_points.{name}"
    if not isinstance(value.value, dict):
        raise SpecError("an entry point is a mapping with `command`", where=where,
                        fix=f"write `{name}: {{command: python train.py}}`")
    for key, item in value.value.items():
        if key not in _ENTRY_KEYS:
            warn(f"{path}:{item.line}: unknown key {key!r}{nearest(key, _ENTRY_KEYS)}")
    command = value.value.get("command")
    if command is None or not isinstance(command.value, str) or not command.value.strip():
        raise SpecError("an entry point has no command", where=where,
                        fix="add `command: python train.py`")
    parameters = value.value.get("parameters")
    if parameters is None or parameters.value is None:
        return EntryPoint(command=command.value.strip(), parameters={})
    if not isinstance(parameters.value, dict):
        raise SpecError("parameters is not a mapping", where=f"{path}:{parameters.line}, "
                        f"entry_points.{name}.parameters",
                        fix="write each as `alpha: {type: float, default: 0.5}`")
    for word in re.findall(r"(?<![${])\{([A-Za-z0-9_.-]+)\}(?!\})", command.value):
        if word not in parameters.value and (hint := nearest(word, parameters.value)):
            warn(f"{path}:{command.line}: the command has {{{word}}}, which is no parameter{hint}")
    return EntryPoint(
        command=command.value.strip(),
        parameters={
            key: _parameter(key, item, f"{path}:{item.line}, entry_points.{name}.parameters.{key}",
                            warn)
            for key, item in parameters.value.items()
        },
    )


def _parameter(name: str, value: Located, where: str, warn: Warn) -> Parameter:
    from toolchain.spec.command import check_value

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise SpecError(f"not a parameter name: {name!r}", where=where,
                        fix="use letters, digits, '_', '.' and '-'")
    if isinstance(value.value, str):  # `alpha: float`, as MLflow's shorthand
        return Parameter(type=_type(value.value, where, warn))
    if not isinstance(value.value, dict):
        raise SpecError("a parameter is a type or a mapping with `type` and `default`",
                        where=where, fix=f"write `{name}: {{type: float, default: 0.5}}`")
    for key in value.value:
        if key not in _PARAMETER_KEYS:
            warn(f"{where}: unknown key {key!r}{nearest(key, _PARAMETER_KEYS)}")
    given = value.value.get("type")
    kind = "string" if given is None else _type(given.text, where, warn)
    default = value.value.get("default")
    if default is None or default.value is None:
        return Parameter(type=kind)
    if isinstance(default.value, (dict, list)):
        raise SpecError("a default is a single value", where=where,
                        fix="give one value, in quotes if it has several parts")
    text = _default_text(default.value, default.text)
    check_value(name, kind, text, where)
    return Parameter(type=kind, default=text)


def _default_text(value: Any, text: str) -> str:
    # MLflow substitutes str() of the YAML value: `yes` becomes `True`, `1_000` becomes `1000`.
    return text if isinstance(value, str) else str(value)


def _type(text: str, where: str, warn: Warn) -> str:
    if text in PARAMETER_TYPES:
        return text
    warn(f"{where}: unknown type {text!r}{nearest(text, PARAMETER_TYPES)}; taken as string")
    return "string"

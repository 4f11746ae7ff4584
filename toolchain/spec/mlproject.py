"""MLproject text -> Spec. The grammar is MLflow's; what MLflow lets pass silently is named."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from toolchain.errors import SpecError, nearest
from toolchain.spec import Docker, EntryPoint, Reader, Spec, Warn
from toolchain.spec.choice import KEYS, Choice, choose, is_given
from toolchain.spec.docker import read_docker
from toolchain.spec.entrypoints import entry_points
from toolchain.spec.environment import (
    Environment,
    read_conda,
    read_python_env,
    read_requirements,
)
from toolchain.spec.pyproject import (
    PYPROJECT,
    is_existing_lock,
    read_existing_lock,
    read_pyproject,
)
from toolchain.spec.requirements import Requirements
from toolchain.spec.yamltext import Located, canonical, load

_TOP_KEYS = ("name", "entry_points", *KEYS)
# What doit's task names, registries of models and file systems cannot hold.
_NOT_IN_A_NAME = re.compile(r"[:=,*/\\\x00-\x1f\x7f]+")


def parse(path: str, folder_name: str, reader: Reader, default_python: str, warn: Warn, *,
          is_needed: bool = True) -> Spec:
    """Read and validate a project.

    `path` is the MLproject file as the reader knows it; `folder_name` is the project's name
    where MLproject gives none. is_needed: whether the file must be there; what is run by the name
    of a script needs none. Raises SpecError with file and line.
    """
    text = reader.read(path)
    if text is None and is_needed:
        raise SpecError("MLproject is gone", where=path,
                        fix="put it back, or run the command again")
    top = load("{}" if text is None else text, path)
    if not isinstance(top.value, dict):
        raise SpecError("MLproject is not a mapping", where=f"{path}:{top.line}",
                        fix="begin with `name: …` and `entry_points:`")
    for key, line in top.doubles:
        warn(f"{path}:{line}: key {key!r} is there twice; the last one counts")
    for key, value in top.value.items():
        if key not in _TOP_KEYS:
            warn(f"{path}:{value.line}: unknown key {key!r}{nearest(key, _TOP_KEYS)}")
    if "databricks_spark_job" in top.value:
        raise SpecError("a Spark job on Databricks cannot be run here",
                        where=f"{path}:{top.value['databricks_spark_job'].line}",
                        fix="start it with `mlflow run`, or write an entry point that submits it")
    name = _name(top.value, path)
    if name and name != top.value["name"].text.strip():
        warn(f"{path}:{top.value['name'].line}: the project's name is taken as {name!r}")
    environment, docker = _environment(top.value, path, reader, default_python, warn)
    wanted = environment.wanted
    entries = entry_points(top.value.get("entry_points"), path, warn)
    return Spec(
        name=name or folder_name,
        environment=environment.kind,
        python=environment.python,
        requirements=tuple(sorted(wanted.requirements)),
        constraints=tuple(sorted(wanted.constraints)),
        hashes={name: tuple(sorted(values)) for name, values in wanted.hashes.items()},
        entry_points=entries,
        files=(wanted.files if text is None
               else {**wanted.files, path: _canonical(top.value, entries)}),
        docker=docker,
        sources=tuple(source.to_json() for source in sorted(wanted.sources)),
        options=wanted.options.to_lines(),
        locked=environment.locked,
        conda=environment.conda,
        variables=environment.variables,
        places=wanted.places,
    )


def _canonical(top: dict[str, Located], entries: Mapping[str, EntryPoint]) -> str:
    """MLproject as it is understood: `default: 0.5` and `default: "0.5"` are one text."""
    found = {key: item.texts() for key, item in top.items()}
    if "entry_points" in found:
        found["entry_points"] = {name: entry.to_json() for name, entry in entries.items()}
    return canonical(found)


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
    name = _NOT_IN_A_NAME.sub("-", value.text).strip(" -")
    if isinstance(value.value, (dict, list)) or not name.strip("."):
        raise SpecError(
            f"not a project name: {value.text or value.plain()!r}", where=f"{path}:{value.line}",
            fix="use letters, digits, blanks, '.', '_' and '-'",
        )
    return name


def _environment(
    top: dict[str, Located], path: str, reader: Reader, default_python: str, warn: Warn
) -> tuple[Environment, Docker | None]:
    docker = top.get("docker_env")
    if docker is not None and is_given(docker) and not {*KEYS[:2]} & top.keys():
        # Its packages are in the image; nothing is pinned.
        return (Environment(kind="docker", python="", wanted=Requirements()),
                read_docker(docker, path, warn))
    chosen = choose(top, path, reader, warn)
    if chosen is None:
        return Environment(kind="python_env", python="", wanted=Requirements()), None
    return _read_environment(chosen, reader, default_python, warn), None


def _read_environment(chosen: Choice, reader: Reader, default_python: str,
                      warn: Warn) -> Environment:
    name, where = chosen.path, chosen.where
    if is_existing_lock(name):
        return read_existing_lock(name, reader, where, default_python, warn)
    if posixpath.basename(name) == PYPROJECT:
        return read_pyproject(name, reader, where, default_python, warn)
    if name.endswith(".txt"):
        return read_requirements(name, reader, where, warn)
    if chosen.kind == "conda_env":
        return read_conda(name, reader, where, default_python, warn)
    return read_python_env(name, reader, where, default_python, warn)

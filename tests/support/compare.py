"""What MLflow's own loader makes of a project, and what this one does: where do they differ?

    python -m tests.support.compare FOLDER...

Every folder below FOLDER with an MLproject is one project, unless its name holds `{{`. Each is
read twice; nothing of it is run. What is printed is a difference, or a note where the difference is
meant (docs/guides/from-mlflow-run.md), or an error of ours with its place and its remedy. The exit
status is the number of projects that differ or are refused here alone, at most 100.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.environments import environment_differences
from toolchain.errors import SpecError
from toolchain.journal import Journal
from toolchain.spec import PARAMETER_TYPES, Spec
from toolchain.spec.command import call
from toolchain.spec.mlproject import parse
from toolchain.spec.reader import TreeReader
from toolchain.tree import Tree

SAMPLES = {"int": "3", "float": "0.5", "bool": "true", "uri": "s3://bucket/key", "path": "a b/c",
           "string": "it's $HOME"}
PLAIN = {"int": "3", "float": "0.5", "bool": "true"}
KINDS = {"python_env": "python_env", "conda_env": "conda", "docker_env": "docker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One project. error: ours, if it is refused. theirs: MLflow's, if it is refused there.
    notes: differences that are meant."""

    warnings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: SpecError | None = field(default=None)
    theirs: str = ""


class WithoutConda(TreeReader):
    """Reads every conda environment as an empty one: what MLproject says can be judged alone."""

    def read(self, path: str) -> str | None:
        text = super().read(path)
        return "dependencies: []\n" if text and path.endswith((".yaml", ".yml")) else text


def projects(folder: Path) -> Iterator[Path]:
    """Folders at or below `folder` that hold an MLproject, as MLflow finds it."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if "{{" not in name)
        if any(name.lower() == "mlproject" for name in names):
            yield Path(place)


def load(folder: Path, workspace: Path, cache: Path,
         kind: type[TreeReader] = TreeReader) -> tuple[Spec, list[str]]:
    """Our reading, and what was warned of. Raises SpecError."""
    (mlproject,) = [name for name in os.listdir(folder) if name.lower() == "mlproject"]
    warnings: list[str] = []
    reader = kind(Tree(folder, Journal(cache)), workspace)
    return parse(mlproject, folder.name, reader, "3.11", warnings.append), warnings


def judge(folder: Path, workspace: Path, cache: Path) -> Verdict:
    """Compare both readings of a project in a workspace."""
    from mlflow.projects._project_spec import load_project

    error = None
    try:
        spec, warnings = load(folder, workspace, cache)
    except SpecError as found:
        error = found
    try:
        project = load_project(str(folder))  # type: ignore[no-untyped-call]
    except Exception as found:  # MLflow dies of many mistakes by accident
        return Verdict(error=error, theirs=f"{type(found).__name__}: {found}".split("\n")[0],
                       warnings=() if error else tuple(warnings))
    if error:
        return Verdict(error=error)
    notes: list[str] = []
    differing = [*differences(spec, warnings, project, notes)]
    try:
        differing += environment_differences(spec, folder, project)
    except Exception as wrong:  # as little as above can MLflow's reader be relied on
        notes.append(f"the environment is not compared: {type(wrong).__name__} {wrong}")
    return Verdict(warnings=tuple(warnings), differences=tuple(differing), notes=tuple(notes))


def differences(spec: Spec, warnings: list[str], project: Any, notes: list[str]) -> Iterator[str]:
    """Where they differ, but for what is in the environment; what is meant goes into `notes`."""
    named = f"the project's name is taken as {spec.name!r}"
    wanted = str(project.name or spec.name)
    if wanted != spec.name and not any(named in text for text in warnings):
        yield f"name {spec.name!r}, not {wanted!r}"
    ours, theirs = spec.environment, KINDS[project.env_type]
    announced = any("which MLflow would not do" in text or "conda's" in text for text in warnings)
    if ours != theirs and not announced:
        yield f"environment {ours}, not {theirs}"
    if [*spec.entry_points] != [*project._entry_points]:
        yield f"entry points {[*spec.entry_points]}, not {[*project._entry_points]}"
        return
    for name in spec.entry_points:
        for text in entry_differences(spec, name, warnings, project, notes):
            yield f"{name}: {text}"


def entry_differences(spec: Spec, name: str, warnings: list[str], project: Any,
                      notes: list[str]) -> Iterator[str]:
    """Where an entry point differs, but for what a warning says is read otherwise."""
    ours, theirs = spec.entry_points[name], project.get_entry_point(name)
    if [*ours.parameters] != [*theirs.parameters]:
        yield f"parameters {[*ours.parameters]}, not {[*theirs.parameters]}"
        return
    otherwise = {word for word in ours.parameters if any(
        f"entry_points.{name}.parameters.{word}: " in text and "one word for YAML" in text
        for text in warnings)}
    for word, parameter in theirs.parameters.items():
        if word in otherwise:
            continue
        kind = parameter.type if parameter.type in PARAMETER_TYPES else "string"
        default = None if parameter.default is None else str(parameter.default)
        if (ours.parameters[word].type, ours.parameters[word].default) != (kind, default):
            yield f"{word}: {ours.parameters[word]}, not {kind} with default {default!r}"
    if not ours.command:
        if isinstance(theirs.command, str) and theirs.command.strip():
            yield f"no command, not {theirs.command!r}"
        return
    kinds = {word: parameter.type for word, parameter in ours.parameters.items()}
    lacking = {word: SAMPLES[kind] for word, kind in kinds.items() if word in otherwise
               or theirs.parameters[word].default is None or kind == "uri"}
    for given in (lacking, {word: SAMPLES[kind] for word, kind in kinds.items()}):
        try:
            mine, other = _commands(spec, name, given, theirs)
        except (KeyError, IndexError, ValueError) as error:
            notes.append(f"{name}: braces are left alone; MLflow fails: "
                         f"{type(error).__name__} {error}")
            return
        if _words(mine) == _words(other):
            continue
        # Within quotes MLflow quotes once more; a word without blanks needs none.
        mine_plain, other_plain = _commands(spec, name, {
            word: "s3:word" if kind == "uri" else PLAIN.get(kind, "word")
            for word, kind in kinds.items()}, theirs)
        if _words(mine_plain) == _words(other_plain):
            notes.append(f"{name}: a value within quotes: {mine!r}, not {other!r}")
        else:
            yield f"is {mine!r}, not {other!r}"


def _commands(spec: Spec, name: str, given: Mapping[str, str], theirs: Any) -> tuple[str, str]:
    settled = call(spec, name, given, lambda _: None)
    other: str = theirs.compute_command(given, None)
    return _without_variables(settled.command(), settled.variables()), other


def _without_variables(line: str, variables: Mapping[str, str]) -> str:
    """The line as it would be with the values in it."""
    for variable, value in variables.items():
        inner = "".join(f"\\{letter}" if letter in '"\\$`' else letter for letter in value)
        line = line.replace(f'"${{{variable}}}"', shlex.quote(value)).replace(
            f"${{{variable}}}", inner)
    return line


def _words(line: str) -> list[str] | str:
    try:
        # `\` before a line's end is nothing for bash, and a character for shlex.
        return shlex.split(line.replace("\\\n", " ").rstrip().removesuffix("\\"))
    except ValueError:
        return line


def main(folders: list[str]) -> int:
    counts = {"the same": 0, "refused by both": 0, "refused here": 0, "refused by MLflow": 0,
              "different": 0, "different as meant": 0}
    with tempfile.TemporaryDirectory() as cache:
        for top in map(Path, folders):
            for folder in projects(top):
                verdict = judge(folder, top, Path(cache))
                kind = ("refused by both" if verdict.error and verdict.theirs else
                        "refused here" if verdict.error else
                        "refused by MLflow" if verdict.theirs else
                        "different" if verdict.differences else
                        "different as meant" if verdict.notes else "the same")
                counts[kind] += 1
                if kind != "the same":
                    print(f"{folder.relative_to(top)}: {kind}")
                for text in (*verdict.differences, *verdict.notes, verdict.theirs,
                             verdict.error or ""):
                    if text:
                        print("  " + str(text).replace("\n", "\n  "))
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return min(100, counts["different"] + counts["refused here"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

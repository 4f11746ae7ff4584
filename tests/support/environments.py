"""What MLflow's own reader makes of a project's environment, and what this one does: where do they
differ?

MLflow hands a conda file to conda and a list of requirements to pip. What these two would read of
it is taken from the YAML as it stands, and from MLflow's reader of requirements files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from toolchain.spec import Docker, Spec

_EXACT = re.compile(r"python\s*={1,2}\s*(3\.\d+(?:\.\d+)?)")


def environment_differences(spec: Spec, folder: Path, project: Any) -> Iterator[str]:
    """Where they do not ask for the same. `project` is MLflow's; of an environment that only this
    one finds, nothing is said."""
    if project.docker_env is not None:
        yield from _docker(spec.docker, project.docker_env)
    elif project.env_config_path is not None:
        path = Path(project.env_config_path)
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        yield from (_conda if project.env_type == "conda_env" else _python)(spec, value, path)


def _docker(ours: Docker | None, theirs: dict[str, Any]) -> Iterator[str]:
    assert ours is not None
    if ours.image != theirs["image"] and not theirs.get("build_image"):
        yield f"image {ours.image}, not {theirs['image']}"
    if [*ours.volumes] != [*(theirs.get("volumes") or ())]:
        yield f"volumes {ours.volumes}, not {theirs['volumes']}"
    asked = theirs.get("environment") or []
    copied = [item for item in asked if isinstance(item, str)]
    settings = {item[0]: str(item[1]) for item in asked if isinstance(item, list)}
    if ([*ours.copied], dict(ours.environment)) != (copied, settings):
        yield f"variables {ours.copied} and {ours.environment}, not {asked}"


def _conda(spec: Spec, theirs: dict[str, Any], path: Path) -> Iterator[str]:
    packages = {"".join(item.lower().split()) for item in theirs["dependencies"]
                if isinstance(item, str)}
    lines = [line for item in theirs["dependencies"] if isinstance(item, dict)
             for line in item["pip"]]
    if spec.conda is None:
        if not all(re.match(r"(python|pip)(?![a-z_-])", item) for item in packages):
            yield f"no conda, and packages {packages}"
        exact = [found[1] for found in map(_EXACT.fullmatch, packages) if found]
        if exact and [spec.python] != exact:
            yield f"Python {spec.python}, not {exact}"
        lines += [re.sub(r"(?<![=<>!])=(?!=)(.*)", r"==\1.*", item) for item in packages
                  if re.match(r"pip[=<>]", item)]
    else:
        ours = {"".join(item.lower().split()) for item in spec.conda.packages}
        if ours != packages:
            yield f"packages that differ: {ours ^ packages}"
        order = [*dict.fromkeys(name for name in theirs.get("channels") or ["defaults"]
                                if name != "nodefaults")]
        if [*spec.conda.channels[:len(order)]] != order:
            yield f"channels {spec.conda.channels}, not {order}"
    if dict(spec.variables) != {name: str(value) for name, value in
                                (theirs.get("variables") or {}).items()}:
        yield f"variables {spec.variables}"
    yield from _requirements(spec, lines, path)


def _python(spec: Spec, theirs: dict[str, Any], path: Path) -> Iterator[str]:
    python = str(theirs.get("python") or "")
    # Where `3.10` stands without quotes MLflow fails: it is a number.
    if spec.python != python and not isinstance(theirs.get("python"), float):
        yield f"Python {spec.python}, not {python}"
    yield from _requirements(spec, [*(theirs.get("build_dependencies") or ()),
                                    *(theirs.get("dependencies") or ())], path)


def _requirements(spec: Spec, lines: Iterable[str], path: Path) -> Iterator[str]:
    releases, others = set(), 0
    for line in _expanded(lines, path):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            others += not line.startswith("-") or line.startswith("-e")
            continue
        requirement.name = canonicalize_name(requirement.name)
        others += requirement.url is not None
        releases |= set() if requirement.url else {str(requirement)}
    if {*spec.requirements} != releases:
        yield f"requirements that differ: {releases ^ {*spec.requirements}}"
    if len(spec.sources) != others:
        yield f"{len(spec.sources)} sources, not {others}: {spec.sources}"


def _expanded(lines: Iterable[str], path: Path) -> Iterator[str]:
    """The lines, and those of the files that they include, without comments."""
    from mlflow.utils.requirements_utils import _parse_requirements

    for line in lines:
        included = re.fullmatch(r"(?:-r|--requirement)\s*(\S+)\s*", line)
        if included:
            for found in _parse_requirements(  # type: ignore[no-untyped-call]
                    str(path.parent / included[1]), is_constraint=False):
                if not found.is_constraint:
                    yield re.sub(r"(^|\s)#.*", "", found.req_str).strip()
        else:
            yield re.sub(r"(^|\s)#.*", "", line).strip()

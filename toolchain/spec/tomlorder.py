"""pyproject.toml and other tools' locks -> canonical text, the same in whatever order packages are.

Sources: PEP 621, PEP 735, PEP 518; PEP 751; uv's lock file, version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.errors import SpecError
from toolchain.spec.requirements import parse_requirement
from toolchain.spec.tomltext import canonical

# uv's own lists of requirements.
_OF_UV = ("dev-dependencies", "constraint-dependencies", "override-dependencies",
          "build-constraint-dependencies", "exclude-dependencies")


def project_text(data: Mapping[str, Any]) -> str:
    """pyproject.toml with its lists of requirements normalised and sorted. Other lists stay: the
    order of `tool.uv.index` means something."""
    ordered = dict(data)
    _replace(ordered, "build-system", "requires", _requirements)
    _replace(ordered, "project", "dependencies", _requirements)
    _replace(ordered, "project", "optional-dependencies", _groups)
    if "dependency-groups" in ordered:
        ordered["dependency-groups"] = _groups(ordered["dependency-groups"])
    if isinstance(tool := ordered.get("tool"), dict):
        ordered["tool"] = tool = dict(tool)
        for key in _OF_UV:
            _replace(tool, "uv", key, _requirements)
    return canonical(ordered)


def lock_text(data: Mapping[str, Any]) -> str:
    """A lock with its packages, and the files and dependencies of each, sorted."""
    return canonical({name: _sorted(value) for name, value in data.items()})


def _replace(data: dict[str, Any], table: str, key: str, change: Any) -> None:
    if isinstance(data.get(table), dict) and key in data[table]:
        data[table] = {**data[table], key: change(data[table][key])}


def _groups(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _requirements(group) for name, group in value.items()}


def _requirements(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    texts = {_requirement(item) for item in value if isinstance(item, str)}
    others = [item for item in value if not isinstance(item, str)]  # {include-group = "test"}
    return [*sorted(texts), *sorted(others, key=_key)]


def _requirement(text: str) -> str:
    try:
        return parse_requirement(text, "")[0]
    except SpecError:  # whoever needs it will say what is wrong
        return " ".join(text.split())


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [_sorted(item) for item in value]
    return sorted(items, key=_key) if all(isinstance(item, dict) for item in items) else items


def _key(value: Any) -> str:
    return canonical({"": value})

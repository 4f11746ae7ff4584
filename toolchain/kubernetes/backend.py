"""MLflow's backend config -> Backend: the file that `mlflow run --backend-config` takes."""

from __future__ import annotations

import json

from toolchain.errors import ConfigError, nearest
from toolchain.reference import check_repository
from toolchain.values import dataclass

_KEYS = ("kube-context", "repository-uri", "kube-job-template-path")
_WHERE = "kubernetes.config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What the config says; what it leaves out is empty. repository: without its registry."""

    context: str = ""
    registry: str = ""
    repository: str = ""
    template: str = ""


def is_inline(text: str) -> bool:
    """Whether the setting is the config itself, rather than the path of a file."""
    return text.lstrip().startswith("{")


def parse(text: str, where: str = _WHERE) -> Backend:
    """Raises ConfigError."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"not valid JSON: {error}", where=where,
                          fix='write {"kube-context": "…", "repository-uri": "…", '
                              '"kube-job-template-path": "…"}') from None
    if not isinstance(value, dict):
        raise ConfigError("the backend config is no JSON object", where=where,
                          fix='write {"kube-job-template-path": "…"}')
    for key, item in value.items():
        if key not in _KEYS:
            raise ConfigError(f"unknown key {key!r}{nearest(key, _KEYS)}", where=where,
                              fix=f"known: {', '.join(_KEYS)}")
        if not isinstance(item, str):
            raise ConfigError(f"{key} is text, not {type(item).__name__}", where=where,
                              fix="put it in quotes")
    registry, repository = _split(value.get("repository-uri", ""), where)
    return Backend(context=value.get("kube-context", ""), registry=registry,
                   repository=repository, template=value.get("kube-job-template-path", ""))


def _split(uri: str, where: str) -> tuple[str, str]:
    """`registry.example/team/trainer` -> registry and repository."""
    if not uri:
        return "", ""
    first, slash, rest = uri.partition("/")
    # As Docker reads names: without a dot, a port or `localhost` it is Docker Hub's.
    is_host = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    registry, repository = (first, rest) if is_host else ("docker.io", uri)
    try:
        return registry, check_repository(repository)
    except ConfigError as error:
        raise ConfigError(f"repository-uri: {error.what}", where=where,
                          fix="write registry.example/team/trainer, without a tag") from None



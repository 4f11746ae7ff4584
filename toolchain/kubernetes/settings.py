"""Config -> Settings: what a workspace says about the cluster and the Jobs in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from toolchain import quantity
from toolchain.config import Config
from toolchain.errors import ConfigError
from toolchain.kubernetes.backend import Backend
from toolchain.values import dataclass

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_LABEL = re.compile(r"(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?"
                    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Empty text and None: not said, so the template or the cluster decides. Times in seconds;
    start_timeout: zero is none."""

    context: str = ""
    namespace: str = ""
    scheduler: str = ""
    queue: str = ""
    gpu_fraction: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    priority_class: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    service_account: str = ""
    pull_secrets: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    config_maps: tuple[str, ...] = ()
    ttl: int | None = None
    backoff_limit: int | None = None
    deadline: int | None = None
    start_timeout: float = 0
    tracking_uri: str = ""
    hands_secrets_on: bool = True


def read(config: Config, backend: Backend) -> Settings:
    """Raises ConfigError."""
    return Settings(
        context=config.kubernetes_context or backend.context,
        namespace=_name("namespace", config.kubernetes_namespace),
        scheduler=_name("scheduler", config.kubernetes_scheduler),
        queue=_label_value("queue", config.kubernetes_queue),
        gpu_fraction=_fraction(config.kubernetes_gpu_fraction),
        gpu_resource=config.kubernetes_gpu_resource,
        priority_class=_name("priority_class", config.kubernetes_priority_class),
        node_selector=dict(_pair(text) for text in _several(config.kubernetes_node_selector)),
        tolerations=tuple(map(_toleration, _several(config.kubernetes_tolerations))),
        service_account=_name("service_account", config.kubernetes_service_account),
        pull_secrets=_names("pull_secrets", config.kubernetes_pull_secrets),
        secrets=_names("secrets", config.kubernetes_secrets),
        config_maps=_names("config_maps", config.kubernetes_config_maps),
        ttl=_seconds(config.kubernetes_ttl),
        backoff_limit=(quantity.count(config.kubernetes_backoff_limit)
                       if config.kubernetes_backoff_limit else None),
        deadline=_seconds(config.kubernetes_deadline, least=1),
        start_timeout=_seconds(config.kubernetes_start_timeout) or 0,
        tracking_uri=config.kubernetes_tracking_uri,
        hands_secrets_on=config.kubernetes_pass_secrets and not config.kubernetes_secrets)


def _several(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _names(setting: str, text: str) -> tuple[str, ...]:
    return tuple(_name(setting, part) for part in _several(text))


def _name(setting: str, text: str) -> str:
    if text and not _NAME.match(text):
        raise _wrong(setting, f"not a name that Kubernetes knows: {text!r}",
                     "small letters, digits, `-` and `.`")
    return text


def _label_value(setting: str, text: str) -> str:
    if not _VALUE.match(text):
        raise _wrong(setting, f"not a label's value: {text!r}",
                     "at most 63 letters, digits, `-`, `_` and `.`")
    return text


def _seconds(text: str, least: int = 0) -> int | None:
    return max(least, round(quantity.seconds(text))) if text else None


def _fraction(text: str) -> str:
    if not text:
        return ""
    try:
        is_part = 0 < float(text) < 1
    except ValueError:
        is_part = False
    if not is_part:
        raise _wrong("gpu_fraction", f"not a part of one GPU: {text!r}",
                     "kubernetes.gpu_fraction=0.5; whole ones are asked for with gpus")
    return text


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not _LABEL.match(key) or not _VALUE.match(value):
        raise _wrong("node_selector", f"not label=value: {text!r}",
                     "kubernetes.node_selector=disk=ssd,zone=a")
    return key, value


def _toleration(text: str) -> dict[str, str]:
    """`key`, `key=value`, and either with `:NoSchedule`, as kubectl writes taints."""
    pair, colon, effect = text.partition(":")
    key, equals, value = pair.partition("=")
    if (not _LABEL.match(key) or not _VALUE.match(value)
            or (colon and effect not in _EFFECTS)):
        raise _wrong("tolerations", f"not key[=value][:effect]: {text!r}",
                     f"effects are {', '.join(_EFFECTS)}, as in gpu=yes:NoSchedule")
    found: dict[str, Any] = {"key": key, "operator": "Equal" if equals else "Exists"}
    if equals:
        found["value"] = value
    return found | ({"effect": effect} if colon else {})


def _wrong(setting: str, what: str, fix: str) -> ConfigError:
    return ConfigError(what, where=f"kubernetes.{setting}", fix=fix)

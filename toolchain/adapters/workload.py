"""The files that settings name for Kubernetes: MLflow's backend config, a job template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from toolchain.config import Config
from toolchain.errors import ConfigError, EngineError, without_credentials
from toolchain.kubernetes import backend, template
from toolchain.kubernetes.backend import Backend
from toolchain.kubernetes.manifest import pod_spec
from toolchain.kubernetes.settings import Settings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LARGEST = 1 << 20  # bytes of either file


def read_backend(config: Config, root: Path) -> Backend:
    """The backend config, given as JSON or as a file relative to the workspace. Raises
    ConfigError."""
    text = config.kubernetes_config
    if not text:
        return Backend()
    if backend.is_inline(text):
        return backend.parse(text)
    return backend.parse(_text(root / text, "kubernetes.config"), text)


def read_template(config: Config, named: Backend, root: Path) -> dict[str, Any] | None:
    """The job template that a setting or the backend config names; None if none does.

    A backend config's path is relative to the workspace, or to the config's own file. Raises
    ConfigError, SpecError.
    """
    path = config.kubernetes_template or named.template
    if not path:
        return None
    place = root / path
    if not place.exists() and not config.kubernetes_template \
            and not backend.is_inline(config.kubernetes_config):
        beside = (root / config.kubernetes_config).parent / path
        place = beside if beside.exists() else place
    return template.parse(_text(place, "kubernetes.template"), path)


def seen_by_pods(settings: Settings, environ: Mapping[str, str]) -> str:
    """The tracking server's address in pods, where it is another than here; MLflow's variable
    serves too."""
    return settings.tracking_uri or environ.get("KUBE_MLFLOW_TRACKING_URI", "")


def check(config: Config, settings: Settings, template: dict[str, Any] | None, tracking_uri: str,
          environ: Mapping[str, str]) -> None:
    """Raise EngineError for what no pod can do, before anything is built for it."""
    where = "engine kubernetes"
    if not config.registry:
        raise EngineError("a cluster pulls images from a registry, and none is set", where=where,
                          fix="set registry=host[:port], or repository-uri in the backend config")
    is_elsewhere = "://" in tracking_uri or tracking_uri.startswith("databricks")
    if tracking_uri.startswith(("sqlite:", "file:")) or not is_elsewhere:
        raise EngineError("a pod cannot reach a tracking store that is a file on this machine",
                          where=where, fix="run `mlflow server` where pods reach it, and set "
                                           "tracking_uri=http://…")
    seen = seen_by_pods(settings, environ) or tracking_uri
    pod = pod_spec(template) if template else {}
    if urlsplit(seen).hostname in _LOOPBACK and not pod.get("hostNetwork"):
        raise EngineError(
            f"a pod cannot reach {without_credentials(seen)}, which is this machine alone",
            where=where,
            fix="set kubernetes.tracking_uri to the server's address as pods see it")


def _text(path: Path, setting: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError("too large for what it should be", where=f"{setting}: {path.name}",
                              fix="name the right file")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=f"{setting}: {path}",
                          fix="name a file, relative to the workspace") from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8", where=f"{setting}: {path}",
                          fix="save the file as UTF-8") from None

"""[tool.toolchain] -> Config: every setting, its type, its default and who may give it.

A setting is looked up in four places, the first that has it wins: `name=value` on the command
line, the project's own pyproject.toml, the workspace's pyproject.toml, the default below.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any

from toolchain import quantity
from toolchain.errors import ConfigError, nearest
from toolchain.values import dataclass

WORKSPACE, PROJECT, CALL = "workspace", "project", "call"


def _setting(default: Any, scope: str, doc: str, name: str = "", *, many: bool = False,
             reads: Callable[[str], Any] | None = None) -> Any:
    """`reads`: what makes a quantity of the text; raises ValueError for what is none."""
    return field(default=default, metadata={"scope": scope, "doc": doc, "name": name,
                                            "many": many, "reads": reads})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings that hold for one project in one call. `scope` says where one may be given:

    workspace: only in the workspace's pyproject.toml or on the command line; project: also in
    the project's own pyproject.toml; call: only on the command line.
    """

    projects: str = _setting("projects", WORKSPACE, "folder that is searched for MLproject files")
    cache: str = _setting(
        "cache", WORKSPACE, "folder for blobs, traces, receipts and environments"
    )
    python: str = _setting("3.11", PROJECT, "Python for projects that name none: `X.Y` or `X.Y.Z`")
    image_base: str = _setting(
        "auto", PROJECT, "base image: a reference, `oci:PATH`, `docker-daemon:NAME`, "
        "`dockerfile:PATH`; `auto` is the "
        "embedded Debian base", "image.base"
    )
    image_platform: str = _setting(
        "linux/amd64", PROJECT,
        "operating system and architecture of the image; a list makes an image index",
        "image.platform", many=True,
    )
    image_hub: str = _setting(
        "", WORKSPACE, "registry for base images whose name has no host; empty: Docker Hub",
        "image.hub",
    )
    image_insecure: str = _setting(
        "", WORKSPACE, "registries of base images that speak plain HTTP, as `host[:port]`",
        "image.insecure", many=True,
    )
    apt: str = _setting("", PROJECT, "Debian packages that the image has besides", many=True)
    image_mirror: str = _setting(
        "", WORKSPACE, "URL of a Debian mirror; empty: the machine's own apt mirror",
        "image.mirror",
    )
    image_keyring: str = _setting(
        "", WORKSPACE, "keyring that signs the mirror; empty: apt's own, else Debian's",
        "image.keyring",
    )
    image_updates: bool = _setting(
        True, WORKSPACE, "pin from the security and updates suites too, where apt knows them",
        "image.updates",
    )
    image_attest: bool = _setting(
        True, PROJECT, "attach a bill of materials and a provenance to what is pushed",
        "image.attest",
    )
    image_bytecode: bool = _setting(
        True, PROJECT, "put the packages' modules into the image compiled, so that they load at "
        "once", "image.bytecode",
    )
    image_command: str = _setting(
        "", PROJECT, "what the image runs, as in a shell; empty: the project's entry points",
        "image.command"
    )
    image_compression: str = _setting(
        "gzip", PROJECT, "how layers are compressed: `gzip` or `zstd`", "image.compression"
    )
    conda_alias: str = _setting(
        "", WORKSPACE, "URL before the name of a conda channel; empty: conda's own",
        "conda.alias"
    )
    conda_defaults: str = _setting(
        "main,r", PROJECT, "conda channels that `defaults` stands for", "conda.defaults", many=True
    )
    conda_cuda: str = _setting(
        "", PROJECT, "CUDA of the machines that train, for conda; empty: CONDA_OVERRIDE_CUDA, else "
        "none", "conda.cuda"
    )
    conda_pip: bool = _setting(
        False, PROJECT, "take conda packages from the package index where the conda channel cannot "
        "be reached", "conda.pip"
    )
    registry: str = _setting(
        "", PROJECT, "`host[:port]` to push to; empty: an OCI layout under the cache"
    )
    pull_registry: str = _setting(
        "", PROJECT, "the registry's name as the place that runs images sees it; empty: registry"
    )
    repository: str = _setting("mlflow/trainer", PROJECT, "repository that images are pushed to")
    insecure: bool = _setting(
        False, PROJECT, "plain HTTP to the registry, though it is not on this machine"
    )
    engine: str = _setting("auto", PROJECT, "where training runs")
    address: str = _setting(
        "", PROJECT, "`host:port` of the head of a Ray cluster, or `auto`; empty: RAY_ADDRESS"
    )
    timeout: str = _setting(
        "", PROJECT, "how long the entry point may run: seconds, or `90s`, `30m`, `2h`; empty: as "
        "long as it takes", reads=quantity.seconds
    )
    cpus: str = _setting(
        "", PROJECT, "processors that the entry point asks for", reads=quantity.processors
    )
    memory: str = _setting(
        "", PROJECT, "memory that it asks for: `512MiB`, `2GiB`", reads=quantity.size
    )
    gpus: str = _setting("", PROJECT, "GPUs that it asks for", reads=quantity.count)
    shm: str = _setting(
        "", PROJECT, "size of its shared memory, `/dev/shm`; empty: the engine's",
        reads=quantity.size
    )
    kubernetes_config: str = _setting(
        "", PROJECT, "MLflow's backend config for Kubernetes, as JSON or as a file of it",
        "kubernetes.config"
    )
    kubernetes_context: str = _setting(
        "", PROJECT, "context of the kubeconfig; empty: the backend config's, else the current one",
        "kubernetes.context"
    )
    kubernetes_namespace: str = _setting(
        "", PROJECT, "namespace of Jobs; empty: the template's, else the context's",
        "kubernetes.namespace"
    )
    kubernetes_template: str = _setting(
        "", PROJECT, "file of a job template, as MLflow's; empty: the backend config's",
        "kubernetes.template"
    )
    kubernetes_tracking_uri: str = _setting(
        "", PROJECT, "the tracking server as pods see it; empty: KUBE_MLFLOW_TRACKING_URI, else "
        "the same", "kubernetes.tracking_uri"
    )
    kubernetes_scheduler: str = _setting(
        "", PROJECT, "`schedulerName` of pods", "kubernetes.scheduler"
    )
    kubernetes_queue: str = _setting(
        "", PROJECT, "queue of Kueue, or of the scheduler Volcano, KAI or Run:ai",
        "kubernetes.queue"
    )
    kubernetes_gpu_fraction: str = _setting(
        "", PROJECT, "part of one GPU, for schedulers that share GPUs", "kubernetes.gpu_fraction"
    )
    kubernetes_gpu_resource: str = _setting(
        "nvidia.com/gpu", PROJECT, "what the cluster calls a GPU", "kubernetes.gpu_resource"
    )
    kubernetes_priority_class: str = _setting(
        "", PROJECT, "priority class of pods; Run:ai's `build` is interactive",
        "kubernetes.priority_class"
    )
    kubernetes_node_selector: str = _setting(
        "", PROJECT, "labels that a node must have, `label=value`", "kubernetes.node_selector",
        many=True
    )
    kubernetes_tolerations: str = _setting(
        "", PROJECT, "taints of nodes that pods bear, `key[=value][:effect]`",
        "kubernetes.tolerations", many=True
    )
    kubernetes_service_account: str = _setting(
        "", PROJECT, "service account of pods", "kubernetes.service_account"
    )
    kubernetes_pull_secrets: str = _setting(
        "", PROJECT, "Secrets with the registry's credentials", "kubernetes.pull_secrets",
        many=True
    )
    kubernetes_secrets: str = _setting(
        "", PROJECT, "Secrets whose entries become variables", "kubernetes.secrets", many=True
    )
    kubernetes_config_maps: str = _setting(
        "", PROJECT, "ConfigMaps whose entries become variables", "kubernetes.config_maps",
        many=True
    )
    kubernetes_pass_secrets: bool = _setting(
        True, PROJECT, "hand this machine's credentials on in a Secret of the Job's own; never "
        "where `kubernetes.secrets` names some", "kubernetes.pass_secrets"
    )
    kubernetes_ttl: str = _setting(
        "", PROJECT, "how long a finished Job is kept if nobody removes it; empty: the "
        "template's, else a day", "kubernetes.ttl", reads=quantity.seconds
    )
    kubernetes_backoff_limit: str = _setting(
        "", PROJECT, "how often a failed pod is tried again; empty: the template's, else never",
        "kubernetes.backoff_limit", reads=quantity.count
    )
    kubernetes_deadline: str = _setting(
        "", PROJECT, "time after which a Job is ended, the wait before it counted in; empty: "
        "the template's, else none", "kubernetes.deadline", reads=quantity.seconds
    )
    kubernetes_start_timeout: str = _setting(
        "", PROJECT, "time in which a job must have begun; empty: it may wait",
        "kubernetes.start_timeout", reads=quantity.seconds
    )
    tracking_uri: str = _setting(
        "", PROJECT, "MLflow tracking store; empty: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db"
    )
    experiment: str = _setting(
        "", PROJECT, "MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, else the project's name"
    )
    sweep_storage: str = _setting(
        "", WORKSPACE, "database of Optuna's studies, sqlite or PostgreSQL; empty: OPTUNA_STORAGE, "
        "else sweeps.db in the cache", "sweep.storage"
    )
    model_name: str = _setting("", PROJECT, "registered model; empty: the project's name")
    alias: str = _setting("candidate", PROJECT, "alias that `register` moves to the new version")
    entry_point: str = _setting("main", CALL, "entry point of MLproject to run")
    params: str = _setting("", CALL, "`name=value` pairs for the entry point, by blank or comma")
    trials: str = _setting("", CALL, "how many trials a sweep is to have in all")
    parallel: str = _setting("", CALL, "how many trials run at once")
    budget: str = _setting(
        "", CALL, "a sweep's trials over all projects of the call, or its time: `40`, `30m`, "
        "`1h30m`; empty: each project's own, of its `sweep.yaml`"
    )
    max_failures: str = _setting(
        "", CALL, "how many of a project's trials may fail before its sweep ends"
    )
    register: str = _setting("", CALL, "`best`: make a model version of a sweep's best trial")
    to: str = _setting(
        "", CALL, "file that `export` writes; `{project}` in it is the name, a last `/` a folder"
    )
    version: str = _setting(
        "", CALL, "branch, tag or commit of the repository in `project=URL`; empty: its HEAD"
    )
    last_stage: str = _setting(
        "register", PROJECT, "where a call that names no project stops for this one; `push` for "
        "an image that trains nothing"
    )
    dry_run: bool = _setting(
        False, CALL, "show what `train` would submit to a cluster, and submit nothing"
    )
    keep: str = _setting(
        "30d", CALL, "`doit prune` leaves what was used within that time", reads=quantity.seconds
    )
    upgrade: bool = _setting(False, CALL, "pin again: newest versions that the project allows")
    force: bool = _setting(False, CALL, "train again although a finished run has the same key")
    check: bool = _setting(
        False, CALL, "train once more and compare: whether the same training gives the same"
    )

    def given(self, values: Mapping[str, Any], *, scope: str, where: str) -> Config:
        """A copy with `values` (names as users write them) set.

        Raises ConfigError for an unknown name, a wrong type, or a setting that `scope` does not
        admit.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name not in _BY_NAME:
                raise ConfigError(
                    f"unknown setting {name!r}{nearest(name, _BY_NAME)}",
                    where=where,
                    fix=f"known settings: {', '.join(sorted(_BY_NAME))}",
                )
            slot = _BY_NAME[name]
            if not _admits(scope, slot.metadata["scope"]):
                raise ConfigError(
                    f"setting {name!r} cannot be given here",
                    where=where,
                    fix=_WHERE_TO_GIVE[slot.metadata["scope"]],
                )
            if slot.metadata["many"]:
                value = _joined(name, value, where)
            if slot.metadata["reads"]:
                value = _quantity(name, value, slot.metadata["reads"], where)
            changes[slot.name] = _typed(name, value, type(slot.default), where)
        return replace(self, **changes)


_BY_NAME = {slot.metadata["name"] or slot.name: slot for slot in fields(Config)}

_WHERE_TO_GIVE = {
    WORKSPACE: "give it in the workspace's pyproject.toml or as name=value on the command line",
    PROJECT: "give it in a pyproject.toml or as name=value on the command line",
    CALL: "give it as name=value on the command line",
}


def _admits(given: str, wanted: str) -> bool:
    order = [PROJECT, WORKSPACE, CALL]
    if given == CALL:
        return True
    return wanted != CALL and order.index(given) >= order.index(wanted)


def _joined(name: str, value: Any, where: str) -> Any:
    """Several values as the one text `a,b`: what the command line can give too."""
    parts = value if isinstance(value, list) else str(value).replace(",", " ").split()
    if not isinstance(value, (list, str)) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{name} is text or a list of texts", where=where,
                          fix=f'write it as {name} = ["…", "…"]')
    return ",".join(dict.fromkeys(part.strip() for part in parts))


def _quantity(name: str, value: Any, reads: Callable[[str], Any], where: str) -> str:
    """A quantity as text, a number without its unit included; nothing is nothing."""
    text = str(value).strip() if not isinstance(value, bool) else ""
    try:
        if text or isinstance(value, bool):
            reads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not a quantity: {value!r}", where=where,
                          fix=f"write {error}") from None
    return text


def _typed(name: str, value: Any, kind: type, where: str) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise ConfigError(f"{name} is yes or no, not {value!r}", where=where,
                          fix=f"{name}=1 or {name}=0")
    if isinstance(value, str):
        return _version(value, where) if name == "python" else value
    if name == "python" and isinstance(value, float):
        raise ConfigError(f"python = {value} is a number, which drops a last zero", where=where,
                          fix='write it as text, as in python = "3.11"')
    raise ConfigError(f"{name} is text, not {type(value).__name__}", where=where,
                      fix=f'write it as {name} = "…"')


def _version(value: str, where: str) -> str:
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", value):
        raise ConfigError(f"python is a version, not {value!r}", where=where,
                          fix="write it as X.Y or X.Y.Z; a range belongs into the project's own "
                              "environment file")
    return value


def reference() -> tuple[tuple[str, Any, str, str], ...]:
    """Rows of (name, default, scope, description), in the order of the configuration reference."""
    return tuple(
        (name, slot.default, slot.metadata["scope"], slot.metadata["doc"])
        for name, slot in _BY_NAME.items()
    )


def read_settings(pyproject: str | Path) -> dict[str, Any]:
    """The `[tool.toolchain]` table of a file, dotted names joined; {} where there is none.

    Raises ConfigError for a file that is not TOML.
    """
    try:
        with open(pyproject, "rb") as stream:
            data = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(pyproject),
                          fix="make it readable") from None
    if b"toolchain" not in data:  # most project files; spares loading a parser
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
        table = tool.get("toolchain", {}) if isinstance(tool, dict) else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(pyproject),
                          fix="look at that place and just before it; save it as UTF-8") from None
    if not isinstance(table, dict):
        raise ConfigError("[tool.toolchain] is not a table", where=str(pyproject),
                          fix="write settings below the line `[tool.toolchain]`")
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": deeper for inner, deeper in value.items()})
        else:
            flat[name] = value
    return flat

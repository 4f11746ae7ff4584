"""Which adapter serves which protocol. Everything is imported and made when first asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import EngineError, nearest, without_credentials

if TYPE_CHECKING:
    from toolchain.adapters.bases import BaseImages
    from toolchain.adapters.compiler import PinnedCompiler
    from toolchain.adapters.containers import ContainerEngine
    from toolchain.adapters.debian import DebianArchive
    from toolchain.adapters.docker_engine import DockerEngine
    from toolchain.adapters.fetch import Fetcher
    from toolchain.adapters.file_places import FilePlaces
    from toolchain.adapters.index_wheels import IndexWheels
    from toolchain.adapters.kubernetes import KubernetesEngine
    from toolchain.adapters.local import LocalEngine
    from toolchain.adapters.mlflow import Mlflow
    from toolchain.adapters.optuna import OptunaStudies
    from toolchain.adapters.rattler import Rattler
    from toolchain.adapters.ray_engine import RayEngine
    from toolchain.adapters.remote import RemoteInputs
    from toolchain.adapters.repository import Repositories
    from toolchain.adapters.sandbox import SandboxEngine
    from toolchain.adapters.sources import WheelsOfSources
    from toolchain.adapters.trials import MlflowTrials
    from toolchain.adapters.uv import Uv
    from toolchain.adapters.uv_resolver import UvResolver
    from toolchain.attest import Source
    from toolchain.bundle import Fetch
    from toolchain.chain import Session
    from toolchain.config import Config
    from toolchain.journal import Journal
    from toolchain.lock.base import BasePins
    from toolchain.lock.image import ImagePins
    from toolchain.progress import Progress
    from toolchain.push import BlobSource, Registry
    from toolchain.run import Engine
    from toolchain.store import Store
    from toolchain.trace import Trace
    from toolchain.workspace import Project, Workspace

_ENGINES = ("auto", "docker", "kubernetes", "local", "ray", "sandbox")


def tracking_uri(config: Config) -> str:
    """The tracking store that holds: the setting, else the environment's, else MLflow's default."""
    return (config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
            or "sqlite:///mlflow.db")


def tracking_identity(config: Config) -> str:
    """The tracking store as it may be put on record: without user, password and query."""
    return without_credentials(tracking_uri(config)).partition("?")[0]


def tracking_file(config: Config, root: Path) -> Path | None:
    """The tracking store's file, if it is a local database."""
    uri = tracking_uri(config)
    if not uri.startswith("sqlite:///"):
        return None
    return root / uri.removeprefix("sqlite:///").partition("?")[0]


def experiment(config: Config) -> str:
    """The experiment's name, or nothing where none is set."""
    return config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "")


def placed(config: Config, root: Path) -> Config:
    """The settings with the registry and repository of MLflow's backend config, where they hold
    for the engine and none is set."""
    if config.engine != "kubernetes" or not config.kubernetes_config or config.registry:
        return config
    from dataclasses import replace

    from toolchain.adapters.workload import read_backend

    named = read_backend(config, root)
    if not named.registry:
        return config
    return replace(config, registry=named.registry, repository=named.repository)


def session(workspace: Workspace, journal: Journal, say: Callable[[str], None]) -> Session:
    """What the projects of one call share, on this machine. `say` tells people."""
    from toolchain import report
    from toolchain.adapters.compatible import host_platform
    from toolchain.chain import Session
    from toolchain.progress import Progress
    from toolchain.store import Store
    from toolchain.trace import Trace

    cache, counter = workspace.cache, Progress()
    trace = Trace(cache, journal)
    store = Store(cache / "blobs" / "sha256", cache / "quarantine", journal)
    tools = Adapters(workspace.root, cache, workspace.config, journal, store, trace, counter,
                     say)
    return Session(workspace=workspace, journal=journal, store=store, trace=trace, tools=tools,
                   progress=partial(report.progress, counter), say=say, host=host_platform())


def ended_by_sigterm() -> contextlib.AbstractContextManager[None]:
    """While the block runs, SIGTERM leaves it as an exception, as Ctrl-C does."""
    from toolchain.adapters.supervised import exit_on_sigterm

    return exit_on_sigterm()


def guest(workspace: Workspace, journal: Journal, asked: str,
          say: Callable[[str], None]) -> Project | None:
    """The project that a git URL names; None for what is no URL but a name."""
    from toolchain.adapters.repository import Repositories, is_url, split

    if not is_url(asked):
        return None
    from toolchain import guest
    from toolchain.trace import Trace

    url, folder = split(asked)
    trace = Trace(workspace.cache, journal)
    return guest.find(url, folder, workspace,
                      Repositories(workspace.cache / "git", os.environ, trace), say)


class Adapters:
    """The tools of one workspace on this machine; implements toolchain.chain.Tools."""

    def __init__(self, root: Path, cache: Path, config: Config, journal: Journal, store: Store,
                 trace: Trace, progress: Progress, say: Callable[[str], None]) -> None:
        self._say = say
        self._root = root
        self._cache = cache
        self._config = config
        self._journal = journal
        self._store = store
        self._trace = trace
        self._progress = progress
        self._registries: dict[tuple[object, ...], Registry] = {}
        self._trackers: dict[str, Mlflow] = {}
        self._clusters: dict[Config, KubernetesEngine] = {}
        self._rays: dict[tuple[object, ...], RayEngine] = {}
        self._studies: dict[str, OptunaStudies] = {}

    def resolver(self) -> UvResolver:
        return self._resolver

    def sources(self) -> WheelsOfSources:
        return self._sources

    def wheels(self) -> IndexWheels:
        return self._wheels

    def conda(self, config: Config) -> Rattler:
        return self._conda

    def cuda(self, config: Config) -> str:
        return config.conda_cuda or os.environ.get("CONDA_OVERRIDE_CUDA", "")

    def archive(self) -> DebianArchive:
        return self._debian

    def debs(self) -> DebianArchive:
        return self._debian

    def images(self, config: Config) -> BaseImages:
        from toolchain.adapters.bases import BaseImages
        from toolchain.adapters.registry import HttpRegistry, address

        def repository(host: str, name: str) -> HttpRegistry:
            # `insecure` is said of the registry that is pushed to, and of no other.
            insecure = config.insecure and host == address(config.registry)
            return HttpRegistry(host, host, name, insecure=insecure)

        return BaseImages(root=self._root, hub=config.image_hub, store=self._store,
                          progress=self._progress, repository=repository,
                          engine=self.image_engine)

    def base_source(self, pins: ImagePins, config: Config) -> BlobSource:
        return self.images(config).source(pins)

    def compiler(self, identity: str, pins: BasePins, python: str) -> PinnedCompiler:
        from toolchain.adapters.compiler import PinnedCompiler

        return PinnedCompiler(identity=identity, pins=pins, python=python, store=self._store,
                              folder=self._cache / "interpreters", fetch=self._debian.fetch)

    def registry(self, config: Config) -> Registry:
        key = (config.registry, config.pull_registry, config.repository, config.insecure)
        if key not in self._registries:
            self._registries[key] = self._make_registry(config)
        return self._registries[key]

    def registry_name(self, config: Config) -> str:
        self.registry(config)  # raises for what is not one, such as a URL with a password
        return f"{config.registry} {config.pull_registry} {config.repository}"

    def engine(self, config: Config) -> Engine:
        if config.engine not in _ENGINES:
            raise EngineError(f"unknown engine {config.engine!r}{nearest(config.engine, _ENGINES)}",
                              where="engine", fix=f"known: {', '.join(_ENGINES)}")
        if config.engine == "docker":
            return self._containers(config)
        if config.engine == "kubernetes":
            return self._kubernetes(config)
        if config.engine == "ray":
            return self._ray(config)
        return self._queued(self._on_this_machine(config))

    def _on_this_machine(self, config: Config) -> Engine:
        if config.engine == "sandbox":
            return self._sandbox(config)
        if config.engine == "local":
            return self._local
        from toolchain.adapters.auto import AutoEngine

        database = tracking_file(config, self._root)
        paths = () if database is None else (database.parent, self._root / "mlruns")
        return AutoEngine(self._sandbox(config), self._local, self._say, paths=paths)

    def _queued(self, engine: Engine) -> Engine:
        from toolchain.adapters import capacity
        from toolchain.adapters.machine_shares import MachineShares, QueuedEngine

        shares = MachineShares(self._cache / "shares", capacity.cpus(), capacity.memory(),
                               self._say)
        return QueuedEngine(engine, shares)

    def image_engine(self) -> DockerEngine:
        return self._docker

    def tracking(self, config: Config) -> Mlflow:
        from toolchain.adapters.mlflow import Mlflow

        uri = tracking_uri(config)
        if uri not in self._trackers:
            self._trackers[uri] = Mlflow(uri, self._root, self._trace, os.environ)
        return self._trackers[uri]

    def remote(self, config: Config) -> RemoteInputs:
        from toolchain.adapters.remote import RemoteInputs

        return RemoteInputs(self.tracking(config).uri)

    def processors(self) -> float:
        from toolchain.adapters import capacity

        return capacity.cpus()

    def studies(self, config: Config) -> OptunaStudies:
        from toolchain.adapters.optuna import OptunaStudies

        uri = config.sweep_storage or os.environ.get("OPTUNA_STORAGE", "")
        if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
            uri = f"sqlite:///{self._root / uri.removeprefix('sqlite:///')}"
        uri = uri or f"sqlite:///{self._cache.resolve() / 'sweeps.db'}"
        if uri not in self._studies:
            self._studies[uri] = OptunaStudies(uri, self._trace)
        return self._studies[uri]

    def records(self, config: Config) -> MlflowTrials:
        from toolchain.adapters.trials import MlflowTrials

        return MlflowTrials(self.tracking(config))

    def tracking_identity(self, config: Config) -> str:
        return tracking_identity(config)

    def experiment(self, config: Config) -> str:
        return experiment(config)

    def source(self, folder: Path, files: Iterable[str]) -> Source:
        from toolchain.adapters import git

        return git.source(folder, files, os.environ.get("SOURCE_DATE_EPOCH", ""))

    def _make_registry(self, config: Config) -> Registry:
        if config.registry:
            from toolchain.adapters.registry import HttpRegistry

            return HttpRegistry(config.registry, config.pull_registry or config.registry,
                                config.repository, insecure=config.insecure)
        from toolchain.adapters.layout import Layout
        from toolchain.reference import check_repository

        name = check_repository(config.repository)
        folder = self._cache / "registry" / name
        shown = f"{config.pull_registry}/{name}" if config.pull_registry else name
        return Layout(folder, shown, self._cache / "quarantine", self._journal)

    @cached_property
    def _uv_environment(self) -> dict[str, str]:
        from toolchain.adapters.indexes import uv_environment

        return uv_environment(os.environ, self._root)

    @cached_property
    def _fetcher(self) -> Fetcher:
        from toolchain.adapters.fetch import Fetcher
        from toolchain.adapters.indexes import credentials

        return Fetcher(store=self._store, progress=self._progress,
                       credentials=credentials(self._uv_environment),
                       certificates=self._uv_environment.get("SSL_CERT_FILE"))

    @cached_property
    def _uv(self) -> Uv:
        from toolchain.adapters.interpreters import Interpreters
        from toolchain.adapters.uv import Uv

        return Uv(environ=self._uv_environment,
                  interpreter=self._interpreter(Interpreters(os.environ)))

    @cached_property
    def _places(self) -> FilePlaces:
        from toolchain.adapters.file_places import FilePlaces

        return FilePlaces(self._trace)

    @cached_property
    def _resolver(self) -> UvResolver:
        from toolchain.adapters.uv_resolver import UvResolver

        return UvResolver(uv=self._uv, store=self._store, trace=self._trace, places=self._places)

    @cached_property
    def _sources(self) -> WheelsOfSources:
        from toolchain.adapters.sources import WheelsOfSources

        return WheelsOfSources(
            store=self._store, trace=self._trace, journal=self._journal, fetcher=self._fetcher,
            repositories=self._repositories, environ=self._uv_environment, builder=self._uv,
            places=self._places)

    @cached_property
    def _wheels(self) -> IndexWheels:
        from toolchain.adapters.index_wheels import IndexWheels

        return IndexWheels(uv=self._uv, resolver=self._resolver, sources=self._sources,
                           fetcher=self._fetcher, store=self._store, trace=self._trace,
                           places=self._places)

    @cached_property
    def _conda(self) -> Rattler:
        from toolchain.adapters.rattler import Rattler

        return Rattler(root=self._root, folder=self._cache / "conda",
                       alias=self._config.conda_alias, environ=os.environ,
                       fetcher=self._fetcher, store=self._store, trace=self._trace,
                       progress=self._progress)

    @cached_property
    def _repositories(self) -> Repositories:
        from toolchain.adapters.repository import Repositories

        return Repositories(self._cache / "git", os.environ, self._trace)

    def _interpreter(self, interpreters: Any) -> Callable[[str], Path]:
        found: dict[str, Path] = {}

        def find(version: str) -> Path:
            if version not in found:
                found[version] = interpreters.find(version)
            return found[version]

        return find

    @cached_property
    def _local(self) -> LocalEngine:
        from toolchain.adapters.environments import Environments
        from toolchain.adapters.local import LocalEngine

        return LocalEngine(cache=self._cache, store=self._store, trace=self._trace,
                           wheels=self._wheels, conda=lambda: self._conda, environ=os.environ,
                           environments=Environments(self._uv, self._store))

    def _sandbox(self, config: Config) -> SandboxEngine:
        from toolchain.adapters.roots import Roots
        from toolchain.adapters.sandbox import SandboxEngine
        from toolchain.adapters.unpacked import UnpackedLayers

        layers = UnpackedLayers(self._cache / "layers", self._blobs(config), self._trace)
        return SandboxEngine(cache=self._cache, environ=os.environ,
                             roots=Roots(self._cache / "roots", layers, self._trace))

    def _containers(self, config: Config) -> ContainerEngine:
        from toolchain.adapters.containers import ContainerEngine

        return ContainerEngine(engine=self._docker, fetch=self._blobs(config),
                               has=self._store.has, registry=bool(config.registry),
                               progress=self._progress, environ=os.environ)

    def _kubernetes(self, config: Config) -> KubernetesEngine:
        """One for all jobs of a call, which share its watches."""
        if config not in self._clusters:
            from toolchain.adapters import workload
            from toolchain.adapters.cluster import Cluster
            from toolchain.adapters.kubernetes import KubernetesEngine
            from toolchain.kubernetes import settings

            named = workload.read_backend(config, self._root)
            read = settings.read(config, named)
            template = workload.read_template(config, named, self._root)
            workload.check(config, read, template, tracking_uri(config), os.environ)
            self._clusters[config] = KubernetesEngine(
                cluster=Cluster(read.context, os.environ), settings=read, template=template,
                environ=os.environ, say=self._say)
        return self._clusters[config]

    def _ray(self, config: Config) -> RayEngine:
        from toolchain.adapters import ray_record
        from toolchain.adapters.ray_cluster import Cluster
        from toolchain.adapters.ray_engine import RayEngine
        from toolchain.adapters.ray_order import Place

        self.registry(config)  # raises for what is none
        host = config.pull_registry or config.registry
        place = Place(folder="" if host else str(self._cache / "registry" / config.repository),
                      host=host, repository=config.repository, insecure=config.insecure)
        address = config.address or os.environ.get("RAY_ADDRESS", "")
        if (address, place) not in self._rays:
            self._rays[address, place] = RayEngine(
                cluster=Cluster(address), place=place, wheels=self._wheels, store=self._store,
                environ=os.environ, say=self._say, again=ray_record.again)
        return self._rays[address, place]

    def _blobs(self, config: Config) -> Fetch:
        """Blobs of images that were pushed as `config` says."""
        from toolchain.push import fetcher

        return fetcher(self.registry(config), self._store)

    @cached_property
    def _docker(self) -> DockerEngine:
        from toolchain.adapters.docker_engine import DockerEngine

        return DockerEngine(os.environ)

    @cached_property
    def _debian(self) -> DebianArchive:
        from toolchain.adapters.debian import DebianArchive

        return DebianArchive(mirror=self._config.image_mirror,
                             keyring=self._config.image_keyring,
                             updates=self._config.image_updates, fetcher=self._fetcher)

"""What runs jobs: on this machine, in containers and on clusters."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from toolchain.errors import EngineError, nearest
from toolchain.wiring.packages import Packages
from toolchain.wiring.parts import Parts
from toolchain.wiring.tracking import tracking_file, tracking_uri

if TYPE_CHECKING:
    from toolchain.adapters.containers import ContainerEngine
    from toolchain.adapters.docker_engine import DockerEngine
    from toolchain.adapters.kubernetes import KubernetesEngine
    from toolchain.adapters.local import LocalEngine
    from toolchain.adapters.ray_engine import RayEngine
    from toolchain.adapters.sandbox import SandboxEngine
    from toolchain.bundle import Fetch
    from toolchain.config import Config
    from toolchain.push import Registry
    from toolchain.run import Engine

_NAMES = ("auto", "docker", "kubernetes", "local", "ray", "sandbox")


class Engines:
    """The engines of one call; those of a cluster serve all jobs of it. `registry`: where the
    images are."""

    def __init__(self, parts: Parts, packages: Packages,
                 registry: Callable[[Config], Registry]) -> None:
        self._parts = parts
        self._packages = packages
        self._registry = registry
        self._clusters: dict[Config, KubernetesEngine] = {}
        self._rays: dict[tuple[object, ...], RayEngine] = {}

    def engine(self, config: Config) -> Engine:
        """The engine that the settings name; raises EngineError for an unknown one."""
        if config.engine not in _NAMES:
            raise EngineError(f"unknown engine {config.engine!r}{nearest(config.engine, _NAMES)}",
                              where="engine", fix=f"known: {', '.join(_NAMES)}")
        if config.engine == "docker":
            return self._containers(config)
        if config.engine == "kubernetes":
            return self._kubernetes(config)
        if config.engine == "ray":
            return self._ray(config)
        return self._queued(self._on_this_machine(config))

    @cached_property
    def docker(self) -> DockerEngine:
        from toolchain.adapters.docker_engine import DockerEngine

        return DockerEngine(os.environ)

    def _on_this_machine(self, config: Config) -> Engine:
        if config.engine == "sandbox":
            return self._sandbox(config)
        if config.engine == "local":
            return self._local
        from toolchain.adapters.auto import AutoEngine

        database = tracking_file(config, self._parts.root)
        paths = () if database is None else (database.parent, self._parts.root / "mlruns")
        return AutoEngine(self._sandbox(config), self._local, self._parts.say, paths=paths)

    def _queued(self, engine: Engine) -> Engine:
        from toolchain.adapters import capacity
        from toolchain.adapters.machine_shares import MachineShares, QueuedEngine

        shares = MachineShares(self._parts.cache / "shares", capacity.cpus(), capacity.memory(),
                               self._parts.say)
        return QueuedEngine(engine, shares)

    @cached_property
    def _local(self) -> LocalEngine:
        from toolchain.adapters.environments import Environments
        from toolchain.adapters.local import LocalEngine

        packages = self._packages
        return LocalEngine(cache=self._parts.cache, store=self._parts.store,
                           trace=self._parts.trace, wheels=packages.wheels,
                           conda=lambda: packages.conda, environ=os.environ,
                           environments=Environments(packages.uv, self._parts.store))

    def _sandbox(self, config: Config) -> SandboxEngine:
        from toolchain.adapters.roots import Roots
        from toolchain.adapters.sandbox import SandboxEngine
        from toolchain.adapters.unpacked import UnpackedLayers

        cache, trace = self._parts.cache, self._parts.trace
        layers = UnpackedLayers(cache / "layers", self._blobs(config), trace)
        return SandboxEngine(cache=cache, environ=os.environ,
                             roots=Roots(cache / "roots", layers, trace))

    def _containers(self, config: Config) -> ContainerEngine:
        from toolchain.adapters.containers import ContainerEngine

        return ContainerEngine(engine=self.docker, fetch=self._blobs(config),
                               has=self._parts.store.has, registry=bool(config.registry),
                               progress=self._parts.progress, environ=os.environ)

    def _kubernetes(self, config: Config) -> KubernetesEngine:
        """One for all jobs of a call, which share its watches."""
        if config not in self._clusters:
            from toolchain.adapters import workload
            from toolchain.adapters.cluster import Cluster
            from toolchain.adapters.kubernetes import KubernetesEngine
            from toolchain.kubernetes import settings

            named = workload.read_backend(config, self._parts.root)
            read = settings.read(config, named)
            template = workload.read_template(config, named, self._parts.root)
            workload.check(config, read, template, tracking_uri(config), os.environ)
            self._clusters[config] = KubernetesEngine(
                cluster=Cluster(read.context, os.environ), settings=read, template=template,
                environ=os.environ, say=self._parts.say)
        return self._clusters[config]

    def _ray(self, config: Config) -> RayEngine:
        from toolchain.adapters import ray_record
        from toolchain.adapters.ray_cluster import Cluster
        from toolchain.adapters.ray_engine import RayEngine
        from toolchain.adapters.ray_order import Place

        self._registry(config)  # raises for what is none
        host = config.pull_registry or config.registry
        layout = self._parts.cache / "registry" / config.repository
        place = Place(folder="" if host else str(layout), host=host,
                      repository=config.repository, insecure=config.insecure)
        address = config.address or os.environ.get("RAY_ADDRESS", "")
        if (address, place) not in self._rays:
            self._rays[address, place] = RayEngine(
                cluster=Cluster(address), place=place, wheels=self._packages.wheels,
                store=self._parts.store, environ=os.environ, say=self._parts.say,
                again=ray_record.again)
        return self._rays[address, place]

    def _blobs(self, config: Config) -> Fetch:
        """Blobs of images that were pushed as `config` says."""
        from toolchain.push import fetcher

        return fetcher(self._registry(config), self._parts.store)

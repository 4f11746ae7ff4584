"""All adapters of one call, each imported and made when it is first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.wiring import cuda, tracking
from toolchain.wiring.engines import Engines
from toolchain.wiring.packages import Packages
from toolchain.wiring.parts import Parts

if TYPE_CHECKING:
    from toolchain.adapters.bases import BaseImages
    from toolchain.adapters.compiler import PinnedCompiler
    from toolchain.adapters.debian import DebianArchive
    from toolchain.adapters.docker_engine import DockerEngine
    from toolchain.adapters.index_wheels import IndexWheels
    from toolchain.adapters.layout import Layout
    from toolchain.adapters.mlflow import Mlflow
    from toolchain.adapters.optuna import OptunaStudies
    from toolchain.adapters.rattler import Rattler
    from toolchain.adapters.remote import RemoteInputs
    from toolchain.adapters.sources import WheelsOfSources
    from toolchain.adapters.trials import MlflowTrials
    from toolchain.adapters.uv_resolver import UvResolver
    from toolchain.attest import Source
    from toolchain.config import Config
    from toolchain.lock.base import BasePins
    from toolchain.lock.image import ImagePins
    from toolchain.push import BlobSource, Registry
    from toolchain.run import Engine


class Adapters:
    """The tools of one workspace on this machine; implements toolchain.chain.Tools."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._packages = Packages(parts)
        self._engines = Engines(parts, self._packages, self.registry)
        self._registries: dict[tuple[object, ...], Registry] = {}
        self._trackers: dict[str, Mlflow] = {}
        self._studies: dict[str, OptunaStudies] = {}

    # Packages

    def resolver(self) -> UvResolver:
        return self._packages.resolver

    def sources(self) -> WheelsOfSources:
        return self._packages.sources

    def wheels(self) -> IndexWheels:
        return self._packages.wheels

    def conda(self, config: Config) -> Rattler:
        return self._packages.conda

    def cuda(self, config: Config) -> str:
        return cuda(config)

    def archive(self) -> DebianArchive:
        return self._packages.debian

    def debs(self) -> DebianArchive:
        return self._packages.debian

    def compiler(self, identity: str, what: BasePins | str, python: str) -> PinnedCompiler:
        from toolchain.adapters import debian_python
        from toolchain.adapters.compiler import PinnedCompiler, Program

        def program() -> Program:
            if isinstance(what, str):
                return self._packages.interpreters.compiler(what)
            return debian_python.program(
                what, python, self._parts.cache / "interpreters", self._parts.store,
                self._packages.debian.fetch)

        return PinnedCompiler(identity=identity, python=python, program=program)

    def has_python(self, version: str) -> bool:
        return self._packages.interpreters.exact(version) is not None

    # Images

    def images(self, config: Config) -> BaseImages:
        from toolchain.adapters.bases import BaseImages
        from toolchain.adapters.registry import HttpRegistry, address
        from toolchain.reference import host_name

        # `insecure` is said of the registry that is pushed to, and of no other.
        insecure = {*(host_name(text, "image.insecure")
                      for text in filter(None, config.image_insecure.split(","))),
                    *([address(config.registry)] if config.insecure else [])}

        def repository(host: str, name: str) -> HttpRegistry:
            return HttpRegistry(host, host, name, insecure=address(host) in insecure,
                                say=self._parts.say)

        return BaseImages(root=self._parts.root, hub=config.image_hub, store=self._parts.store,
                          progress=self._parts.progress, repository=repository,
                          engine=self.image_engine)

    def base_source(self, pins: ImagePins, config: Config) -> BlobSource:
        return self.images(config).source(pins)

    def image_engine(self) -> DockerEngine:
        return self._engines.docker

    def registry(self, config: Config) -> Registry:
        key = (config.registry, config.pull_registry, config.repository, config.insecure)
        if key not in self._registries:
            self._registries[key] = self._make_registry(config)
        return self._registries[key]

    def registry_name(self, config: Config) -> str:
        self.registry(config)  # raises for what is not one, such as a URL with a password
        return f"{config.registry} {config.pull_registry} {config.repository}"

    def layouts(self) -> Iterator[Layout]:
        from toolchain.adapters.layout import Layout

        cache = self._parts.cache
        for index in sorted((cache / "registry").rglob("index.json")):
            yield Layout(index.parent, index.parent.name, cache / "quarantine",
                         self._parts.journal)

    def _make_registry(self, config: Config) -> Registry:
        if config.registry:
            from toolchain.adapters.registry import HttpRegistry

            return HttpRegistry(config.registry, config.pull_registry or config.registry,
                                config.repository, insecure=config.insecure,
                                say=self._parts.say)
        from toolchain.adapters.layout import Layout
        from toolchain.reference import check_repository, pull_name

        name, host = check_repository(config.repository), pull_name(config.pull_registry)
        cache = self._parts.cache
        shown = f"{host}/{name}" if host else name
        return Layout(cache / "registry" / name, shown, cache / "quarantine", self._parts.journal)

    # Jobs and what they leave

    def engine(self, config: Config) -> Engine:
        return self._engines.engine(config)

    def processors(self) -> float:
        from toolchain.adapters import capacity

        return capacity.cpus()

    def tracking(self, config: Config) -> Mlflow:
        from toolchain.adapters.mlflow import Mlflow

        uri = tracking.tracking_uri(config)
        if uri not in self._trackers:
            self._trackers[uri] = Mlflow(uri, self._parts.root, self._parts.trace, os.environ,
                                         say=self._parts.say)
        return self._trackers[uri]

    def tracking_identity(self, config: Config) -> str:
        return tracking.tracking_identity(config)

    def experiment(self, config: Config) -> str:
        return tracking.experiment(config)

    def remote(self, config: Config) -> RemoteInputs:
        from toolchain.adapters.remote import RemoteInputs

        return RemoteInputs(self.tracking(config).uri)

    def studies(self, config: Config) -> OptunaStudies:
        from toolchain.adapters.optuna import OptunaStudies

        uri = config.sweep_storage or os.environ.get("OPTUNA_STORAGE", "")
        if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
            uri = f"sqlite:///{self._parts.root / uri.removeprefix('sqlite:///')}"
        uri = uri or f"sqlite:///{self._parts.cache.resolve() / 'sweeps.db'}"
        if uri not in self._studies:
            self._studies[uri] = OptunaStudies(uri, self._parts.trace)
        return self._studies[uri]

    def records(self, config: Config) -> MlflowTrials:
        from toolchain.adapters.trials import MlflowTrials

        return MlflowTrials(self.tracking(config))

    def source(self, folder: Path, files: Iterable[str]) -> Source:
        from toolchain.adapters import git

        return git.source(folder, files, os.environ.get("SOURCE_DATE_EPOCH", ""))

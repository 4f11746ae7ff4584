"""What chooses, finds and brings packages: of Python, of conda and of Debian."""

from __future__ import annotations

import os
from functools import cache, cached_property
from typing import TYPE_CHECKING

from toolchain.wiring.parts import Parts

if TYPE_CHECKING:
    from toolchain.adapters.debian import DebianArchive
    from toolchain.adapters.fetch import Fetcher
    from toolchain.adapters.file_places import FilePlaces
    from toolchain.adapters.index_wheels import IndexWheels
    from toolchain.adapters.interpreters import Interpreters
    from toolchain.adapters.rattler import Rattler
    from toolchain.adapters.repository import Repositories
    from toolchain.adapters.sources import WheelsOfSources
    from toolchain.adapters.uv import Uv
    from toolchain.adapters.uv_resolver import UvResolver


class Packages:
    """Each is made once, for all projects of a call: they share what was downloaded and asked."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @cached_property
    def _uv_environment(self) -> dict[str, str]:
        from toolchain.adapters.indexes import uv_environment

        return uv_environment(os.environ, self._parts.root)

    @cached_property
    def fetcher(self) -> Fetcher:
        from toolchain.adapters.fetch import Fetcher
        from toolchain.adapters.indexes import credentials

        return Fetcher(store=self._parts.store, progress=self._parts.progress,
                       credentials=credentials(self._uv_environment),
                       certificates=self._uv_environment.get("SSL_CERT_FILE"))

    @cached_property
    def interpreters(self) -> Interpreters:
        from toolchain.adapters.interpreters import Interpreters

        return Interpreters(os.environ, self._parts.say)

    @cached_property
    def uv(self) -> Uv:
        from toolchain.adapters.uv import Uv

        return Uv(environ=self._uv_environment, interpreter=cache(self.interpreters.find))

    @cached_property
    def _places(self) -> FilePlaces:
        from toolchain.adapters.file_places import FilePlaces

        return FilePlaces(self._parts.trace)

    @cached_property
    def resolver(self) -> UvResolver:
        from toolchain.adapters.uv_resolver import UvResolver

        return UvResolver(uv=self.uv, store=self._parts.store, trace=self._parts.trace,
                          places=self._places)

    @cached_property
    def sources(self) -> WheelsOfSources:
        from toolchain.adapters.sources import WheelsOfSources

        return WheelsOfSources(
            store=self._parts.store, trace=self._parts.trace, journal=self._parts.journal,
            fetcher=self.fetcher, repositories=self.repositories, environ=self._uv_environment,
            builder=self.uv, places=self._places)

    @cached_property
    def wheels(self) -> IndexWheels:
        from toolchain.adapters.index_wheels import IndexWheels

        return IndexWheels(uv=self.uv, resolver=self.resolver, sources=self.sources,
                           fetcher=self.fetcher, store=self._parts.store, trace=self._parts.trace,
                           places=self._places)

    @cached_property
    def conda(self) -> Rattler:
        from toolchain.adapters.rattler import Rattler

        return Rattler(root=self._parts.root, folder=self._parts.cache / "conda",
                       alias=self._parts.config.conda_alias, environ=os.environ,
                       fetcher=self.fetcher, store=self._parts.store, trace=self._parts.trace,
                       progress=self._parts.progress)

    @cached_property
    def repositories(self) -> Repositories:
        from toolchain.adapters.repository import Repositories

        return Repositories(self._parts.cache / "git", os.environ, self._parts.trace)

    @cached_property
    def debian(self) -> DebianArchive:
        from toolchain.adapters.debian import DebianArchive

        return DebianArchive(mirror=self._parts.config.image_mirror,
                             keyring=self._parts.config.image_keyring,
                             updates=self._parts.config.image_updates, fetcher=self.fetcher)

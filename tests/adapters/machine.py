"""A machine with a cache of its own and one package index, for the tests of uv."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.adapters.double import Answer, Request
from toolchain import lock
from toolchain.adapters.environments import Environments
from toolchain.adapters.fetch import Fetcher
from toolchain.adapters.file_places import FilePlaces
from toolchain.adapters.index_wheels import IndexWheels
from toolchain.adapters.repository import Repositories
from toolchain.adapters.sources import WheelsOfSources
from toolchain.adapters.uv import Uv
from toolchain.adapters.uv_resolver import UvResolver
from toolchain.digest import Digest
from toolchain.journal import Journal
from toolchain.lock import Lock, Package
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PLATFORM = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]


class Machine:
    """`index` is a folder of wheels and sdists, or with `url` a server's /simple/.

    `environ` takes the place of the settings that say so to uv.
    """

    def __init__(self, folder: Path, index: Path, url: str = "",
                 environ: Mapping[str, str] | None = None) -> None:
        self.index = index
        self.folder = folder
        index.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / "cache")
        self.store = Store(folder / "cache/blobs", folder / "cache/quarantine", journal)
        self.trace = Trace(folder / "cache", journal)
        where = environ or ({"UV_DEFAULT_INDEX": f"{url}/simple"} if url else {
            "UV_FIND_LINKS": str(index), "UV_NO_INDEX": "1", "UV_OFFLINE": "1"})
        uv = self.uv = Uv(
            environ={"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "*",
                     "UV_CACHE_DIR": str(folder / "uv"), "UV_PYTHON_DOWNLOADS": "never",
                     "UV_HTTP_RETRIES": "0", **where},
            interpreter=lambda version: Path(sys.executable))
        fetcher, places = Fetcher(store=self.store, progress=Progress()), FilePlaces(self.trace)
        self.environments = Environments(uv, self.store)
        self.resolver = UvResolver(uv=uv, store=self.store, trace=self.trace, places=places)
        self.sources = WheelsOfSources(
            store=self.store, trace=self.trace, journal=journal, fetcher=fetcher, builder=uv,
            repositories=Repositories(folder / "cache/git", os.environ, self.trace),
            environ=uv.environ, places=places)
        self.wheels = IndexWheels(
            uv=uv, resolver=self.resolver, sources=self.sources, fetcher=fetcher,
            store=self.store, trace=self.trace, places=places)

    def resolve(self, *requirements: str, preferred: tuple[Package, ...] = (),
                constraints: tuple[str, ...] = (), platform: str = PLATFORM,
                hashes: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> tuple[Package, ...]:
        return self.resolver.resolve(lock.Request(
            python=PYTHON, platform=platform, glibc="2.36", requirements=requirements,
            constraints=constraints, hashes=hashes), preferred)


def locked(*packages: Package) -> Lock:
    return Lock(python=PYTHON, platform=PLATFORM, packages=tuple(sorted(packages)),
                input=Digest.of(b""))


def package(path: Path, name: str, version: str) -> Package:
    """What a lock says of the file at `path`."""
    return Package(name=name, version=version, sha256=Digest.of(path.read_bytes()))


def simple_index(folder: Path) -> Callable[[Request], Answer]:
    """Serves a folder of wheels as a package index (PEP 503)."""
    def answer(request: Request) -> Answer:
        name = request.path.rstrip("/").rpartition("/")[2]
        if request.path.startswith("/files/"):
            path = folder / name
            return Answer(body=path.read_bytes()) if path.exists() else Answer(status=404)
        links = "".join(
            f'<a href="/files/{path.name}#sha256={Digest.of(path.read_bytes()).hex}">'
            f"{path.name}</a>" for path in sorted(folder.glob(f"{name}-*")))
        if not links:
            return Answer(status=404)
        return Answer(headers={"Content-Type": "text/html"}, body=links.encode())

    return answer

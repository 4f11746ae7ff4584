"""Locked packages -> wheels in the store: fetched from where they are, sdists built.

The bytes are fetched here and not by uv, since uv keeps them only unpacked.
"""

from __future__ import annotations

from toolchain.adapters.address import Address
from toolchain.adapters.compatible import host_platform
from toolchain.adapters.fetch import Fetcher
from toolchain.adapters.file_places import FilePlaces
from toolchain.adapters.indexes import credentials, with_options
from toolchain.adapters.scratch import scratch_folder
from toolchain.adapters.sources import WheelsOfSources
from toolchain.adapters.uv import Uv
from toolchain.adapters.uv_resolver import UvResolver
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer.wheel import Wheel
from toolchain.lock import Lock, Package, Request
from toolchain.store import Store
from toolchain.trace import Trace

_BUILT = "wheel"  # trace stage: sdist and platform -> {"sha256", "filename"}


class IndexWheels:
    """Implements toolchain.layer.WheelSource. What is of no index comes from `sources`."""

    def __init__(self, *, uv: Uv, resolver: UvResolver, sources: WheelsOfSources,
                 fetcher: Fetcher, store: Store, trace: Trace, places: FilePlaces) -> None:
        self._uv = uv
        self._resolver = resolver
        self._sources = sources
        self._fetcher = fetcher
        self._store = store
        self._trace = trace
        self._places = places

    def locate(self, packages: tuple[Package, ...], python: str, platform: str,
               options: tuple[str, ...] = ()) -> None:
        """Find out where files are to be had, for locks that were made elsewhere."""
        missing = tuple(p for p in packages if not p.source
                        and self._places.in_index(p.sha256) is None
                        and not (self._store.has(p.sha256) and self._places.find(p.sha256)))
        if not missing:
            return
        request = Request(
            python=python, platform=platform, constraints=(),
            requirements=tuple(f"{p.name}=={p.version}" for p in missing),
            hashes=tuple((p.name, (p.sha256.hex,)) for p in missing),
            options=tuple(line for line in options
                          if line.partition(" ")[0] not in ("--no-binary", "--only-binary")),
        )
        if self._resolver.compile(request, (), offline=True, deep=False) is not None:
            return
        try:
            self._resolver.compile(request, (), offline=False, deep=False)
        except ResolveError:
            # Another tool's lock says where its files are.
            if not all(self._places.find(p.sha256) for p in missing):
                raise

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...] = ()) -> Wheel:
        """The package's wheel, in the store, checked against the lock. sdists are built first.

        Raises ResolveError if it cannot be had, does not match its hash or cannot be built.
        """
        if package.source:
            return self._sources.wheel(package, python, platform, options)
        place = self._places.find(package.sha256)
        if place is None:
            raise ResolveError(
                f"{package.name} {package.version} with sha256 {package.sha256.hex} is in no "
                "package index that this machine knows", where="requirements.lock",
                fix="check pip's or uv's index settings, or pin again with upgrade=1",
            )
        with self._trace.holding("fetch", package.sha256):
            if not self._store.has(package.sha256):
                logins = credentials(with_options(self._uv.environ, options, None))
                self._fetcher.fetch(Address.of(place.url, self._uv.environ, logins),
                                    package.sha256, f"{package.name} {package.version}")
        if place.is_wheel:
            return Wheel(digest=package.sha256, filename=place.filename)
        return self._build(package, place.filename, python, platform, options)

    def here(self, package: Package, python: str, platform: str) -> Wheel | None:
        """The package's wheel if it is in the store; nothing is fetched or built."""
        if package.source:
            return self._sources.here(package, python, platform)
        place = self._places.find(package.sha256)
        if place is None:
            return None
        if place.is_wheel:
            found = Wheel(digest=package.sha256, filename=place.filename)
        else:
            built = self._trace.get(_BUILT, Digest.of_json(_build_plan(package, python, platform)))
            if built is None:
                return None
            found = Wheel(digest=Digest(built["sha256"]), filename=built["filename"])
        return found if self._store.has(found.digest) else None

    def stored(self, lock: Lock) -> tuple[Wheel, ...]:
        """The lock's wheels if all of them are in the store already, else nothing.

        A lock that names a folder or a repository cannot be installed by uv: its wheels are
        brought here.
        """
        if any(package.source for package in lock.packages):
            self.locate(lock.packages, lock.python, lock.platform, lock.options)
            return tuple(self.wheel(package, lock.python, lock.platform, lock.options)
                         for package in lock.packages)
        wheels = []
        for package in lock.packages:
            place = self._places.find(package.sha256)
            if (place is None or not place.is_wheel
                    or not self._store.has(package.sha256)):
                return ()
            wheels.append(Wheel(digest=package.sha256, filename=place.filename))
        return tuple(wheels)

    def _build(self, package: Package, filename: str, python: str, platform: str,
               options: tuple[str, ...]) -> Wheel:
        """Build an sdist into a wheel, once for each Python and platform."""
        if platform != host_platform():
            raise ResolveError(
                f"{package.name} {package.version} has no wheel for {platform}, and an sdist can "
                "only be built on that platform", where="requirements.lock",
                fix="pin a version that has a wheel, or build on that platform",
            )
        plan = _build_plan(package, python, platform)
        key = Digest.of_json(plan)
        with self._trace.holding(_BUILT, key):
            built = self._trace.get(_BUILT, key)
            if built is None or not self._store.has(Digest(built["sha256"])):
                built = self._build_now(package, filename, python, options)
                self._trace.record(_BUILT, key, plan, built)
        return Wheel(digest=Digest(built["sha256"]), filename=built["filename"])

    def _build_now(self, package: Package, filename: str, python: str,
                   options: tuple[str, ...]) -> dict[str, str]:
        with scratch_folder() as folder:
            sdist = folder / filename
            self._store.link(package.sha256, sdist)
            wheel = self._uv.build(sdist, python, options, f"{package.name} {package.version}")
            return {"sha256": self._store.put_file(wheel).hex, "filename": wheel.name}


def _build_plan(package: Package, python: str, platform: str) -> dict[str, str]:
    minor = ".".join(python.split(".")[:2])
    return {"sdist": package.sha256.hex, "python": minor, "platform": platform}

"""A Debian mirror: verified metadata, what a base and `apt` pin of it, and .deb files.

Trust comes from the archive's signature alone, never from the mirror: InRelease is checked against
Debian's keyring, it names the hashes of Packages, and those name the hashes of .debs.
Source: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import contextlib
import lzma
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

from toolchain.adapters.apt_sources import KEYRING, AptSource, apt_sources
from toolchain.adapters.clearsigned import verify
from toolchain.adapters.deb_index import DebIndex
from toolchain.adapters.fetch import Fetcher, NotThere
from toolchain.digest import Digest
from toolchain.errors import ResolveError, nearest
from toolchain.lock.base import (
    SUITES,
    AptPins,
    BasePins,
    DebianPackage,
    apt_name,
    below_apt,
)
from toolchain.lock.image import ImagePins
from toolchain.workers import Workers

# What an image needs besides Python: a shell and the tools that entry points expect, C++ and
# OpenMP for wheels, time zones and certificates.
SEEDS = ("python3", "libstdc++6", "libgomp1", "ca-certificates", "tzdata", "base-files",
          "base-passwd", "bash", "dash", "coreutils", "grep", "sed", "findutils", "libc-bin",
          "netbase")
_DOWNLOADS = 8
_CODENAMES = frozenset({*SUITES.values(), "bullseye", "sid", "stable", "oldstable", "testing",
                        "forky", "unstable"})


class DebianArchive:
    """Pins bases and fetches .debs. Empty `mirror` and `keyring` mean what apt itself uses."""

    def __init__(self, *, mirror: str, keyring: str, updates: bool, fetcher: Fetcher,
                 apt: Path = Path("/etc/apt")) -> None:
        self._mirror = mirror.rstrip("/")
        self._chosen_keyring = Path(keyring) if keyring else None
        self._updates = updates
        self._fetcher = fetcher
        self._apt = apt

    def pin(self, suite: str, platform: str) -> BasePins:
        return BasePins(suite=suite, platform=platform,
                        packages=self._index(suite, platform).closure(SEEDS, {}))

    def pin_more(self, on: BasePins | ImagePins, wanted: tuple[str, ...]) -> AptPins:
        index = self._index(on.suite, on.platform)
        for name in wanted:
            if name not in index.names:
                raise ResolveError(
                    f"{on.suite} has no package {name!r}{nearest(name, index.names)}",
                    where="apt", fix="name packages as apt does, such as libgl1")
        return AptPins(base=apt_name(on), on=below_apt(on), suite=on.suite,
                       platform=on.platform, wanted=wanted,
                       packages=index.closure(wanted, on.installed))

    def _index(self, suite: str, platform: str) -> DebIndex:
        """Every package of a suite, in all its versions."""
        index = DebIndex(suite)
        for source in self._sources(suite):
            text = self._packages(source, platform.partition("/")[2])
            if text is not None:
                index.add(text, "debian-security" if source.suite.endswith("-security")
                          else "debian")
        return index

    def fetch(self, pins: BasePins | AptPins) -> None:
        main, security = self._roots(pins.suite)

        def fetch(package: DebianPackage) -> None:
            root = security if package.archive == "debian-security" and security else main.root
            with _naming_the_setting():
                self._fetcher.fetch(f"{root}/{package.path}", package.sha256,
                                    f"{package.name} {package.version}")

        with Workers(_DOWNLOADS) as pool:
            pool.each(fetch, pins.packages)

    def _sources(self, suite: str) -> list[AptSource]:
        """The main archive of a suite, then updates and security if they are wanted."""
        main, security = self._roots(suite)
        sources = [main]
        # What apt itself does not use on this machine is not used here.
        if self._updates and (self._mirror or any(
                source.suite.endswith("-updates") for source in apt_sources(self._apt))):
            sources.append(replace(main, suite=f"{suite}-updates"))
        if self._updates and security:
            sources.append(replace(main, suite=f"{suite}-security", root=security))
        return sources

    def _roots(self, suite: str) -> tuple[AptSource, str | None]:
        """Where a suite's main archive is, and the root of the security archive if known."""
        if self._mirror:
            main = AptSource(root=self._mirror, suite=suite,
                          keyring=self._chosen_keyring or KEYRING)
            # Beside `…/debian`, mirrors have `…/debian-security`.
            beside = self._mirror.endswith("/debian")
            return main, f"{self._mirror}-security" if beside else None
        known = [source for source in apt_sources(self._apt)
                 if re.split("[-/]", source.suite)[0] in _CODENAMES]
        security = next((source.root for source in known if "security" in source.suite), None)
        plain = [source for source in known if not re.search("[-/]", source.suite)]
        chosen = next((source for source in plain if source.suite == suite), None) or next(
            iter(plain), None)
        if chosen is None:
            raise ResolveError(
                f"no Debian mirror is known for {suite}", where=str(self._apt),
                fix="set image.mirror to one, for example in pyproject.toml's [tool.toolchain]",
            )
        return replace(chosen, suite=suite,
                       keyring=self._chosen_keyring or chosen.keyring), security

    def _packages(self, source: AptSource, architecture: str) -> str | None:
        """The verified Packages file of a suite; None for an optional suite that is not there."""
        where = f"{source.root}/dists/{source.suite}"
        optional = "-" in source.suite
        try:
            with _naming_the_setting():
                signed = self._fetcher.get(f"{where}/InRelease", f"{source.suite} InRelease")
        except NotThere:
            # A mirror that was set need not have every suite. One that fails to answer is an
            # error: security updates are never left out in silence.
            if optional and self._mirror:
                return None
            raise
        release = verify(signed, source.keyring, f"{where}/InRelease")
        _check_release(release, source.suite, where)
        name = f"main/binary-{architecture}/Packages.xz"
        listed = re.search(rf"^ ([0-9a-f]{{64}}) +(\d+) {re.escape(name)}$", release,
                           re.MULTILINE)
        if listed is None:
            raise ResolveError(f"{source.suite} has no packages for {architecture}",
                               where=f"{where}/InRelease", fix="check image.platform")
        digest = Digest(listed[1])
        by_hash = f"{where}/main/binary-{architecture}/by-hash/SHA256/{digest.hex}"
        try:
            data = self._fetcher.get(by_hash, f"{source.suite} Packages")
        except NotThere:  # small mirrors have it only under its name
            with _naming_the_setting():
                data = self._fetcher.get(f"{where}/{name}", f"{source.suite} Packages")
        if len(data) != int(listed[2]) or Digest.of(data) != digest:
            raise ResolveError(f"hash mismatch: {name} is not what InRelease names",
                               where=f"{where}/{name}",
                               fix="the mirror is being updated or is damaged; try again, or set "
                                   "image.mirror to another")
        return lzma.decompress(data).decode()


@contextlib.contextmanager
def _naming_the_setting() -> Iterator[None]:
    """A mirror may have been taken from apt: say how another is set."""
    try:
        yield
    except ResolveError as error:
        raise type(error)(error.what, where=error.where,
                          fix=f"{error.fix}; or set image.mirror to another mirror") from None


def _check_release(release: str, suite: str, where: str) -> None:
    codename = re.search(r"^Codename: (.*)$", release, re.MULTILINE)
    if codename is None or codename[1] not in (suite, suite.removesuffix("-updates")):
        raise ResolveError(f"the mirror serves another suite than {suite}",
                           where=f"{where}/InRelease", fix="set image.mirror to another mirror")
    until = re.search(r"^Valid-Until: (.*)$", release, re.MULTILINE)
    if until is not None:
        moment = parsedate_to_datetime(until[1].replace("UTC", "+0000"))
        if moment < datetime.now(timezone.utc):
            raise ResolveError(f"the mirror's {suite} is out of date, valid until {until[1]}",
                               where=f"{where}/InRelease",
                               fix="set image.mirror to a mirror that is kept up")

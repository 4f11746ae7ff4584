"""A Debian mirror: verified metadata, the closure of a base, and .deb files.

Trust comes from the archive's signature alone, never from the mirror: InRelease is checked by gpgv
against Debian's keyring, it names the hashes of Packages, and those name the hashes of .debs.
Source: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import lzma
import re
import subprocess
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

from toolchain.adapters.fetch import Fetcher, NotThere
from toolchain.digest import Digest
from toolchain.errors import ResolveError, nearest, without_credentials
from toolchain.lock.base import SUITES, AptPins, BasePins, DebianPackage, apt_name
from toolchain.lock.image import ImagePins

# What an image needs besides Python: a shell and the tools that entry points expect, C++ and
# OpenMP for wheels, time zones and certificates.
_SEEDS = ("python3", "libstdc++6", "libgomp1", "ca-certificates", "tzdata", "base-files",
          "base-passwd", "bash", "dash", "coreutils", "grep", "sed", "findutils", "libc-bin",
          "netbase")
_DOWNLOADS = 8
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PRIORITIES = ("required", "important", "standard", "optional", "extra")
_CODENAMES = frozenset({*SUITES.values(), "bullseye", "sid", "stable", "oldstable", "testing",
                        "forky", "unstable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One line of apt's sources: an archive's root and a suite of it."""

    root: str
    suite: str
    keyring: Path


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A package paragraph of Packages, parsed when it is wanted."""

    paragraph: str
    archive: str

    def field(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*)$", self.paragraph, re.MULTILINE)
        return match[1] if match else ""


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
        index = self._index(suite, platform)
        return BasePins(suite=suite, platform=platform,
                        packages=_pinned(_closure(_SEEDS, index, suite, {})))

    def pin_more(self, on: BasePins | ImagePins, wanted: tuple[str, ...]) -> AptPins:
        index = self._index(on.suite, on.platform)
        for name in wanted:
            if name not in index:
                raise ResolveError(f"{on.suite} has no package {name!r}{nearest(name, index)}",
                                   where="apt", fix="name packages as apt does, such as libgl1")
        chosen = _closure(wanted, index, on.suite, on.installed)
        return AptPins(base=apt_name(on), on=Digest.of_json(on.to_json()), suite=on.suite,
                       platform=on.platform, wanted=wanted, packages=_pinned(chosen))

    def _index(self, suite: str, platform: str) -> dict[str, list[_Candidate]]:
        """Every package of a suite by name, in all its versions."""
        architecture = platform.partition("/")[2]
        index: dict[str, list[_Candidate]] = {}
        for source in self._sources(suite):
            text = self._packages(source, architecture)
            if text is None:
                continue
            archive = "debian-security" if source.suite.endswith("-security") else "debian"
            for paragraph in text.split("\n\n"):
                if paragraph.startswith("Package: "):
                    name = paragraph[9 : paragraph.find("\n")]
                    index.setdefault(name, []).append(
                        _Candidate(paragraph=paragraph, archive=archive))
        return index

    def fetch(self, pins: BasePins | AptPins) -> None:
        main, security = self._roots(pins.suite)

        def fetch(package: DebianPackage) -> None:
            root = security if package.archive == "debian-security" and security else main.root
            self._fetcher.fetch(f"{root}/{package.path}", package.sha256,
                                f"{package.name} {package.version}")

        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            list(pool.map(fetch, pins.packages))

    def _sources(self, suite: str) -> list[Source]:
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

    def _roots(self, suite: str) -> tuple[Source, str | None]:
        """Where a suite's main archive is, and the root of the security archive if known."""
        if self._mirror:
            main = Source(root=self._mirror, suite=suite,
                          keyring=self._chosen_keyring or _KEYRING)
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

    def _packages(self, source: Source, architecture: str) -> str | None:
        """The verified Packages file of a suite; None for an optional suite that is not there."""
        where = f"{source.root}/dists/{source.suite}"
        optional = "-" in source.suite
        try:
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
            data = self._fetcher.get(f"{where}/{name}", f"{source.suite} Packages")
        if len(data) != int(listed[2]) or Digest.of(data) != digest:
            raise ResolveError(f"hash mismatch: {name} is not what InRelease names",
                               where=f"{where}/{name}",
                               fix="the mirror is being updated or is damaged; try again, or set "
                                   "image.mirror to another")
        return lzma.decompress(data).decode()


def verify(signed: bytes, keyring: Path, where: str) -> str:
    """The text of a clear-signed document whose signature is good.

    Raises ResolveError if it is not, or cannot be checked on this machine.
    """
    if not keyring.exists():
        raise ResolveError("Debian's keyring is not on this machine", where=str(keyring),
                           fix="install the package debian-archive-keyring")
    with tempfile.TemporaryDirectory(prefix="toolchain-") as folder:
        document = Path(folder, "InRelease")
        document.write_bytes(signed)
        text = Path(folder, "Release")
        try:
            done = subprocess.run(
                ["gpgv", "--quiet", "--keyring", str(keyring.resolve()), "--output", str(text),
                 str(document)],
                capture_output=True, text=True, errors="replace",
            )
        except FileNotFoundError:
            raise ResolveError("gpgv is not on this machine", where="PATH",
                               fix="install the package gpgv") from None
        if done.returncode or not text.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ResolveError(
                f"the archive's signature is not good: {lines[-1] if lines else 'no signature'}",
                where=without_credentials(where),
                fix="do not use this mirror; or install a newer debian-archive-keyring",
            )
        # Only what was signed: text around the signed part of `signed` is not in it.
        return text.read_text()


def apt_sources(apt: Path) -> list[Source]:
    """apt's sources in both formats (sources.list(5)), binary packages only."""
    sources: list[Source] = []
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            sources.extend(_deb822_sources(text))
        elif path.suffix == ".list":
            sources.extend(_line_sources(text))
    return sources


def _deb822_sources(text: str) -> Iterator[Source]:
    from debian.deb822 import Deb822

    for entry in Deb822.iter_paragraphs(text):
        if entry.get("Enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "deb" not in entry.get("Types", "").split():
            continue
        keyring = _keyring(entry.get("Signed-By", "").strip())
        for root in entry.get("URIs", "").split():
            for suite in entry.get("Suites", "").split():
                if "main" not in entry.get("Components", "").split():
                    continue  # a vendor's own archive, though it may name its suites as Debian
                yield Source(root=root.rstrip("/"), suite=suite, keyring=keyring)


def _line_sources(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)(.*)", line.strip())
        if match and "main" in match[4].partition("#")[0].split():
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            yield Source(root=match[2].rstrip("/"), suite=match[3],
                         keyring=_keyring(signed[1] if signed else ""))


def _keyring(signed_by: str) -> Path:
    # gpgv reads binary keyrings; a key within the file or an armored one falls back to Debian's.
    path = Path(signed_by.split(",")[0]) if signed_by.startswith("/") else _KEYRING
    return path if path.suffix == ".gpg" else _KEYRING


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


def _pinned(chosen: dict[str, _Candidate]) -> tuple[DebianPackage, ...]:
    return tuple(
        DebianPackage(
            name=name, version=found.field("Version"), architecture=found.field("Architecture"),
            archive=found.archive, path=found.field("Filename"), size=int(found.field("Size")),
            sha256=Digest(found.field("SHA256")),
        )
        for name, found in sorted(chosen.items())
    )


def _closure(seeds: Iterable[str], index: dict[str, list[_Candidate]], suite: str,
             installed: Mapping[str, str]) -> dict[str, _Candidate]:
    """The seeds and all they depend on, each in its newest version, less what is installed.

    Raises ResolveError where something needs another version than the one that is installed.
    """
    providers: dict[str, list[str]] = {}
    for name, candidates in index.items():
        for candidate in candidates:
            if "\nProvides: " in candidate.paragraph:
                for provided in candidate.field("Provides").split(","):
                    providers.setdefault(provided.split()[0], []).append(name)
    chosen: dict[str, _Candidate] = {}
    wanted = list(seeds)
    while wanted:
        name = wanted.pop()
        if name in chosen or name in installed:
            continue
        if name not in index:
            raise ResolveError(f"{suite} has no package {name}", where="the Debian mirror",
                               fix="set image.mirror to a complete mirror")
        chosen[name] = _newest(index[name])
        for kind in ("Pre-Depends", "Depends"):
            for clause in filter(None, chosen[name].field(kind).split(",")):
                other = _alternative(clause, index, providers, {*chosen, *installed}, name, suite)
                _check_installed(clause, other, installed, name)
                wanted.append(other)
    return chosen


def _check_installed(clause: str, name: str, installed: Mapping[str, str], needed_by: str) -> None:
    """Raise ResolveError if the installed version is not one that the clause allows."""
    from debian.debian_support import Version

    if name not in installed:
        return
    for part in clause.split("|"):
        match = re.match(r"([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*\((<<|<=|=|>=|>>)\s*([^)]+)\)",
                         part.strip())
        if match is None or match[1] != name:
            continue
        has, wants = Version(installed[name]), Version(match[3].strip())
        allowed = {"<<": has < wants, "<=": has <= wants, "=": has == wants,
                   ">=": has >= wants, ">>": has > wants}
        if not allowed[match[2]]:
            raise ResolveError(
                f"{needed_by} needs {part.strip()}, and the base has {name} {installed[name]}",
                where="apt", fix="pin the base anew: doit resolve upgrade=1")


def _newest(candidates: list[_Candidate]) -> _Candidate:
    from debian.debian_support import Version

    return max(candidates, key=lambda candidate: Version(candidate.field("Version")))


def _alternative(clause: str, index: dict[str, list[_Candidate]], providers: dict[str, list[str]],
                 chosen: Container[str], needed_by: str, suite: str) -> str:
    """The package that meets `a (>= 1) | b`: one that is chosen already, else the first."""
    names = [re.split(r"[\s(:\[]", part.strip())[0] for part in clause.split("|")]
    for name in names:
        if name in chosen or any(other in chosen for other in providers.get(name, ())):
            return name if name in chosen else next(
                other for other in providers[name] if other in chosen)
    for name in names:
        if name in index:
            return name
        if providers.get(name):
            return min(providers[name], key=lambda other: (
                _PRIORITIES.index(index[other][0].field("Priority") or "extra"), other))
    raise ResolveError(f"{suite} has nothing that meets {clause.strip()!r} of {needed_by}",
                       where="the Debian mirror", fix="set image.mirror to a complete mirror")

"""Resolver, wheels and virtual environments with uv, called as a program.

uv decides versions and talks to indexes; the bytes of wheels are fetched here, into the store,
since uv keeps them only unpacked. Where a file is to be had (its URL) is a hint on this machine's
record, never part of a lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.adapters.compatible import best_file, host_platform, machine_of, tag_ranks
from toolchain.adapters.existing import pick
from toolchain.adapters.fetch import Fetcher
from toolchain.adapters.indexes import credentials, with_options
from toolchain.adapters.provided import for_uv
from toolchain.adapters.repository import Repositories
from toolchain.adapters.sources import Sources
from toolchain.digest import Digest
from toolchain.errors import ResolveError, without_credentials
from toolchain.journal import Journal
from toolchain.layer.wheel import Wheel
from toolchain.lock import Lock, Package, Place, Request, Settled
from toolchain.spec.options import Options
from toolchain.spec.source import Source
from toolchain.store import Store
from toolchain.trace import Trace

_NEWEST_GLIBC = (2, 50)
_WHERE = "file"  # trace stage: sha256 of an index's file -> {"url", "filename"}
_LOCKED = "locked file"  # the same, as another tool's lock has it: taken where no index has it
_BUILT = "wheel"  # trace stage: sdist and platform -> {"sha256", "filename"}


def uv_program() -> str:
    """The uv that was installed with this package."""
    import uv

    return uv.find_uv_bin()


class Uv:
    """Resolver, wheel source and maker of environments.

    `environ` is uv's environment (see adapters.indexes); `interpreter` finds a Python by version.
    """

    def __init__(self, *, environ: Mapping[str, str], interpreter: Callable[[str], Path],
                 fetcher: Fetcher, store: Store, trace: Trace, journal: Journal,
                 repositories: Repositories) -> None:
        self._environ = dict(environ)
        self._interpreter = interpreter
        self._fetcher = fetcher
        self._store = store
        self._trace = trace
        self._sources = Sources(store=store, trace=trace, journal=journal, fetcher=fetcher,
                                repositories=repositories, environ=environ, note=self._note_at)

    # Resolver

    def look(self, source: Source, place: Place) -> Any:
        return self._sources.look(source, place)

    def settle(self, source: Source, request: Request, preferred: tuple[Package, ...]) -> Settled:
        return self._sources.settle(source, request, preferred, self)

    def resolve(self, request: Request, preferred: tuple[Package, ...]) -> tuple[Package, ...]:
        if request.existing is not None:
            return self._as_locked(request)
        known = self._known(request)
        # Without the network uv answers in a tenth of the time, but it may fall back to whatever
        # old version it happens to remember. So its answer counts only if this workspace has
        # pinned all of it before.
        found = None
        if known:
            found = self._compile(request, preferred, offline=True)
            if found is not None and not {(p.name, p.version) for p in found
                                          if not p.source} <= known:
                found = None
        if found is None:
            found = self._compile(request, preferred, offline=False)
            assert found is not None
        key = Digest.of_json({"known": request.python, "platform": request.platform,
                              "pins": [package.to_json() for package in found]})
        self._trace.note("pins", key, {
            "python": request.python, "platform": request.platform,
            "pins": [[package.name, package.version] for package in found],
        })
        return found

    def _as_locked(self, request: Request) -> tuple[Package, ...]:
        found = []
        ranks = tag_ranks(request.python, request.platform, _glibc(request))
        for package, url, filename in pick(request, ranks):
            if "://" in url:
                value = {"url": without_credentials(url), "filename": filename}
                if self._trace.get(_LOCKED, package.sha256) != value:
                    self._trace.note(_LOCKED, package.sha256, value)
            found.append(package)
        return tuple(sorted(found))

    def _known(self, request: Request) -> set[tuple[str, str]]:
        return {
            (name, version)
            for entry in self._trace.values("pins")
            if entry["python"] == request.python and entry["platform"] == request.platform
            for name, version in entry["pins"]
        }

    def _compile(self, request: Request, preferred: tuple[Package, ...], *,
                 offline: bool, deep: bool = True) -> tuple[Package, ...] | None:
        """Run `uv pip compile`; None if it could not answer without the network."""
        with tempfile.TemporaryDirectory(prefix="toolchain-") as name:
            folder = Path(name)
            wanted = folder / "requirements.in"
            wanted.write_text("".join(f"{line}\n" for line in (
                *request.requirements, *self._places(request, folder))))
            answer = folder / "pylock.toml"
            if preferred:  # uv keeps the versions of a lock that it is about to replace
                answer.write_text('lock-version = "1.0"\ncreated-by = "toolchain"\n' + "".join(
                    f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n'
                    for package in preferred
                ))
            command = ["pip", "compile", "--quiet", "--no-progress",
                       "--format", "pylock.toml", "--output-file", str(answer),
                       "--python-version", request.python,
                       "--python-platform", _platform(request)]
            links, pins = for_uv(request.provided, folder, self._environ)
            command += links
            if request.constraints or pins:
                constraints = folder / "constraints.txt"
                constraints.write_text("".join(f"{line}\n"
                                               for line in (*request.constraints, *pins)))
                command += ["--constraint", str(constraints)]
            interpreter = self._interpreter_or_none(request.python)
            if interpreter:
                command += ["--python", str(interpreter)]
            if offline:
                command.append("--offline")
            if not deep:
                command.append("--no-deps")
            options = Options.from_lines(request.options)
            for name in sorted(options.no_binary):
                command += ["--no-binary", name]
            for name in sorted(options.only_binary):
                command += ["--only-binary", name]
            done = self._run([*command, str(wanted)], folder, options=request.options,
                             home=request.place.folder if request.place else None)
            if done.returncode:
                if offline:
                    return None
                raise _resolution_error(done.stderr, request)
            return tuple(sorted(self._choose(_toml(answer), request)))

    def _places(self, request: Request, folder: Path) -> Iterable[str]:
        """The wheels of what is of no index, as requirements; they are linked into `folder`."""
        for number, item in enumerate(request.settled):
            place = folder / str(number) / item.filename
            place.parent.mkdir()
            self._store.link(item.wheel, place)
            extras = f"[{','.join(item.source.extras)}]" if item.source.extras else ""
            marker = f" ; {item.source.marker}" if item.source.marker else ""
            yield f"{item.package.name}{extras} @ {place.as_uri()}{marker}"

    def _choose(self, answer: dict[str, Any], request: Request) -> Iterable[Package]:
        """One file for each package: the best wheel for the image, else the sdist."""
        from packaging.utils import canonicalize_name

        ranks = tag_ranks(request.python, request.platform, _glibc(request))
        insisted = dict(request.hashes)
        provided = dict(request.provided)
        settled = {item.package.name: item.package for item in request.settled}
        options = Options.from_lines(request.options)
        for entry in answer.get("packages", []):
            name = canonicalize_name(entry["name"])
            if name in provided:
                continue
            if name in settled:
                yield settled[name]
                continue
            if options.no_binary & {name, ":all:"}:
                entry.pop("wheels", None)
            if options.only_binary & {name, ":all:"}:
                entry.pop("sdist", None)
            if "version" not in entry:
                raise ResolveError(f"{name} has no version", where="uv pip compile",
                                   fix="require a release from an index")
            allowed = insisted.get(name)
            file = best_file(entry, ranks, allowed)
            if file is None:
                raise ResolveError(
                    f"no file of {name} {entry['version']} fits Python {request.python} on "
                    f"{request.platform}" + (" with the hashes given for it" if allowed else ""),
                    where="the package index",
                    fix="allow another version, or another Python",
                )
            digest = Digest(file["hashes"]["sha256"])
            self._note(digest, file)
            yield Package(name=name, version=entry["version"], sha256=digest)

    def _note(self, digest: Digest, file: dict[str, Any]) -> None:
        """Keep where a file is to be had, for when it is fetched."""
        url = file.get("url") or Path(file["path"]).as_uri()
        filename = file.get("name") or unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        self._note_at(digest, url, filename)

    def _note_at(self, digest: Digest, url: str, filename: str) -> None:
        value = {"url": without_credentials(url), "filename": filename}
        if self._trace.get(_WHERE, digest) != value:
            self._trace.note(_WHERE, digest, value)

    # Wheels

    def locate(self, packages: tuple[Package, ...], python: str, platform: str,
               options: tuple[str, ...] = ()) -> None:
        """Find out where files are to be had, for locks that were made elsewhere."""
        environ = with_options(self._environ, options, None)
        for host, (user, password) in credentials(environ).items():
            self._fetcher.know(host, user, password)
        missing = tuple(p for p in packages if not p.source
                        and self._trace.get(_WHERE, p.sha256) is None
                        and not self._store.has(p.sha256))
        if not missing:
            return
        request = Request(
            python=python, platform=platform, constraints=(),
            requirements=tuple(f"{p.name}=={p.version}" for p in missing),
            hashes=tuple((p.name, (p.sha256.hex,)) for p in missing),
            options=tuple(line for line in options if "binary" not in line),
        )
        if self._compile_quietly(request, offline=True) is not None:
            return
        try:
            self._compile(request, (), offline=False, deep=False)
        except ResolveError:
            # Another tool's lock says where its files are.
            if not all(self._trace.get(_LOCKED, p.sha256) for p in missing):
                raise

    def _compile_quietly(self, request: Request, *, offline: bool) -> object | None:
        try:
            return self._compile(request, (), offline=offline, deep=False)
        except ResolveError:
            return None

    def wheel(self, package: Package, python: str, platform: str,
              options: tuple[str, ...] = ()) -> Wheel:
        """The package's wheel, in the store, checked against the lock. sdists are built first.

        Raises ResolveError if it cannot be had, does not match its hash or cannot be built.
        """
        if package.source:
            built = self._sources.wheel(package, python, platform, self, options)
            if built is not None:
                return built
        hint = self._hint(package)
        if hint is None:
            raise ResolveError(
                f"{package.name} {package.version} with sha256 {package.sha256.hex} is in no "
                "package index that this machine knows", where="requirements.lock",
                fix="check pip's or uv's index settings, or pin again with upgrade=1",
            )
        with self._trace.holding("fetch", package.sha256):
            if not self._store.has(package.sha256):
                self._fetcher.fetch(hint["url"], package.sha256,
                                    f"{package.name} {package.version}")
        if hint["filename"].endswith(".whl"):
            return Wheel(digest=package.sha256, filename=hint["filename"])
        return self._build(package, hint["filename"], python, platform, options)

    def _hint(self, package: Package) -> Any:
        return (self._trace.get(_WHERE, package.sha256)
                or self._trace.get(_LOCKED, package.sha256))

    def here(self, package: Package, python: str, platform: str) -> Wheel | None:
        """The package's wheel if it is in the store; nothing is fetched or built."""
        if package.source and (known := self._sources.here(package, python, platform)):
            return known
        hint = self._hint(package)
        if hint is None:
            return None
        if hint["filename"].endswith(".whl"):
            found = Wheel(digest=package.sha256, filename=hint["filename"])
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
            hint = self._hint(package)
            if (hint is None or not hint["filename"].endswith(".whl")
                    or not self._store.has(package.sha256)):
                return ()
            wheels.append(Wheel(digest=package.sha256, filename=hint["filename"]))
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
        with tempfile.TemporaryDirectory(prefix="toolchain-") as name:
            sdist = Path(name) / filename
            self._store.link(package.sha256, sdist)
            wheel = self.build(sdist, python, options, f"{package.name} {package.version}")
            return {"sha256": self._store.put(wheel.read_bytes()).hex, "filename": wheel.name}

    def build(self, what: Path, python: str, options: tuple[str, ...], title: str) -> Path:
        """Build a source folder or archive into a wheel; implements sources.Builder."""
        out = what.parent / "out"
        done = self._run(["build", "--wheel", "--python", str(self._interpreter(python)),
                          "--no-create-gitignore", "--out-dir", str(out), str(what)], what.parent,
                         options=options, SOURCE_DATE_EPOCH="315532800")
        wheels = list(out.glob("*.whl")) if not done.returncode else []
        if not wheels:
            raise ResolveError(
                f"{title} has no wheel and its source does not build: "
                f"{_last_lines(done.stderr)}", where=title,
                fix="pin a version that has a wheel, or install what its build needs",
            )
        return wheels[0]

    # Environments

    def environment(self, folder: Path, lock_text: str, wheels: tuple[Wheel, ...],
                    python: str, options: tuple[str, ...] = ()) -> None:
        """Make a virtual environment with exactly the locked packages.

        With `wheels` nothing is fetched; without, uv takes what its cache has before it asks the
        network. Raises EngineError or ResolveError.
        """
        done = self._run(["venv", "--quiet", "--no-project", "--python",
                          str(self._interpreter(python)), str(folder)], folder.parent)
        if done.returncode:
            raise ResolveError(f"no environment could be made: {_last_lines(done.stderr)}",
                               where=str(folder), fix="check that the Python works")
        if not lock_text.strip():
            return
        with tempfile.TemporaryDirectory(prefix="toolchain-") as name:
            scratch = Path(name)
            lock = scratch / "requirements.txt"
            command = ["pip", "install", "--quiet", "--no-deps", "--no-progress", "--python",
                       str(folder / "bin" / "python"), "--requirement", str(lock)]
            if wheels:
                for wheel in wheels:
                    self._store.link(wheel.digest, scratch / wheel.filename)
                lock.write_text("".join(f"./{wheel.filename}\n" for wheel in wheels))
                tries = [["--offline", "--no-index"]]
            else:
                lock.write_text(lock_text)
                tries = [["--require-hashes", "--offline"], ["--require-hashes"]]
            for extra in tries:
                done = self._run([*command, *extra], scratch, options=options)
                if not done.returncode:
                    return
            raise ResolveError(
                f"the locked packages cannot be installed: {_last_lines(done.stderr)}",
                where=str(folder), fix="read uv's message; pin again with upgrade=1 if a file is "
                                       "gone from the index",
            )

    # Common

    def _run(self, arguments: list[str], cwd: Path, *, options: tuple[str, ...] = (),
             home: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        environ = with_options(self._environ, options, home)
        if environ.get("UV_NO_INDEX") == "1" and arguments[0] == "pip" \
                and "--no-index" not in arguments:
            arguments = [*arguments, "--no-index"]  # uv reads no such variable
        return subprocess.run(
            [uv_program(), *arguments], cwd=cwd, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, errors="replace",
            env={**environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", **extra},
        )

    def _interpreter_or_none(self, python: str) -> Path | None:
        from toolchain.errors import EngineError

        try:
            return self._interpreter(python)
        except EngineError:
            return None  # resolving needs one only to build sdists; uv then says so


def _glibc(request: Request) -> tuple[int, int]:
    """The image's C library. Where hashes are given, they decide, not what it can load."""
    if not request.glibc:
        return _NEWEST_GLIBC
    major, minor = request.glibc.split(".")[:2]
    return int(major), int(minor)


def _platform(request: Request) -> str:
    """The image's platform in uv's words, which end at glibc 2.40."""
    major, minor = _glibc(request)
    return f"{machine_of(request.platform)}-manylinux_{major}_{min(minor, 40)}"


def _build_plan(package: Package, python: str, platform: str) -> dict[str, str]:
    minor = ".".join(python.split(".")[:2])
    return {"sdist": package.sha256.hex, "python": minor, "platform": platform}


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text())


def _resolution_error(stderr: str, request: Request) -> ResolveError:
    text = without_credentials(re.sub(r"\x1b\[[0-9;]*m", "", stderr)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    offline = re.search(r"(dns error|error sending request|Connection refused|timed out|"
                        r"Could not connect|tcp connect error|client error \(Connect\))", text)
    if offline:
        return ResolveError(
            f"the package index cannot be reached: {' '.join(lines)[:400]}",
            where="uv pip compile",
            fix="check the network and pip's or uv's index settings; a committed "
                "requirements.lock needs no index to be resolved",
        )
    return ResolveError(
        f"the requirements cannot be met: {' '.join(lines)[:1200]}",
        where=f"requirements for Python {request.python} on {request.platform}",
        fix="loosen one of the requirements named above" + (
            ", or ask conda for another version of what it provides" if request.provided else ""),
    )


def _last_lines(stderr: str) -> str:
    text = without_credentials(re.sub(r"\x1b\[[0-9;]*m", "", stderr)).strip()
    return " ".join(line.strip() for line in text.splitlines()[-12:])[:1200]


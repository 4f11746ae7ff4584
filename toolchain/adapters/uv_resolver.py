"""Request -> pinned packages: uv decides versions, this module which file of each.

An answer counts as one only if every package has a file for the image's Python, platform and C
library, or an sdist.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from toolchain.adapters import provided
from toolchain.adapters.compatible import best_file, machine_of, tag_ranks
from toolchain.adapters.existing import pick
from toolchain.adapters.file_places import FilePlaces
from toolchain.adapters.scratch import scratch_folder
from toolchain.adapters.uv import Uv, said
from toolchain.adapters.variables import put_back, values
from toolchain.digest import Digest
from toolchain.errors import ResolveError, UnmetError
from toolchain.lock import Package, Request
from toolchain.spec.options import Options
from toolchain.store import Store
from toolchain.trace import Trace

_NEWEST_GLIBC = (2, 50)


class UvResolver:
    """Implements toolchain.lock.Resolver. `places` learns where the chosen files are."""

    def __init__(self, *, uv: Uv, store: Store, trace: Trace, places: FilePlaces) -> None:
        self._uv = uv
        self._store = store
        self._trace = trace
        self._places = places

    def resolve(self, request: Request, preferred: tuple[Package, ...]) -> tuple[Package, ...]:
        if request.existing is not None:
            return self._as_locked(request)
        known = self._known(request)
        # Without the network uv answers in a tenth of the time, but it may fall back to whatever
        # old version it happens to remember. So its answer counts only if this workspace has
        # pinned all of it before.
        found = None
        if known:
            found = self.compile(request, preferred, offline=True)
            if found is not None and not {(p.name, p.version) for p in found
                                          if not p.source} <= known:
                found = None
        if found is None:
            found = self.compile(request, preferred, offline=False)
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
                self._places.note_locked(package.sha256, self._written(url, request), filename)
            found.append(package)
        return tuple(sorted(found))

    def _known(self, request: Request) -> set[tuple[str, str]]:
        return {
            (name, version)
            for entry in self._trace.values("pins")
            if entry["python"] == request.python and entry["platform"] == request.platform
            for name, version in entry["pins"]
        }

    def compile(self, request: Request, preferred: tuple[Package, ...], *,
                 offline: bool, deep: bool = True) -> tuple[Package, ...] | None:
        """Run `uv pip compile`; None if it could not answer without the network.

        A page of the index that uv remembers may lack a file: only what the index says now is an
        answer that something cannot be had. Raises ResolveError, where not `offline`.
        """
        with scratch_folder() as folder:
            wanted = folder / "requirements.in"
            wanted.write_text("".join(f"{line}\n" for line in (
                *request.requirements, *self._linked(request, folder))))
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
            pins = provided.constraints(
                request.provided, {item.package.name for item in request.settled}, folder)
            if request.constraints or pins:
                constraints = folder / "constraints.txt"
                constraints.write_text("".join(f"{line}\n"
                                               for line in (*request.constraints, *pins)))
                command += ["--constraint", str(constraints)]
            interpreter = self._uv.interpreter_or_none(request.python)
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
            done = self._uv.run([*command, str(wanted)], folder, options=request.options,
                             home=request.place.folder if request.place else None)
            if done.returncode:
                if offline:
                    return None
                raise _resolution_error(done.stderr, request)
            try:
                return tuple(sorted(self._choose(_toml(answer), request)))
            except ResolveError:
                if offline:
                    return None
                raise

    def _linked(self, request: Request, folder: Path) -> Iterable[str]:
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
        of_conda = dict(request.provided)
        settled = {item.package.name: item.package for item in request.settled}
        options = Options.from_lines(request.options)
        for entry in answer.get("packages", []):
            name = canonicalize_name(entry["name"])
            if name in of_conda:
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
            self._note(digest, file, request)
            yield Package(name=name, version=entry["version"], sha256=digest)

    def _note(self, digest: Digest, file: dict[str, Any], request: Request) -> None:
        """Keep where a file is to be had, for when it is fetched."""
        url = file.get("url") or Path(file["path"]).as_uri()
        filename = file.get("name") or unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        self._places.note(digest, self._written(url, request), filename)

    def _written(self, url: str, request: Request) -> str:
        """A URL of an answer, as it may be put on record: with `${NAME}` where the project wrote it
        into an index's address, and nowhere else: nobody's page may ask for a variable."""
        return put_back(url.replace("${", "%24{"), values(request.options, self._uv.environ))


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


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text())


def _resolution_error(stderr: str, request: Request) -> ResolveError:
    text = said(stderr)
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
    where = f"requirements for Python {request.python} on {request.platform}"
    if "No solution found" not in text:
        return UnmetError(f"uv cannot resolve the requirements: {' '.join(lines)[:1200]}",
                          where=where, fix="mend what it names")
    return UnmetError(
        f"the requirements cannot be met: {' '.join(lines)[:1200]}", where=where,
        fix="loosen one of the requirements named above" + (
            ", or ask conda for another version of what it provides" if request.provided else ""),
    )

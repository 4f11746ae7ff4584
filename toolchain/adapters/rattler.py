"""Conda packages chosen and fetched with rattler, the solver and client of conda's file formats.

rattler decides versions and talks to channels; what comes is checked here against the lock, into
the store. It is not needed where the lock is current and its packages are in the store.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolchain.adapters.conda_channels import Channel, Channels, require
from toolchain.adapters.fetch import Fetcher
from toolchain.digest import Digest
from toolchain.errors import ResolveError, StoreError, UnmetError, without_credentials
from toolchain.layer.conda import distributions
from toolchain.lock.conda import CondaPackage, CondaRequest, Described, Unreachable
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.workfolder import work_folder

_PACKAGE = Path(__file__).parents[1]
_START = "from toolchain.adapters.rattler_process import main; main()"
_AWAY = re.compile(r"error sending request|tcp connect|dns error|timed out|Connection refused|"
                   r"client error \(Connect\)|Request failed after|status server error",
                   re.IGNORECASE)
_DENIED = re.compile(r"\((401|403) [A-Za-z ]+\)")


class Rattler:
    """Implements CondaSolver and CondaSource.

    `folder` keeps what channels answered; for `root`, `alias` and `environ` see Channels.
    """

    def __init__(self, *, root: Path, folder: Path, alias: str, environ: Mapping[str, str],
                 fetcher: Fetcher, store: Store, trace: Trace, progress: Progress) -> None:
        self._folder = folder
        self._environ = environ
        self._fetcher = fetcher
        self._store = store
        self._trace = trace
        self._progress = progress
        self._channels = Channels(root=root, alias=alias, environ=environ)

    # CondaSolver

    def solve(self, request: CondaRequest,
              preferred: tuple[CondaPackage, ...]) -> tuple[CondaPackage, ...]:
        require()
        channels = [self._channels.find(text) for text in request.channels]
        for channel in channels:
            self._channels.check(channel)
        specs = [self._spec(text) for text in request.packages]
        if not any(re.match(r"(.*::)?python(?![a-z0-9_.-])", text) for text in request.packages):
            specs.append("python")  # the runner needs one
        answer = next(self._ask(channels, {
            "do": "solve", "folder": str(self._folder), "subdir": request.subdir, "specs": specs,
            "kept": [[item.name, item.file, item.sha256.hex] for item in preferred],
            "virtual": request.virtual}))
        found = self._packages(answer["records"], channels)
        if not request.pip:
            return tuple(sorted(found))
        with_python = [any(re.match(r"(python|python_abi)(?![a-z0-9_.-])", text)
                           for text in record["described"]["depends"])
                       for record in answer["records"]]
        self.fetch(tuple(itertools.compress(found, with_python)))
        return tuple(sorted(
            self._with_distributions(item) if may_have else item
            for item, may_have in zip(found, with_python, strict=True)))

    def _spec(self, text: str) -> str:
        """A specification in rattler's words: its channel is a URL."""
        channel, separator, rest = text.rpartition("::")
        return f"{self._channels.find(channel).url}::{rest}" if separator else text

    def _packages(self, records: list[dict[str, Any]],
                  channels: list[Channel]) -> list[CondaPackage]:
        by_url = {channel.url: channel for channel in channels}
        unknown = [record for record in records if not record["sha256"] or not record["size"]]
        taken = {}
        if unknown:  # an old channel; what it gives now is pinned
            places = [(by_url[record["channel"]], record["subdir"], record["file"])
                      for record in unknown]
            taken = dict(zip(((record["subdir"], record["file"]) for record in unknown),
                             self._take(places), strict=True))
        found = []
        for record in records:
            digest, size = taken.get((record["subdir"], record["file"])) or (
                Digest(record["sha256"]), record["size"])
            found.append(CondaPackage(
                name=record["name"], version=record["version"], build=record["build"],
                channel=by_url[record["channel"]].text, subdir=record["subdir"],
                file=record["file"], size=size, sha256=digest, described=_described(record)))
        return found

    def _with_distributions(self, package: CondaPackage) -> CondaPackage:
        import dataclasses

        key = Digest.of_json({"distributions": package.sha256.hex})
        known = self._trace.get("distributions", key)
        if known is None:
            with self._store.open(package.sha256) as stream:
                known = list(distributions(stream, package.file))
            self._trace.note("distributions", key, known)
        return dataclasses.replace(package, python=tuple(known))

    # CondaSource

    def fetch(self, packages: tuple[CondaPackage, ...]) -> None:
        missing = [item for item in packages if not self._store.has(item.sha256)]
        remote = []
        for item in missing:
            channel = self._channels.find(item.channel)
            if channel.folder is not None:
                self._channels.check(channel)
                self._fetcher.fetch(channel.file(item.subdir, item.file), item.sha256,
                                    f"{item.name} {item.version}")
            else:
                remote.append(item)
        if not remote:
            return
        self._progress.expect(sum(item.size for item in remote))
        taken = self._take([(self._channels.find(item.channel), item.subdir, item.file)
                            for item in remote])
        for item, (digest, size) in zip(remote, taken, strict=True):
            if digest != item.sha256:
                raise ResolveError(
                    f"hash mismatch: {item.name} {item.version} should be {item.sha256}, the "
                    f"bytes are {digest}",
                    where=self._channels.find(item.channel).file(item.subdir, item.file),
                    fix="do not use these bytes; if the lock is wrong, pin again with upgrade=1")
            self._progress.advance(size)

    def _take(self, places: list[tuple[Channel, str, str]]) -> list[tuple[Digest, int]]:
        """Bring files into the store, whatever they are; digest and size of each."""
        self._make_folder()
        with work_folder(self._folder / "tmp") as scratch:
            paths, files = [], []
            for number, (channel, subdir, name) in enumerate(places):
                if channel.folder is not None:
                    paths.append(channel.folder / subdir / name)
                    continue
                paths.append(scratch / str(number))
                files.append([channel.file(subdir, name), str(paths[-1])])
            if files:
                require()
                channels = list(dict.fromkeys(channel for channel, _, _ in places))
                for _ in self._ask(channels, {"do": "download", "files": files}):
                    pass
            found = []
            for path in paths:
                try:
                    found.append((self._store.put_file(path), path.stat().st_size))
                except OSError as error:
                    raise ResolveError(f"cannot be read: {error.strerror}", where=str(path),
                                       fix="index the channel again") from None
                if path.is_relative_to(scratch):
                    path.unlink()
        return found

    # Common

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be written: {error.strerror}", where=str(self._folder),
                             fix="make the cache folder writable, or free some space") from None

    def _ask(self, channels: list[Channel], request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers of a process of rattler's. Its errors are raised as ours, without secrets."""
        self._make_folder()
        known = [{"url": item.url, "header": item.header, "real": item.real} for item in channels]
        paths = [str(_PACKAGE.parent), *filter(None, [self._environ.get("PYTHONPATH", "")])]
        child = subprocess.Popen(
            [sys.executable, "-c", _START], cwd=self._folder, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**self._environ, "PYTHONPATH": os.pathsep.join(paths)})
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError), child.stdin as sink:
                json.dump({**request, "channels": known}, sink)
            number = 0
            for line in child.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise _explained(answer, channels, request.get("subdir", ""))
                number += 1
                yield answer
            if number < len(request.get("files", [None])):
                raise ResolveError(f"rattler ended with status {child.wait()}",
                                   where="conda", fix="run it again; if it stays so, install "
                                                      "another version of py-rattler")
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _described(record: dict[str, Any]) -> Described:
    told = record["described"]
    return Described(**{**told, "depends": tuple(told["depends"]),
                        "constrains": tuple(told["constrains"])})


def _explained(answer: dict[str, str], channels: list[Channel], subdir: str) -> ResolveError:
    text = answer["text"]
    secrets = [secret for channel in channels for secret in channel.secrets]
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, "…").replace(quote(secret, safe=""), "…")
    text = _line(text)
    where = f"channels {', '.join(channel.text for channel in channels)}"
    where += f", for {subdir}" if subdir else ""
    if answer["error"] == "SolverError":
        return UnmetError(f"conda cannot meet what is asked for: {text}", where=where,
                          fix="loosen one of the packages named above, or name another channel")
    if answer["error"] in ("InvalidMatchSpecError", "InvalidVersionSpecError"):
        return ResolveError(f"not a conda package: {text}", where=where,
                            fix="write it as in `numpy=1.26` or `numpy >=1.20,<2`")
    if denied := _DENIED.search(text):
        return ResolveError(f"a channel refused with HTTP status {denied[1]}: {text}", where=where,
                            fix="give credentials in the file that RATTLER_AUTH_FILE names, or as "
                                "${NAME} in the channel's URL")
    kind = Unreachable if _AWAY.search(text) else ResolveError
    return kind(f"a conda channel cannot be used: {text}", where=where,
                fix="check the channel's name and the network; a committed conda.lock needs no "
                    "channel to be resolved")


def _line(text: str) -> str:
    return without_credentials(" ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split()))[:1200]

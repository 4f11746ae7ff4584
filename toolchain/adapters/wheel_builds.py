"""What a build backend made -> wheels in the store, once for each source, Python and platform."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from typing import Any

from toolchain.adapters.compatible import host_platform
from toolchain.adapters.scratch import scratch_folder
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer.wheel import Wheel
from toolchain.store import Store
from toolchain.trace import Trace

_BUILT = "source"  # trace stage: files, Python and platform -> a wheel and what it holds
_OF_METADATA = ("Name", "Version", "Requires-Dist", "Requires-Python", "Provides-Extra")


class WheelBuilds:
    """What was built on this machine, on record in `trace`.

    A record has the wheel's `name`, `version` and `filename`, and the digests `wheel` of its bytes,
    `content` of what it holds and `metadata` of what an installer acts on.
    """

    def __init__(self, store: Store, trace: Trace) -> None:
        self._store = store
        self._trace = trace

    def once(self, what: dict[str, str], python: str, platform: str, title: str,
             build: Callable[[Path], Path]) -> dict[str, str]:
        """The record of the wheel of `what`; `build` makes it in an empty folder if there is none.

        Raises ResolveError for a wheel that is not for the platform, and what `build` raises.
        """
        plan = {**what, "python": ".".join(python.split(".")[:2]), "platform": platform}
        key = Digest.of_json(plan)
        with self._trace.holding(_BUILT, key):
            known: dict[str, str] | None = self._trace.get(_BUILT, key)
            if known is not None and self._store.has(Digest(known["wheel"])):
                return known
            with scratch_folder() as folder:
                path = build(folder)
                _check_fits(path.name, platform, title)
                package, version = names(path.name)
                content, metadata = _content(path)
                built = {"name": package, "version": version, "filename": path.name,
                         "content": content.hex, "metadata": metadata.hex,
                         "wheel": self._store.put_file(path).hex}
            self._trace.record(_BUILT, key, plan, built)
        return built

    def keep(self, digest: Digest, python: str, platform: str, built: dict[str, str]) -> None:
        """Find the wheel by the digest that a lock pins, from now on."""
        key = Digest.of_json(_plan(digest, python, platform))
        if self._trace.get(_BUILT, key) != built:
            self._trace.note(_BUILT, key, built)

    def here(self, digest: Digest, python: str, platform: str) -> Wheel | None:
        """The wheel that was kept under a digest, if it is in the store."""
        known = self._trace.get(_BUILT, Digest.of_json(_plan(digest, python, platform)))
        if known is None or not self._store.has(Digest(known["wheel"])):
            return None
        return Wheel(digest=Digest(known["wheel"]), filename=known["filename"])


def names(filename: str) -> tuple[str, str]:
    """A wheel's distribution and version. Raises ResolveError."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        raise ResolveError(f"not a wheel's name: {filename}", where=filename,
                           fix="name it as its build does: name-version-py3-none-any.whl") from None
    return str(name), str(version)


def _plan(digest: Digest, python: str, platform: str) -> dict[str, str]:
    return {"of": digest.hex, "python": ".".join(python.split(".")[:2]), "platform": platform}


def _check_fits(filename: str, platform: str, title: str) -> None:
    """A wheel that was built here is for this machine, unless it is for all."""
    from packaging.utils import parse_wheel_filename

    if platform != host_platform() and any(
            tag.platform != "any" for tag in parse_wheel_filename(filename)[3]):
        raise ResolveError(f"{title} holds compiled code, and is for {platform}", where=filename,
                           fix="build on that platform")


def _content(path: Path) -> tuple[Digest, Digest]:
    """What a wheel holds, whatever version of a backend wrote it: its files, and of its metadata
    what an installer acts on. The second digest is of the latter alone."""
    metadata: list[Any] = []
    with zipfile.ZipFile(path) as archive:
        found: list[list[Any]] = []
        for item in sorted(archive.infolist(), key=lambda item: item.filename):
            folder, _, name = item.filename.partition("/")
            if item.is_dir():
                continue
            data = archive.read(item)
            if folder.endswith(".dist-info"):
                if name == "METADATA":
                    headers = Parser().parsestr(data.decode("utf-8", "replace"))
                    metadata = [[key, headers.get_all(key) or []] for key in _OF_METADATA]
                    continue
                if name != "entry_points.txt":
                    continue
            executable = bool((item.external_attr >> 16) & 0o111)
            found.append([item.filename, executable, Digest.of(data).hex])
    return Digest.of_json([found, metadata]), Digest.of_json(metadata)

"""Modules -> .pyc files, so that an image's Python need not compile what it imports.

Rule 1: the compiler is the interpreter that base.lock pins, or one of the very version that it
pins, never just that of the machine: byte-code may differ between two micro versions. It is named
by that version, or by Debian's source version, which are the same for every architecture.
Rule 2: the files are of the unchecked-hash kind (PEP 552): they hold no time, and the image's
Python does not look at the source.
Rule 3: what is below a package's folder of tests is left out. Hardly anybody imports it, and it
is two fifths of the work.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import field

from toolchain.errors import ResolveError
from toolchain.layer import Compiler
from toolchain.lock.base import BasePins, DebianPackage
from toolchain.values import dataclass

# Raise when the bytes of a .pyc change for the same compiler and source.
_FORMAT = 1
_BATCH = 256 << 10  # bytes of source that go to a compiler process at once
_LARGEST_SOURCE = 8 << 20
_MOST_REMEMBERED = 128 << 20  # bytes of source


def identity(compiler: BasePins | str, python: str) -> str:
    """What decides the byte-code of Python `X.Y`, as plans name it. Raises ResolveError."""
    version = (compiler if isinstance(compiler, str) else
               re.sub(r"[+]b[0-9]+$", "", _package(compiler, f"python{python}-minimal").version))
    return f"cpython {version} unchecked-hash {_FORMAT}"


def needed(pins: BasePins, python: str) -> BasePins:
    """The packages of a base that its interpreter needs to compile. Raises ResolveError."""
    names = (f"python{python}-minimal", f"libpython{python}-minimal", "libc6", "libexpat1",
             "zlib1g")
    return BasePins(suite=pins.suite, platform=pins.platform,
                    packages=tuple(_package(pins, name) for name in sorted(names)))


def is_imported(path: str) -> bool:
    """Whether a file is a module that is worth compiling."""
    *folders, name = path.split("/")
    return name.endswith(".py") and name != ".py" and not {"test", "tests"} & {*folders}


def compiled_path(path: str, tag: str) -> str:
    """Where Python looks for a module's byte-code (PEP 3147)."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


_Key = tuple[str, bytes]  # path and sha256 of a file


@dataclass(slots=True)
class _Request:
    """Files that go to the compiler together; `future` is there once they went."""

    sources: list[tuple[str, bytes]] = field(default_factory=list)
    keys: list[_Key] = field(default_factory=list)
    size: int = 0
    future: Future[list[bytes | None]] | None = None


_Place = tuple[_Request, int]  # a file among those of a request


class Bytecode:
    """Compiles the modules of many wheels. Packages that were cut out of one another hold the same
    files; those are compiled once. Safe to use from many threads."""

    def __init__(self, compiler: Compiler) -> None:
        self.identity = compiler.identity
        self.tag = compiler.tag
        self._compiler = compiler
        self._lock = threading.Lock()
        self._sent: dict[_Key, _Place] = {}
        self._remembered = 0

    def batch(self) -> Batch:
        return Batch(self)

    def sent(self, key: _Key) -> _Place | None:
        """The place of that very file, if it went to the compiler before."""
        with self._lock:
            return self._sent.get(key)

    def send(self, request: _Request) -> None:
        request.future = self._compiler.compile(tuple(request.sources))
        with self._lock:
            if self._remembered < _MOST_REMEMBERED:
                self._remembered += request.size
                self._sent.update({key: (request, index)
                                   for index, key in enumerate(request.keys)})
        request.sources.clear()
        request.keys.clear()


class Batch:
    """The modules of one wheel or layer: added one by one, compiled meanwhile."""

    def __init__(self, bytecode: Bytecode) -> None:
        self._bytecode = bytecode
        self._places: dict[str, _Place] = {}
        self._next = _Request()

    def add(self, path: str, source: bytes, sha256: bytes) -> None:
        """`path` is in the image, without a slash at its beginning; `sha256` that of `source`."""
        if not is_imported(path) or len(source) > _LARGEST_SOURCE:
            return
        path = f"/{path}"
        place = self._bytecode.sent((path, sha256))
        if place is None:
            place = self._next, len(self._next.sources)
            self._next.keys.append((path, sha256))
            self._next.sources.append((path, source))
            self._next.size += len(source)
        self._places[path] = place
        if self._next.size >= _BATCH:
            self._send()

    def results(self) -> Iterator[tuple[str, bytes]]:
        """(path, byte-code) of all that compiled, in the order of the modules."""
        self._send()
        for path, (request, index) in self._places.items():
            assert request.future is not None
            data = request.future.result()[index]
            if data is not None:
                yield compiled_path(path[1:], self._bytecode.tag), data

    def _send(self) -> None:
        if self._next.sources:
            self._bytecode.send(self._next)
            self._next = _Request()


def _package(pins: BasePins, name: str) -> DebianPackage:
    for package in pins.packages:
        if package.name == name:
            return package
    raise ResolveError(
        f"the base has no {name} to compile byte-code with", where=f"base.lock, {pins.suite}",
        fix="pin anew with upgrade=1, or do without: image.bytecode=no",
    )

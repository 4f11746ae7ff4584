"""Finds a Python by version: on PATH, pyenv's, uv's, in that order; else uv brings it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.adapters.uv import uv_program
from toolchain.errors import EngineError, ResolveError

if TYPE_CHECKING:
    from toolchain.adapters.compiler import Program

_DOWNLOAD = 180  # seconds that uv may take to bring an interpreter of some 30 MB
_INSTEAD = 60  # the same where another patch level would serve
# One without the GIL (`t`) is another: what is built for `X.Y` is not for it.
_ASK = ("import sys; print('%d.%d.%d' % sys.version_info[:3], sys.implementation.name + "
        "'t' * ('t' in sys.abiflags))")


class Interpreters:
    """The interpreters of this machine. `environ` is where PATH and pyenv's root come from; `say`
    tells people."""

    def __init__(self, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._environ = environ
        self._say = say

    def find(self, wanted: str) -> Path:
        """The interpreter for `X.Y` (newest patch) or `X.Y.Z`.

        For `X.Y.Z` that is not here and cannot be had, another patch of X.Y is taken, and it is
        said: wheels and images are bound to the minor version (docs/decisions/0004). Raises
        EngineError naming what is there.
        """
        seen: dict[tuple[int, ...], Path] = {}
        minor = ".".join(wanted.split(".")[:2])
        for path in self._candidates(minor):
            version = self._version(path)
            if version and version not in seen:
                seen[version] = path
        exact = tuple(int(part) for part in wanted.split("."))
        same = sorted(version for version in seen if version[:2] == exact[:2])
        for version in reversed(same):
            if version[: len(exact)] == exact:
                return seen[version]
        managed = self._managed(wanted, _INSTEAD if same else _DOWNLOAD)
        if managed is not None:
            return managed
        if same:
            other = ".".join(map(str, same[-1]))
            self._say(f"warning: Python {wanted} is asked for; it is not on this machine and uv "
                      f"cannot bring it, so Python {other} is used here, {seen[same[-1]]}")
            return seen[same[-1]]
        have = [".".join(map(str, version)) for version in sorted({*self.versions()})]
        raise EngineError(
            f"no Python {wanted} on this machine", where="PATH, pyenv and uv",
            fix=f"install Python {minor}, or ask for one that is here: {', '.join(have) or 'none'}",
        )

    def exact(self, wanted: str) -> Path | None:
        """The interpreter for `X.Y.Z`; None if it is not here and uv cannot bring it."""
        version = tuple(map(int, wanted.split(".")))
        for path in self._candidates(f"{version[0]}.{version[1]}"):
            if self._version(path) == version:
                return path
        return self._managed(wanted, _INSTEAD)

    def compiler(self, wanted: str) -> Program:
        """That for `X.Y.Z`, to compile with. Raises ResolveError where there is none."""
        from toolchain.adapters.compiler import Program

        path = self.exact(wanted)
        if path is None:
            raise ResolveError(
                f"byte-code is made by Python {wanted}, as base.lock has it, which is not on this "
                "machine, and uv cannot bring it", where="PATH, pyenv and uv",
                fix=f"uv python install {wanted}, or do without: image.bytecode=no")
        libraries = self._environ.get("LD_LIBRARY_PATH")
        return Program(arguments=(path,), root=path.parent, remedy=f"install Python {wanted} anew",
                       environ={"LD_LIBRARY_PATH": libraries} if libraries else {})

    def _candidates(self, minor: str) -> Iterator[Path]:
        for folder in self._environ.get("PATH", os.defpath).split(os.pathsep):
            # A pyenv shim is a script that may start any version, or none.
            if folder and Path(folder).name != "shims":
                yield Path(folder) / f"python{minor}"
                yield Path(folder) / "python3"
        for version in self._pyenv():
            if version.name.startswith(f"{minor}."):
                yield version / "bin" / "python"
        for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
            yield Path(folder) / f"python{minor}"
        yield from self._uv_installed(minor)

    def versions(self) -> Iterator[tuple[int, ...]]:
        """What there is on PATH and of pyenv's."""
        for folder in [*self._environ.get("PATH", os.defpath).split(os.pathsep), "/usr/bin"]:
            if not folder or Path(folder).name == "shims":
                continue
            for path in Path(folder).glob("python3*"):
                if re.fullmatch(r"python3(\.\d+)?", path.name) and (found := self._version(path)):
                    yield found
        for version in self._pyenv():
            if re.fullmatch(r"3\.\d+\.\d+", version.name):
                yield tuple(int(part) for part in version.name.split("."))

    def _pyenv(self) -> list[Path]:
        root = self._environ.get("PYENV_ROOT") or Path(self._environ.get("HOME", "/")) / ".pyenv"
        try:
            return sorted(Path(root, "versions").iterdir())
        except OSError:
            return []

    def _uv_installed(self, minor: str) -> list[Path]:
        """Those of X.Y that uv brought. `uv python list` would start every interpreter on PATH,
        pyenv's shims included, which takes a second."""
        done = subprocess.run([uv_program(), "python", "dir"], capture_output=True, text=True,
                              env=dict(self._environ))
        if done.returncode:
            return []
        folder = Path(done.stdout.strip())
        return sorted(folder.glob(f"cpython-{minor}.*/bin/python{minor}"))

    def _managed(self, wanted: str, patience: int) -> Path | None:
        """An interpreter that uv can bring, if its settings let it download."""
        if (self._environ.get("UV_PYTHON_DOWNLOADS") == "never"
                or self._environ.get("UV_OFFLINE", "0") not in ("", "0", "false")):
            return None
        try:
            done = subprocess.run(
                [uv_program(), "python", "install", "--quiet", wanted], capture_output=True,
                # Its link in ~/.local/bin is for people.
                env={"UV_HTTP_RETRIES": "1", **self._environ, "UV_PYTHON_INSTALL_BIN": "0"},
                timeout=patience,
            )
        except subprocess.TimeoutExpired:  # a network that neither answers nor refuses
            return None
        if done.returncode:
            return None
        exact = tuple(map(int, wanted.split(".")))
        for path in self._uv_installed(".".join(wanted.split(".")[:2])):
            version = self._version(path)
            if version and version[: len(exact)] == exact:
                return path
        return None

    def _version(self, path: Path) -> tuple[int, ...] | None:
        if not os.access(path, os.X_OK):
            return None
        try:
            done = subprocess.run([path, "-I", "-S", "-c", _ASK], capture_output=True, text=True,
                                  timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        version, _, implementation = done.stdout.strip().partition(" ")
        if done.returncode or implementation != "cpython":
            return None
        return tuple(int(part) for part in version.split("."))

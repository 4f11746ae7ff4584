"""uv, called as a program: its environment, the Python it is given, what it says when it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from toolchain.adapters.indexes import with_options
from toolchain.adapters.variables import put_back, values
from toolchain.errors import EngineError, ResolveError, without_credentials

# It asks sysconfig, which until Python 3.13 shows its variables while it still collects them.
_FINDING = threading.Lock()


def uv_program() -> str:
    """The uv that was installed with this package; on a node of a cluster, which may not have
    this package, the one on PATH. Raises EngineError if there is none."""
    try:
        import uv

        with _FINDING:
            return uv.find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise EngineError("there is no uv on this machine", where="PATH",
                          fix="pip install uv in the Python that runs there")
    return found


class Uv:
    """uv on this machine; implements toolchain.adapters.sources.Builder.

    `environ` is uv's environment (see adapters.indexes); `interpreter` finds a Python by version.
    """

    def __init__(self, *, environ: Mapping[str, str],
                 interpreter: Callable[[str], Path]) -> None:
        self.environ = dict(environ)
        self.interpreter = interpreter

    def run(self, arguments: list[str], cwd: Path, *, options: tuple[str, ...] = (),
             home: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        environ = with_options(self.environ, options, home)
        if environ.get("UV_NO_INDEX") == "1" and arguments[0] == "pip" \
                and "--no-index" not in arguments:
            arguments = [*arguments, "--no-index"]  # uv reads no such variable
        done = subprocess.run(
            [uv_program(), *arguments], cwd=cwd, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, errors="replace",
            env={**environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", **extra},
        )
        done.stderr = put_back(done.stderr, values(options, self.environ))
        return done

    def interpreter_or_none(self, python: str) -> Path | None:
        try:
            return self.interpreter(python)
        except EngineError:
            return None  # resolving needs one only to build sdists; uv then says so

    def build(self, what: Path, python: str, options: tuple[str, ...], title: str) -> Path:
        """Build a source folder or archive into a wheel."""
        out = what.parent / "out"
        done = self.run(["build", "--wheel", "--python", str(self.interpreter(python)),
                          "--no-create-gitignore", "--out-dir", str(out), str(what)], what.parent,
                         options=options, SOURCE_DATE_EPOCH="315532800")
        wheels = list(out.glob("*.whl")) if not done.returncode else []
        if not wheels:
            raise ResolveError(
                f"{title} has no wheel and its source does not build: "
                f"{last_lines(done.stderr)}", where=title,
                fix="pin a version that has a wheel, or install what its build needs",
            )
        return wheels[0]


def said(stderr: str) -> str:
    """What uv wrote, without colours and passwords."""
    return without_credentials(re.sub(r"\x1b\[[0-9;]*m", "", stderr)).strip()


def last_lines(stderr: str) -> str:
    """What uv said at the end, in one line."""
    return " ".join(line.strip() for line in said(stderr).splitlines()[-12:])[:1200]

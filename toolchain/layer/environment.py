"""The virtual environment that package layers fill, on whatever base there is (PEP 405)."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolchain.layer import HOME, LAYOUT_VERSION, PREFIX, USER_ID, Layer
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.store import Store


def environment(interpreter: str, python: str, version: str, *,
                shows_own: bool = False) -> Iterator[Entry]:
    """Its entries. `interpreter` is a path in the image, `python` is `X.Y`. `shows_own`: the
    interpreter's own packages are seen from within.

    The interpreter finds its standard library through `home`.
    """
    yield Entry(path=f"{PREFIX}/pyvenv.cfg", mode=0o644, data=(
        f"home = {posixpath.dirname(interpreter)}\ninclude-system-site-packages = "
        f"{'true' if shows_own else 'false'}\n"
        f"version = {version}\n").encode())
    for name in ("python", "python3", f"python{python}"):
        yield Entry(path=f"{PREFIX}/bin/{name}", mode=0o777, kind=tarfile.SYMTYPE,
                    link=interpreter)
    yield Entry(path=f"{PREFIX}/lib/python{python}/site-packages", mode=0o755,
                kind=tarfile.DIRTYPE)


def plan(interpreter: str, python: str, compression: Compression = LIBDEFLATE, *,
         shows_own: bool = False) -> dict[str, Any]:
    """What the layer on a base image is made of; its digest is its key for all projects."""
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity,
            "interpreter": interpreter, "python": python, "prefix": PREFIX,
            **({"shows own": True} if shows_own else {})}


def make(interpreter: str, python: str, store: Store, pool: ThreadPoolExecutor,
         compression: Compression = LIBDEFLATE, *, shows_own: bool = False) -> Layer:
    """Build the layer: the empty environment, and a home for the ordinary user."""
    with LayerWriter(store, f"virtual environment of python {python}", pool, compression) as writer:
        writer.add(Entry(path=HOME, mode=0o755, kind=tarfile.DIRTYPE, uid=USER_ID, gid=USER_ID))
        for entry in environment(interpreter, python, python, shows_own=shows_own):
            writer.add(entry)
    assert writer.layer is not None
    return writer.layer

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
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """What is seen of the image below. shows_own: the interpreter's own packages. packages: a
    folder of further ones, absolute, or empty. hides: nothing of what it has in this place."""

    shows_own: bool = False
    packages: str = ""
    hides: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**({"shows own": True} if self.shows_own else {}),
                **({"shows packages": self.packages} if self.packages else {}),
                **({"hides": True} if self.hides else {})}


NOTHING = Below()


def hiding() -> Iterator[Entry]:
    """Whatever lower layers have in the environment's place is not there (layer.md, "Opaque
    Whiteout")."""
    yield Entry(path=f"{PREFIX}/.wh..wh..opq", mode=0o644, data=b"")


def environment(interpreter: str, python: str, version: str,
                below: Below = NOTHING) -> Iterator[Entry]:
    """Its entries. `interpreter` is a path in the image, `python` is `X.Y`.

    The interpreter finds its standard library through `home`.
    """
    if below.hides:
        yield from hiding()
    yield Entry(path=f"{PREFIX}/pyvenv.cfg", mode=0o644, data=(
        f"home = {posixpath.dirname(interpreter)}\ninclude-system-site-packages = "
        f"{'true' if below.shows_own else 'false'}\n"
        f"version = {version}\n").encode())
    for name in ("python", "python3", f"python{python}"):
        yield Entry(path=f"{PREFIX}/bin/{name}", mode=0o777, kind=tarfile.SYMTYPE,
                    link=interpreter)
    yield Entry(path=f"{PREFIX}/lib/python{python}/site-packages", mode=0o755,
                kind=tarfile.DIRTYPE)
    if below.packages:  # with their own .pth files, as editable installs are
        yield Entry(path=f"{PREFIX}/lib/python{python}/site-packages/_base_image.pth", mode=0o644,
                    data=f"import site; site.addsitedir({below.packages!r})\n".encode())


def plan(interpreter: str, python: str, compression: Compression = LIBDEFLATE,
         below: Below = NOTHING) -> dict[str, Any]:
    """What the layer on a base image is made of; its digest is its key for all projects."""
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity,
            "interpreter": interpreter, "python": python, "prefix": PREFIX,
            **below.to_json()}


def make(interpreter: str, python: str, store: Store, pool: ThreadPoolExecutor,
         compression: Compression = LIBDEFLATE, below: Below = NOTHING) -> Layer:
    """Build the layer: the empty environment, and a home for the ordinary user."""
    with LayerWriter(store, f"virtual environment of python {python}", pool, compression) as writer:
        writer.add(Entry(path=HOME, mode=0o755, kind=tarfile.DIRTYPE, uid=USER_ID, gid=USER_ID))
        for entry in environment(interpreter, python, python, below):
            writer.add(entry)
    assert writer.layer is not None
    return writer.layer

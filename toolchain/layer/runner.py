"""The runner -> a layer: the files of this package that an image needs to run its entry points."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.digest import Digest
from toolchain.layer import LAYOUT_VERSION, RUNNER_FOLDER, Layer, on_record
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.store import Store
from toolchain.trace import Trace

_STAGE = "runner"
_PACKAGE = Path(__file__).parents[1]
OLDEST = (3, 9)  # Python that it runs with
# Standard library only; tests/runner/test_files.py sees to it. What an entry
# point's command means is decided by the same modules in the image and outside.
_SHARED = ("__init__.py", "errors.py", "spec/__init__.py", "spec/address.py",
           "spec/command.py", "spec/commandline.py",
           "spec/placeholder.py")


@cache
def files() -> dict[str, bytes]:
    """The runner's files by their place in its folder, where `python FOLDER` starts it."""
    own = sorted(f"runner/{path.name}" for path in (_PACKAGE / "runner").glob("*.py"))
    found = {f"toolchain/{name}": (_PACKAGE / name).read_bytes() for name in (*_SHARED, *own)}
    return {"__main__.py": found["toolchain/runner/__main__.py"], **found}


@cache
def plan(compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What the layer is made of; its digest is its key for all projects."""
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "folder": RUNNER_FOLDER,
            "files": {name: Digest.of(data).hex for name, data in files().items()}}


@cache
def key(compression: Compression = LIBDEFLATE) -> Digest:
    return Digest.of_json(plan(compression))


def make(store: Store, trace: Trace, pool: ThreadPoolExecutor, waiting: Callable[[str], None],
         compression: Compression = LIBDEFLATE) -> tuple[Layer, bool]:
    """The layer, and whether it was made now rather than found."""
    what = key(compression)
    with trace.holding(_STAGE, what, waiting):
        known = on_record(_STAGE, what, trace, store)
        if known is not None:
            return known, False
        with LayerWriter(store, "runner", pool, compression) as writer:
            for name, data in sorted(files().items()):
                writer.add(Entry(path=f"{RUNNER_FOLDER}/{name}", mode=0o644, data=data))
        assert writer.layer is not None
        trace.record(_STAGE, what, plan(compression), writer.layer.to_json())
        return writer.layer, True

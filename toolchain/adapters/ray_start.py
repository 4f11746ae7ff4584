"""A Ray task's beginning: this package's code to the node, then toolchain.adapters.ray_node.

Ray carries this function by value, so that a node needs nothing of this package: nothing here
imports any of it before its code is there. A worker of Ray serves one driver only, so the code
that it finds first is that driver's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import tempfile
import zipfile
from typing import Any

CACHE = "TOOLCHAIN_RAY_CACHE"  # variable of a node: where it keeps environments and files


def start(mailbox: Any, name: str, code: list[Any], digest: str) -> dict[str, Any]:
    """Run the attempt `name`. `code`: a reference to the zip with that sha256."""
    root = os.environ.get(CACHE) or os.path.expanduser("~/.cache/mlproject-toolchain")
    folder = os.path.join(root, "code", digest)
    try:
        if not os.path.isdir(folder):
            _unpack(code[0], digest, folder)
    except OSError as error:
        return {"error": [f"the cache of a node cannot be written: {error.strerror}", folder,
                          f"name a folder that can be, with {CACHE} where the node is started"]}
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from toolchain.adapters import ray_node

    return ray_node.run(mailbox, name, root)


def _unpack(code: Any, digest: str, folder: str) -> None:
    import ray

    data: bytes = ray.get(code)
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError(0, "the code came damaged")
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as scratch:
        inner = os.path.join(scratch, "code")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(inner)
        with contextlib.suppress(FileExistsError):
            try:
                os.rename(inner, folder)
            except OSError:
                if not os.path.isdir(folder):  # else another worker was faster
                    raise

"""Tree -> project Layer: the project's own files under /project, its entry points for the runner.

MLproject and the environment files go in as canonical text: their comments, order of keys and
line endings are not content, and must not make a new image. requirements.lock stays out; the base
layers are what it says. So does sweep.yaml. The entry points as they were parsed are beside the
runner, so that no YAML is read in the image.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.errors import SpecError
from toolchain.layer import (
    LAYOUT_VERSION,
    PROJECT_FOLDER,
    RUNNER_FOLDER,
    USER_ID,
    Layer,
    ignore,
)
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.layer.compression import LIBDEFLATE, Compression
from toolchain.lock.base import FILE_NAME as BASE_LOCK_NAME
from toolchain.lock.file import is_lock
from toolchain.spec import Spec
from toolchain.store import Store
from toolchain.tree import Tree, TreeFile, changed

IGNORE_NAME = ".dockerignore"
SWEEP_NAME = "sweep.yaml"  # says what to try, which changes nothing of what is trained
# A workspace of one project has base.lock in its folder.
ENTRY_POINTS = "project.json"
Memo = Callable[[Any, Callable[[], Any]], Any]


def plan(tree: Tree, spec: Spec, memo: Memo,
         compression: Compression = LIBDEFLATE) -> dict[str, Any]:
    """What the layer is made of: every file by path, mode and content; digest = its key.

    `spec.files` has the texts that take files' places. `memo(question, answer)` may remember a
    pure function's answer. Raises SpecError as `Tree.file` does.
    """
    files, canonical = [], spec.files
    for path in included(tree, memo):
        if path in canonical:
            digest = Digest.of(canonical[path].encode())
            files.append(TreeFile(path, False, digest).to_json())
        else:
            files.append(tree.file(path).to_json())
    return {"layout": LAYOUT_VERSION, "compressor": compression.identity, "files": files,
            "entry_points": Digest.of(_entry_points(spec)).hex}


def included(tree: Tree, memo: Memo) -> list[str]:
    """The files that belong to the image, sorted. Raises SpecError for a bad pattern."""
    paths = sorted(path for path in tree.found
                   if not is_lock(path) and path not in (BASE_LOCK_NAME, SWEEP_NAME))
    if IGNORE_NAME not in tree.found:
        return paths
    text = tree.read(IGNORE_NAME).decode("utf-8", "replace")
    rules = ignore.patterns(text)
    question = {"dockerignore": rules, "paths": paths}
    try:
        excluded = set(memo(question, lambda: ignore.excluded(rules, paths)))
    except ignore.BadPattern as error:
        line, pattern = list(ignore.lines(text))[error.rule]
        raise SpecError(f"not a pattern: {pattern} ({error})",
                        where=f"{tree.root / IGNORE_NAME}:{line}",
                        fix="write it as Docker does; a class is as in [a-z], and \\[ is a bracket"
                        ) from None
    return [path for path in paths if path not in excluded]


def make(plan: Mapping[str, Any], tree: Tree, spec: Spec, store: Store,
         pool: ThreadPoolExecutor, compression: Compression = LIBDEFLATE) -> Layer:
    """Build the layer. Raises SpecError if a file is no longer what the plan says."""
    with LayerWriter(store, "project files", pool, compression) as layer:
        layer.add(Entry(path=f"{RUNNER_FOLDER}/{ENTRY_POINTS}", mode=0o644,
                        data=_entry_points(spec)))
        layer.add(Entry(path=PROJECT_FOLDER, mode=0o755, kind=tarfile.DIRTYPE,
                        uid=USER_ID, gid=USER_ID))
        for path, executable, content in plan["files"]:
            _add(layer, path, executable, content, tree, spec.files)
    assert layer.layer is not None
    return layer.layer


def _entry_points(spec: Spec) -> bytes:
    return canonical_json(spec.for_runner().to_json())


def _add(layer: LayerWriter, path: str, executable: bool, content: str, tree: Tree,
         canonical: Mapping[str, str]) -> None:
    place = f"{PROJECT_FOLDER}/{path}"
    if content.startswith("-> "):
        layer.add(Entry(path=place, mode=0o777, kind=tarfile.SYMTYPE, link=content[3:],
                        uid=USER_ID, gid=USER_ID))
        return
    entry = Entry(path=place, mode=0o755 if executable else 0o644, uid=USER_ID, gid=USER_ID)
    if path in canonical:
        data = canonical[path].encode()
        written = layer.add_stream(entry, io.BytesIO(data), len(data))
    else:
        with tree.open(path) as stream:
            written = layer.add_stream(entry, stream, tree.found[path].stamp[0])
    if str(written) != content:
        raise changed(tree.root / path)

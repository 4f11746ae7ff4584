"""Image -> Bundle: the tar of an OCI layout, one file that carries an image; pure.

Source: OCI image-spec 1.1, image-layout.md; Docker's archive form (moby, image/spec), whose
manifest.json names the same blobs, so that `docker load` of any version takes the file too.
The same image and names give the same bytes on every machine.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.image import INDEX, MANIFEST, Image
from toolchain.layer.archive import TIME
from toolchain.reference import full_name
from toolchain.values import dataclass

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_BLOCK = 512
_RECORD = 20 * _BLOCK  # tar files are padded to whole records

Fetch = Callable[[Digest, int], Iterator[bytes]]  # a blob's bytes, verified as they come


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What goes into the file: small documents by path, then blobs by digest with their sizes."""

    documents: tuple[tuple[str, bytes], ...]
    blobs: tuple[tuple[Digest, int], ...]

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(size for _, size in self.blobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A manifest whose subject is an image, as a bill of materials has; `blobs` are what it names.

    kind: what it is, a media type.
    """

    manifest: bytes
    kind: str
    blobs: tuple[tuple[Digest, int], ...]

    @classmethod
    def of(cls, manifest: bytes) -> Attached:
        """Raises ValueError, KeyError or TypeError for what is no manifest."""
        parsed = json.loads(manifest)
        return cls(
            manifest=manifest,
            kind=str(parsed.get("artifactType") or parsed["config"]["mediaType"]),
            blobs=tuple((Digest.parse(item["digest"]), int(item["size"]))
                        for item in [parsed["config"], *parsed["layers"]]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """An image index as it was pushed, and the images in it, one a platform."""

    index: bytes
    images: tuple[Image, ...]


def make(image: Image, names: tuple[str, ...], without: frozenset[Digest] = frozenset(),
         attached: tuple[Attached, ...] = (), several: Several | None = None) -> Bundle:
    """Plan a bundle of an image that is called `names`, each `repository:tag`.

    With `several`, its index is what the layout names, with every image in it; `image` is the one
    that engines get which know no index, as `docker load` of old.

    The first name is the one in the layout's index, which names the image once. What is attached
    is in the index without a name, since engines take whatever has one for an image. Layers in
    `without` are named, but not in the file.
    """
    called = {_REF_NAME: names[0].rpartition(":")[2], _FULL_NAME: full_name(names[0])}
    index: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{**(_named(several.index) if several else _described(image)),
                       "annotations": called}],
    }
    small: dict[Digest, bytes] = {}
    blobs: dict[Digest, int] = {}
    for one in several.images if several else (image,):
        small |= {one.digest: one.manifest, one.config_digest: one.config}
        blobs |= {layer.digest: layer.size for layer in one.layers if layer.digest not in without}
    if several:
        small[Digest.of(several.index)] = several.index
    for document in sorted(attached, key=lambda item: Digest.of(item.manifest)):
        digest = Digest.of(document.manifest)
        # Nothing of what the registry said of it: an annotation could take the image's name.
        index["manifests"].append({"mediaType": MANIFEST, "digest": str(digest),
                                   "size": len(document.manifest),
                                   "artifactType": document.kind})
        small[digest] = document.manifest
        blobs.update(document.blobs)
    archive = [{
        "Config": _path(image.config_digest), "RepoTags": list(names),
        "Layers": [_path(layer.digest) for layer in image.layers],
    }]
    return Bundle(
        documents=(
            ("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"})),
            ("index.json", canonical_json(index)),
            ("manifest.json", canonical_json(archive)),
            *((_path(digest), small[digest]) for digest in sorted(small)),
        ),
        blobs=tuple(sorted(blobs.items())),
    )


def _described(image: Image) -> dict[str, Any]:
    platform = json.loads(image.config)
    return {"mediaType": MANIFEST, "digest": str(image.digest), "size": len(image.manifest),
            "platform": {"os": platform["os"], "architecture": platform["architecture"]}}


def _named(index: bytes) -> dict[str, Any]:
    return {"mediaType": INDEX, "digest": str(Digest.of(index)), "size": len(index)}


def pieces(bundle: Bundle, fetch: Fetch) -> Iterator[bytes]:
    """The file's bytes in order, none of them held longer than it takes to hand them on."""
    total = 0

    def counted(data: bytes) -> bytes:
        nonlocal total
        total += len(data)
        return data

    for path, data in bundle.documents:
        yield counted(_header(path, len(data)) + data + _padding(len(data)))
    for digest, size in bundle.blobs:
        yield counted(_header(_path(digest), size))
        for piece in fetch(digest, size):
            yield counted(piece)
        yield counted(_padding(size))
    yield counted(bytes(2 * _BLOCK))
    yield bytes(-total % _RECORD)


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = 0o644
    info.mtime = TIME
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)

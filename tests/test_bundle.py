"""A bundle is a whole OCI layout in a tar, the same bytes for the same image."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from toolchain import bundle, image
from toolchain.digest import Digest, canonical_json
from toolchain.image import Image
from toolchain.layer import GZIP, Layer

NAMES = ("mlflow/trainer:one", "mlflow/trainer:0123")
BLOBS = {Digest.of(data): data for data in (b"first" * 1000, b"second", b"x" * 512, b"")}


@pytest.fixture
def made() -> Image:
    """An image of layers in another order than their digests', one of them twice."""
    order = sorted(BLOBS, reverse=True)
    return image.make(tuple(
        Layer(digest=digest, diff_id=Digest.of(str(number).encode()), size=len(BLOBS[digest]),
              media_type=GZIP, label=f"layer {number}")
        for number, digest in enumerate([*order, order[0]])), "1000", "linux/amd64")


def fetch(digest: Digest, size: int) -> Iterator[bytes]:
    for start in range(0, size, 7):
        yield BLOBS[digest][start:start + 7]


def written(made: Image, without: frozenset[Digest] = frozenset()) -> bytes:
    return b"".join(bundle.pieces(bundle.make(made, NAMES, without), fetch))


def content(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {}
        for member in archive:
            assert member.isreg()
            assert (member.mode, member.uid, member.gid, member.uname) == (0o644, 0, 0, "")
            assert member.name not in found
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name] = stream.read()
    return found


def test_the_bytes_depend_on_image_and_names_alone(made: Image) -> None:
    assert written(made) == written(made)
    assert Digest.of(written(made)).hex == GOLDEN
    assert len(written(made)) % 10_240 == 0


def test_every_blob_is_there_once_under_its_digest(made: Image) -> None:
    files = content(written(made))
    blobs = {name.rpartition("/")[2]: data for name, data in files.items()
             if name.startswith("blobs/sha256/")}
    assert all(Digest.of(data).hex == name for name, data in blobs.items())
    assert set(blobs) == {made.digest.hex, made.config_digest.hex, *(d.hex for d in BLOBS)}
    assert list(files)[:3] == ["oci-layout", "index.json", "manifest.json"]


def test_the_index_names_the_image_once(made: Image) -> None:
    (entry,) = json.loads(content(written(made))["index.json"])["manifests"]
    assert entry["digest"] == str(made.digest)
    assert entry["size"] == len(made.manifest)
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": "one",
        "io.containerd.image.name": "docker.io/mlflow/trainer:one"}


def test_dockers_own_manifest_names_the_same_blobs_in_the_images_order(made: Image) -> None:
    files = content(written(made))
    (entry,) = json.loads(files["manifest.json"])
    assert files[entry["Config"]] == made.config
    assert entry["RepoTags"] == list(NAMES)
    assert entry["Layers"] == [f"blobs/sha256/{layer.digest.hex}" for layer in made.layers]


def test_layers_that_are_left_out_are_still_named(made: Image) -> None:
    gone = made.layers[1].digest
    files = content(written(made, without=frozenset({gone})))
    assert f"blobs/sha256/{gone.hex}" not in files
    assert files["manifest.json"] == content(written(made))["manifest.json"]


def test_the_size_is_that_of_the_blobs(made: Image) -> None:
    assert bundle.make(made, NAMES).size == sum(map(len, BLOBS.values()))


def test_what_is_attached_goes_along_and_has_no_name(made: Image) -> None:
    """Engines take whatever has a name in the index for an image."""
    blob = b"second"
    item = {"mediaType": "x/y", "digest": str(Digest.of(blob)), "size": len(blob)}
    manifest = canonical_json({
        "config": item, "layers": [item],
        "annotations": {"org.opencontainers.image.ref.name": "one"}})
    attached = bundle.Attached.of(manifest)
    files = content(b"".join(bundle.pieces(
        bundle.make(made, NAMES, attached=(attached,)), fetch)))
    first, second = json.loads(files["index.json"])["manifests"]
    assert first["digest"] == str(made.digest)
    assert second == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "x/y",
        "digest": str(Digest.of(manifest)), "size": len(manifest)}
    assert files[f"blobs/sha256/{Digest.of(manifest).hex}"] == manifest
    assert len([name for name in files if name.endswith(Digest.of(blob).hex)]) == 1


@pytest.mark.parametrize("manifest", [b"", b"{}", b'{"config": 1, "layers": []}'])
def test_what_is_no_manifest_cannot_be_attached(manifest: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        bundle.Attached.of(manifest)


@pytest.mark.parametrize(("name", "full"), [
    ("one:1", "docker.io/library/one:1"), ("a/b:1", "docker.io/a/b:1"),
    ("localhost/a:1", "localhost/a:1"), ("localhost:5000/a:1", "localhost:5000/a:1"),
    ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
])
def test_containerd_is_told_the_name_with_its_registry(made: Image, name: str, full: str) -> None:
    documents = dict(bundle.make(made, (name,)).documents)
    (entry,) = json.loads(documents["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == full


# The sha256 of the file. It changes with what is written, never by accident.
GOLDEN = "69b9eda8a2f8387bf30aa51c31fd78ffe12df882c560d8b8650b95fa08ba1747"

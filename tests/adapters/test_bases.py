"""Images that others made: found, pinned, looked into, and refused where they are not right."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.debs import member
from tests.support.images import ImageLayout, debian, tar
from tests.support.services import docker_client
from toolchain.adapters.bases import BaseImages
from toolchain.adapters.docker_engine import DockerEngine
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest
from toolchain.errors import ConfigError, EngineError, ResolveError, ToolchainError
from toolchain.lock.image import ImagePins
from toolchain.progress import Progress
from toolchain.store import Store


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "base")


@pytest.fixture
def images(tmp_path: Path, store: Store) -> BaseImages:
    return BaseImages(
        root=tmp_path, hub="", store=store, progress=Progress(),
        repository=lambda host, name: HttpRegistry(host, host, name, insecure=False),
        engine=lambda: DockerEngine(os.environ))


def test_an_image_of_a_layout_is_pinned(layout: ImageLayout, images: BaseImages,
                                        store: Store) -> None:
    made = layout.manifest(debian(), labels={"vendor": "acme"})
    layout.tag(made, "latest")
    pins = images.pin("oci:base", "linux/amd64")
    assert str(pins.digest) == made["digest"]
    assert (pins.glibc, pins.suite) == ("2.36", "bookworm")
    assert pins.pythons == {"3.11": "/usr/local/bin/python3.11"}
    assert "GREETING=hello" in pins.environment
    assert pins.labels == {"vendor": "acme"}
    assert [str(layer.diff_id) for layer in pins.layers] == [
        str(Digest.of(data)) for data in debian()]
    assert all(store.has(layer.digest) for layer in pins.layers)
    assert ImagePins.from_json(json.loads(json.dumps(pins.to_json()))) == pins


@pytest.mark.parametrize(("reference", "says"), [
    ("docker-daemon:", "no image of the Docker engine is named"),
    ("Foo:::", "not an image reference"),
])
def test_what_names_no_image_is_said_of_the_setting(images: BaseImages, reference: str,
                                                    says: str) -> None:
    with pytest.raises(ToolchainError, match=says) as caught:
        images.pin(reference, "linux/amd64")
    assert caught.value.where.startswith("image.base = ")
    assert caught.value.fix


def test_the_platform_of_an_index_is_chosen(layout: ImageLayout, images: BaseImages) -> None:
    amd = layout.manifest(debian())
    arm = layout.manifest(debian("3.12"), platform="linux/arm64")
    noise = {**amd, "platform": {"os": "unknown", "architecture": "unknown"}}
    layout.tag(layout.index(noise, arm, amd))
    assert str(images.pin("oci:base", "linux/amd64").digest) == amd["digest"]
    assert str(images.pin("oci:base", "linux/arm64").digest) == arm["digest"]


def test_a_tag_of_a_layout_with_several(layout: ImageLayout, images: BaseImages) -> None:
    layout.tag(layout.manifest(debian("3.12")), "other")
    layout.tag(layout.manifest(debian("3.13")), "example.invalid/python:wanted")
    assert "3.13" in images.pin("oci:base:wanted", "linux/amd64").pythons
    with pytest.raises(ResolveError, match="no such base image"):
        images.pin("oci:base:missing", "linux/amd64")


def test_a_manifest_need_not_name_its_media_type(layout: ImageLayout, images: BaseImages) -> None:
    """As umoci of Debian 12 writes them; the image-spec leaves it open."""
    def without(descriptor: dict[str, Any]) -> dict[str, Any]:
        path = layout.folder / "blobs/sha256" / descriptor["digest"][7:]
        document = json.loads(path.read_bytes())
        del document["mediaType"]
        return {**descriptor, **layout.blob(json.dumps(document).encode())}

    made = without(layout.manifest(debian()))
    layout.tag(made)
    assert str(images.pin("oci:base", "linux/amd64").digest) == made["digest"]
    layout.tag(without(layout.index(made)))
    assert str(images.pin("oci:base", "linux/amd64").digest) == made["digest"]


def test_a_document_that_is_both_is_refused(layout: ImageLayout, images: BaseImages) -> None:
    made = layout.manifest(debian())
    document = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    del document["mediaType"]
    layout.tag({**made, **layout.blob(json.dumps({**document, "manifests": []}).encode())})
    with pytest.raises(ResolveError, match="of a kind that is not known"):
        images.pin("oci:base", "linux/amd64")


def test_the_source_gives_what_was_pinned(layout: ImageLayout, images: BaseImages) -> None:
    layout.tag(layout.manifest(debian()))
    pins = images.pin("oci:base", "linux/amd64")
    source = images.source(pins)
    assert source.location is None
    for layer in pins.layers:
        data = b"".join(source.stream(layer.digest, layer.size))
        assert (Digest.of(data), len(data)) == (layer.digest, layer.size)


def test_another_platform_is_named(layout: ImageLayout, images: BaseImages) -> None:
    layout.tag(layout.index(layout.manifest(debian(), platform="linux/arm64")))
    with pytest.raises(ResolveError) as caught:
        images.pin("oci:base", "linux/amd64")
    assert caught.value.what == "the base image is not for linux/amd64, only for: linux/arm64"
    layout.tag(layout.manifest(debian(), platform="linux/arm64"))
    with pytest.raises(ResolveError, match="is for linux/arm64, not for linux/amd64"):
        images.pin("oci:base", "linux/amd64")


def test_an_image_without_glibc_is_refused(layout: ImageLayout, images: BaseImages) -> None:
    layout.tag(layout.manifest(debian(libc=b"something else")))
    with pytest.raises(ResolveError) as caught:
        images.pin("oci:base", "linux/amd64")
    assert "glibc" in caught.value.what
    assert "python:3.11-slim" in caught.value.fix


def test_layers_that_are_not_what_the_config_names(layout: ImageLayout,
                                                   images: BaseImages) -> None:
    tars = debian()
    layout.tag(layout.manifest(tars, diff_ids=[str(Digest.of(b"x"))] * len(tars)))
    with pytest.raises(ResolveError, match="does not hold what the image's config names"):
        images.pin("oci:base", "linux/amd64")


@pytest.mark.parametrize("damage", [b"", b"other bytes", b"\x1f\x8b\x08\x00"])
def test_a_damaged_layer_is_refused(layout: ImageLayout, images: BaseImages, store: Store,
                                    damage: bytes) -> None:
    made = layout.manifest(debian())
    layout.tag(made)
    manifest = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    layer = manifest["layers"][0]["digest"][7:]
    (layout.folder / "blobs/sha256" / layer).write_bytes(damage)
    with pytest.raises(ToolchainError, match=r"damaged|cut short|does not match"):
        images.pin("oci:base", "linux/amd64")
    assert not store.has(Digest(layer))


def test_a_size_that_lies_is_noticed(layout: ImageLayout, images: BaseImages) -> None:
    made = layout.manifest([bytes(64 << 20)])
    manifest = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    layer = manifest["layers"][0]
    layer["size"] //= 4  # lies about its size
    layout.tag({**made, **layout.blob(json.dumps(manifest).encode())})
    with pytest.raises(ResolveError, match="damaged"):
        images.pin("oci:base", "linux/amd64")


def _bomb() -> bytes:
    """A layer whose second entry has a name of a gigabyte, as it says itself."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    return member("usr/bin/x")[0].tobuf() + info.tobuf(tarfile.GNU_FORMAT) + bytes(8 << 20)


@pytest.mark.parametrize(("bad", "says"), [
    (_bomb(), "is damaged: headers that are too large"),
    (tar([member("../../etc/x", b"x")]), "an entry leaves its layer: '../../etc/x'"),
    (tar([member("/usr/bin/x", b"x")]), "an entry leaves its layer: '/usr/bin/x'"),
])
def test_a_layer_that_means_harm_is_named(layout: ImageLayout, images: BaseImages, bad: bytes,
                                          says: str) -> None:
    made = layout.manifest([*debian(), bad])
    layout.tag(made)
    manifest = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    with pytest.raises(ResolveError) as caught:
        images.pin("oci:base", "linux/amd64")
    assert says in caught.value.what
    assert manifest["layers"][-1]["digest"] in caught.value.what


@pytest.mark.parametrize(("change", "says"), [
    (lambda m: m["config"].update(size=1 << 40), "no sensible size"),
    (lambda m: m["config"].update(digest=7), "no sha256"),
    (lambda m: m.pop("config"), "no sensible size"),
    (lambda m: m.update(config=[]), "no sensible size"),
    (lambda m: m.update(mediaType="text/plain"), "kind that is not known"),
    (lambda m: m["layers"][0].update(mediaType="application/x-foreign"), "cannot be copied"),
    (lambda m: m["layers"].pop(), "do not fit"),
    (lambda m: m["layers"][0].update(digest="sha256:../../etc/passwd"), "no sha256"),
])
def test_a_manifest_that_lies(layout: ImageLayout, images: BaseImages, change: object,
                              says: str) -> None:
    made = layout.manifest(debian())
    manifest = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    assert callable(change)
    change(manifest)
    layout.tag({**made, **layout.blob(json.dumps(manifest).encode())})
    with pytest.raises(ResolveError, match=says):
        images.pin("oci:base", "linux/amd64")


def test_a_manifest_or_index_that_was_changed_is_refused(layout: ImageLayout,
                                                         images: BaseImages) -> None:
    made = layout.manifest(debian())
    index = layout.index(made)
    for descriptor in (made, index):
        layout.tag(index)
        path = layout.folder / "blobs/sha256" / descriptor["digest"][7:]
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        with pytest.raises(ResolveError, match="is damaged"):
            images.pin("oci:base", "linux/amd64")
        path.write_bytes(whole)
    with pytest.raises(ResolveError, match="no sha256"):
        images.pin("oci:base:sha256:nothing", "linux/amd64")


def test_documents_that_are_too_deep(layout: ImageLayout, images: BaseImages) -> None:
    deep = b'{"a":' * 200_000
    layout.tag({"mediaType": "application/vnd.oci.image.manifest.v1+json", **layout.blob(deep)})
    with pytest.raises(ResolveError, match="not JSON"):
        images.pin("oci:base", "linux/amd64")
    (layout.folder / "index.json").write_bytes(deep)
    with pytest.raises(ResolveError, match="not JSON"):
        images.pin("oci:base", "linux/amd64")


@pytest.mark.parametrize("manifests", [None, 7, ["text"], [{"platform": "linux/amd64"}]])
def test_an_index_that_lies(layout: ImageLayout, images: BaseImages, manifests: object) -> None:
    data = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    layout.tag(layout.blob(json.dumps(data).encode()))
    with pytest.raises(ResolveError, match="names no manifests"):
        images.pin("oci:base", "linux/amd64")


@pytest.mark.parametrize("config", [{"config": ["x"]}, {"config": {"Env": 7}},
                                    {"config": {"Labels": ["x"]}}])
def test_a_config_that_lies(layout: ImageLayout, images: BaseImages,
                            config: dict[str, object]) -> None:
    made = layout.manifest(debian())
    manifest = json.loads((layout.folder / "blobs/sha256" / made["digest"][7:]).read_bytes())
    path = layout.folder / "blobs/sha256" / manifest["config"]["digest"][7:]
    data = json.dumps({**json.loads(path.read_bytes()), **config}).encode()
    manifest["config"].update(layout.blob(data))
    layout.tag({**made, **layout.blob(json.dumps(manifest).encode())})
    with pytest.raises(ResolveError, match="its config"):
        images.pin("oci:base", "linux/amd64")


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"manifests": 7}', "\0"])
def test_what_is_no_layout_is_named(layout: ImageLayout, images: BaseImages, index: str) -> None:
    (layout.folder / "index.json").write_text(index)
    with pytest.raises(ResolveError, match="cannot be used"):
        images.pin("oci:base", "linux/amd64")


def test_a_folder_that_is_not_there(images: BaseImages) -> None:
    with pytest.raises(ResolveError) as caught:
        images.pin("oci:nowhere", "linux/amd64")
    assert "not an OCI image layout" in caught.value.what
    assert "oci:PATH" in caught.value.fix


@pytest.mark.parametrize("reference", ["a/UPPER", "a b", "", "x:y:z", "python@sha256:12"])
def test_a_reference_that_is_none(images: BaseImages, reference: str) -> None:
    with pytest.raises(ConfigError):
        images.pin(reference, "linux/amd64")


def test_an_image_of_a_docker_engine(images: BaseImages, store: Store) -> None:
    client = docker_client()
    below, above = debian()
    first = client.api.import_image_from_data(below, repository="toolchain-test/base", tag="1")
    image_id = json.loads(first.splitlines()[-1])["status"]
    try:
        pins = images.pin("docker-daemon:toolchain-test/base:1", "linux/amd64")
        assert str(pins.digest) == image_id
        assert [layer.diff_id for layer in pins.layers] == [Digest.of(below)]
        assert (pins.glibc, pins.suite, pins.pythons) == (
            "2.36", "bookworm", {"3.9": "/usr/bin/python3.9"})
        (layer,) = pins.layers
        store.path(layer.digest).unlink()
        data = b"".join(images.source(pins).stream(layer.digest, layer.size))
        assert Digest.of(data) == layer.digest
        # Another image of that name is not what was pinned.
        client.api.import_image_from_data(above, repository="toolchain-test/base", tag="1")
        store.path(layer.digest).unlink()
        with pytest.raises(ResolveError, match="is another now"):
            list(images.source(pins).stream(layer.digest, layer.size))
        with pytest.raises(ResolveError, match="for linux/amd64, not for linux/arm64"):
            images.pin("docker-daemon:toolchain-test/base:1", "linux/arm64")
        with pytest.raises(EngineError, match="has no image"):
            images.pin("docker-daemon:toolchain-test/missing:1", "linux/amd64")
    finally:
        client.images.remove("toolchain-test/base:1", force=True)


def test_a_dockerfile_is_built_by_the_engine(images: BaseImages, store: Store,
                                             tmp_path: Path) -> None:
    client = docker_client()
    client.api.import_image_from_data(debian()[0], repository="toolchain-test/from", tag="1")
    (tmp_path / "Dockerfile").write_text(
        "FROM toolchain-test/from:1\nENV GREETING=hi\nLABEL vendor=acme\n")
    digest = Digest.of((tmp_path / "Dockerfile").read_bytes())
    try:
        pins = images.pin(f"dockerfile:Dockerfile@{digest}", "linux/amd64")
        assert "GREETING=hi" in pins.environment
        assert pins.labels == {"vendor": "acme"}
        assert pins.pythons == {"3.9": "/usr/bin/python3.9"}
        (layer,) = pins.layers
        store.path(layer.digest).unlink()
        data = b"".join(images.source(pins).stream(layer.digest, layer.size))
        assert Digest.of(data) == layer.digest
        with pytest.raises(ResolveError, match="changed while"):
            images.pin(f"dockerfile:Dockerfile@{Digest.of(b'')}", "linux/amd64")
        (tmp_path / "Dockerfile").write_text("FROM toolchain-test/from:1\nCOPY nothing /\n")
        digest = Digest.of((tmp_path / "Dockerfile").read_bytes())
        with pytest.raises(EngineError, match="does not build") as caught:
            images.pin(f"dockerfile:Dockerfile@{digest}", "linux/amd64")
        assert caught.value.where == "Dockerfile"
    finally:
        client.images.remove("toolchain-test/from:1", force=True)

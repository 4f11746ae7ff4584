"""An image's bytes follow from its layers alone; what another tool made is not taken for ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from toolchain import image, push
from toolchain.digest import Digest, canonical_json
from toolchain.image import Image
from toolchain.layer import GZIP, Layer
from toolchain.progress import Progress
from toolchain.push import BlobSource, Pushed
from toolchain.store import Store


def layer(label: str) -> Layer:
    return Layer(digest=Digest.of(label.encode()), diff_id=Digest.of(label.encode() * 2),
                 size=len(label), media_type=GZIP, label=label)


MADE = image.make((layer("base"), layer("packages"), layer("project")), "1000", "linux/amd64")


class Memory:
    """A repository in memory; implements push.Registry and remembers what came in which order."""

    name = "host.invalid/one"

    def __init__(self, manifest: bytes | None = None, config: bytes = b"") -> None:
        self.blobs = {Digest.of(config): config}
        self.tags = {} if manifest is None else {"tag": manifest}
        self.events: list[str] = []

    @property
    def location(self) -> tuple[str, str] | None:
        return None

    def manifest(self, reference: str) -> bytes | None:
        return self.tags.get(reference)

    def still_has(self, digest: Digest) -> bool:
        return digest in {Digest.of(manifest) for manifest in self.tags.values()}

    def config(self, digest: Digest) -> bytes:
        return self.blobs[digest]

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        yield self.blobs[digest]

    def has_blob(self, digest: Digest) -> bool:
        return digest in self.blobs

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        self.blobs[digest] = store.read(digest)
        assert len(self.blobs[digest]) == size
        self.events.append(str(digest))

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        name = tag or str(Digest.of(manifest))
        self.tags[name] = manifest
        self.events.append(name)

    def copy_blob(self, digest: Digest, size: int, source: BlobSource,
                  progress: Progress) -> None:
        self.blobs[digest] = b"".join(source.stream(digest, size))
        self.events.append(str(digest))

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        for manifest in manifests:
            self.put_manifest(manifest, None)

    def referrers(self, digest: Digest, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
        return ()


def test_the_same_layers_give_the_same_bytes() -> None:
    """Golden digests: a change here is a new image for every user, so it must be meant."""
    assert image.make(MADE.layers, "1000", "linux/amd64") == MADE
    assert str(MADE.config_digest) == (
        "sha256:33c64336dc992375ab1c78cc983a4f9d7585ca5d616628ec388cf8e5a2644479")
    assert str(MADE.digest) == (
        "sha256:a02d94b65cce7c3b67b8b744ffcfed7efd7d7ac5e2a241a501093201f9817e80")


def test_config_and_manifest_name_the_layers_in_order() -> None:
    config, manifest = json.loads(MADE.config), json.loads(MADE.manifest)
    assert config["rootfs"]["diff_ids"] == [str(item.diff_id) for item in MADE.layers]
    assert [item["digest"] for item in manifest["layers"]] == [
        str(item.digest) for item in MADE.layers]
    assert manifest["config"] == {"mediaType": image.CONFIG, "size": len(MADE.config),
                                  "digest": str(Digest.of(MADE.config))}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["config"]["User"] == "1000"
    assert config["config"]["Entrypoint"] == ["/opt/venv/bin/python", "-IS", "/opt/toolchain"]
    assert config["config"]["Cmd"] == ["run"]
    own = json.loads(image.make(MADE.layers, "1000", "linux/amd64", command=("a", "b c")).config)
    assert own["config"]["Entrypoint"] == ["a", "b c"]
    assert "Cmd" not in own["config"]
    assert image.plan({}, {}, "1000", "linux/amd64", command=("a",)) != image.plan(
        {}, {}, "1000", "linux/amd64")
    assert len(config["history"]) == len(MADE.layers)


def test_an_index_has_the_annotations_that_its_images_share() -> None:
    def made(platform: str, **annotations: str) -> bytes:
        return image.make(MADE.layers, "1000", platform, annotations).manifest

    amd = made("linux/amd64", title="one", base="a")
    arm = made("linux/arm64/v8", title="one", base="b")
    index = json.loads(image.index({"linux/amd64": amd, "linux/arm64/v8": arm}))
    assert index["annotations"] == {"title": "one"}
    assert index["manifests"][1] == {
        "mediaType": image.MANIFEST, "digest": str(Digest.of(arm)), "size": len(arm),
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    assert "annotations" not in json.loads(image.index({"linux/amd64": made("linux/amd64")}))


def test_an_image_is_read_back_from_its_bytes() -> None:
    assert image.from_bytes(MADE.manifest, MADE.config) == MADE


@pytest.mark.parametrize("other", [
    image.make(MADE.layers[::-1], "1000", "linux/amd64"),
    image.make(MADE.layers[:-1], "1000", "linux/amd64"),
    image.make(MADE.layers, "0", "linux/amd64"),
    image.make(MADE.layers, "1000", "linux/arm64"),
])
def test_another_order_layer_user_or_platform_is_another_image(other: Image) -> None:
    assert other.digest != MADE.digest


def test_the_tag_is_known_before_any_layer_and_moves_with_every_input() -> None:
    one = image.plan({"a": 1}, {"b": 2}, "1000", "linux/amd64")
    others = [image.plan({"a": 2}, {"b": 2}, "1000", "linux/amd64"),
              image.plan({"a": 1}, {"b": 3}, "1000", "linux/amd64"),
              image.plan({"b": 2}, {"a": 1}, "1000", "linux/amd64"),
              image.plan({"a": 1}, {"b": 2}, "0", "linux/amd64"),
              image.plan({"a": 1}, {"b": 2}, "1000", "linux/arm64")]
    assert len({Digest.of_json(plan) for plan in [one, one, *others]}) == 6


def altered(**changes: Any) -> bytes:
    return canonical_json({**json.loads(MADE.manifest), **changes})


def first_layer(**changes: Any) -> list[Any]:
    layers = json.loads(MADE.manifest)["layers"]
    return [{**layers[0], **changes}, *layers[1:]]


FOREIGN = {
    "not JSON": b"<html>", "not UTF-8": b"\xff", "a list": b"[]", "a number": b"5", "empty": b"{}",
    "an index": canonical_json({"mediaType": "application/vnd.oci.image.index.v1+json",
                                "manifests": []}),
    "another type": altered(mediaType="application/vnd.docker.distribution.manifest.v2+json"),
    "one layer less": altered(layers=json.loads(MADE.manifest)["layers"][1:]),
    "layers of another tool": altered(layers=first_layer(annotations={})),
    "layers without annotations": altered(layers=first_layer(annotations=None)),
    "no layers": altered(layers=None),
    "a layer's digest of another kind": altered(layers=first_layer(digest="sha512:00")),
    "a digest that is a number": altered(config={"digest": 5}),
    "a config that is a list": altered(config=[]),
    "lists within lists": b"[" * 200_000,
}


@pytest.mark.parametrize("manifest", FOREIGN.values(), ids=FOREIGN.keys())
def test_somebody_elses_tag_is_no_image_of_ours(manifest: bytes) -> None:
    assert push.find(Memory(manifest, MADE.config), "tag") is None


def test_a_config_that_is_not_the_named_one_is_refused() -> None:
    with pytest.raises(ValueError, match="not the one that the manifest names"):
        image.from_bytes(MADE.manifest, MADE.config + b" ")
    with pytest.raises(ValueError, match="not an OCI image manifest"):
        image.from_bytes(b"{}", MADE.config)
    config = canonical_json({"rootfs": {}})
    named = altered(config={"digest": str(Digest.of(config))})
    assert push.find(Memory(named, config), "tag") is None


def test_an_image_whose_config_is_gone_must_be_pushed_again() -> None:
    assert push.find(Memory(MADE.manifest, b"something else"), "tag") is None


def test_an_image_of_ours_is_found_by_its_tag() -> None:
    assert push.find(Memory(MADE.manifest, MADE.config), "tag") == MADE
    assert push.find(Memory(MADE.manifest, MADE.config), "other") is None
    assert push.find(Memory(), "tag") is None


def test_a_push_sends_what_is_missing_then_config_then_manifest_then_tag(store: Store) -> None:
    layers = tuple(replace(layer(label), digest=store.put(label.encode()))
                   for label in ("one", "two", "three"))
    made = image.make((*layers, layers[0]), "1000", "linux/amd64")
    registry = Memory(config=b"two")  # has one of the layers already
    progress = Progress()
    pushed, sent, size = push.make(made, "tag", registry, store, progress)
    assert sorted(registry.events[:2]) == sorted([str(layers[0].digest), str(layers[2].digest)])
    assert registry.events[2:] == [str(made.config_digest), "tag"]
    assert (sent, size, progress.expected) == (2, 8, 8 + len(made.config))
    assert pushed == Pushed(reference=f"host.invalid/one@{made.digest}", tag="tag",
                            digest=made.digest, config=made.config_digest)
    assert push.find(registry, "tag") == made
    assert push.make(made, "tag", registry, store, progress)[1:] == (0, 0)


def test_a_receipt_of_a_push_is_read_back() -> None:
    pushed = Pushed(reference=f"r@{MADE.digest}", tag="t", digest=MADE.digest,
                    config=MADE.config_digest)
    assert Pushed.from_json(pushed.to_json()) == pushed
    assert Layer.from_json(MADE.layers[0].to_json()) == MADE.layers[0]

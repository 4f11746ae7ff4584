"""An image's bytes follow from its layers alone."""

from __future__ import annotations

import json

import pytest

from toolchain import image
from toolchain.digest import Digest
from toolchain.layer import GZIP, Layer

LAYERS = tuple(
    Layer(digest=Digest.of(name), diff_id=Digest.of(b"tar" + name), size=len(name),
          media_type=GZIP, label=name.decode()) for name in (b"system", b"project"))


def test_the_same_layers_give_the_same_bytes() -> None:
    """Golden digests: a change here is a new image for every user, so it must be meant."""
    made = image.make(LAYERS, "1000", "linux/amd64")
    assert made == image.make(LAYERS, "1000", "linux/amd64")
    assert str(made.config_digest) == (
        "sha256:503f0c292ff4604630221f87819f3015010bb58996825af1dbdde3acc054664c")
    assert str(made.digest) == (
        "sha256:6de2b9c1c020ef83e03fd0a56e137eb05fd9c63b7c72c72d976288a505ca2efc")


def test_config_and_manifest_are_what_oci_asks_for() -> None:
    made = image.make(LAYERS, "1000", "linux/arm64")
    config, manifest = json.loads(made.config), json.loads(made.manifest)
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["rootfs"] == {"type": "layers",
                                "diff_ids": [str(layer.diff_id) for layer in LAYERS]}
    assert len(config["history"]) == len(LAYERS)
    assert config["config"]["User"] == "1000"
    assert manifest["config"] == {"mediaType": image.CONFIG, "size": len(made.config),
                                  "digest": str(made.config_digest)}
    assert [item["digest"] for item in manifest["layers"]] == [
        str(layer.digest) for layer in LAYERS]


def test_an_image_is_read_back_from_its_bytes() -> None:
    made = image.make(LAYERS, "1000", "linux/amd64")
    assert image.from_bytes(made.manifest, made.config) == made


def test_a_config_that_the_manifest_does_not_name_is_refused() -> None:
    made = image.make(LAYERS, "1000", "linux/amd64")
    with pytest.raises(ValueError, match="not the one that the manifest names"):
        image.from_bytes(made.manifest, made.config + b" ")
    with pytest.raises(ValueError, match="not an OCI image manifest"):
        image.from_bytes(b"{}", made.config)


def test_the_tag_follows_from_plans_alone() -> None:
    one = image.plan({"a": 1}, {"b": 2}, "1000", "linux/amd64")
    assert one == image.plan({"a": 1}, {"b": 2}, "1000", "linux/amd64")
    for other in (image.plan({"a": 2}, {"b": 2}, "1000", "linux/amd64"),
                  image.plan({"a": 1}, {"b": 3}, "1000", "linux/amd64"),
                  image.plan({"a": 1}, {"b": 2}, "0", "linux/amd64"),
                  image.plan({"a": 1}, {"b": 2}, "1000", "linux/arm64")):
        assert Digest.of_json(other) != Digest.of_json(one)

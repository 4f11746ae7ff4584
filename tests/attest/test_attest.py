"""Annotations say what is known and no more; a document's manifest names its image."""

from __future__ import annotations

import json

import pytest

from tests.attest.conftest import SOURCE
from toolchain import attest, image
from toolchain.attest import BaseImage, Document, Source
from toolchain.digest import Digest
from toolchain.image import Image

_PREFIX = "org.opencontainers.image."


def test_annotations_say_what_is_known() -> None:
    base = BaseImage(name="host/python:3.11", digest=Digest.of(b"base"))
    assert attest.annotate("one", SOURCE, base) == {
        f"{_PREFIX}title": "one", f"{_PREFIX}created": SOURCE.created,
        f"{_PREFIX}source": SOURCE.repository, f"{_PREFIX}revision": SOURCE.revision,
        f"{_PREFIX}base.name": "host/python:3.11", f"{_PREFIX}base.digest": str(base.digest),
    }
    assert attest.annotate("one", Source()) == {
        f"{_PREFIX}title": "one", f"{_PREFIX}created": image.CREATED}


def test_annotations_change_the_manifest_and_not_the_image(made: Image) -> None:
    other = image.make(made.layers, "1000", "linux/amd64", attest.annotate("one", SOURCE))
    assert other.config == made.config
    assert other.digest != made.digest
    assert json.loads(other.manifest)["annotations"] == attest.annotate("one", SOURCE)
    assert image.from_bytes(other.manifest, other.config) == other


def test_the_manifest_of_a_document_names_its_image(made: Image) -> None:
    document = Document(media_type=attest.IN_TOTO, data=b'{"a":1}')
    value = json.loads(attest.manifest(document, made, SOURCE.created))
    assert value["artifactType"] == attest.IN_TOTO
    assert value["subject"] == {"mediaType": image.MANIFEST, "digest": str(made.digest),
                                "size": len(made.manifest)}
    assert value["layers"] == [{"mediaType": attest.IN_TOTO, "size": 7,
                                "digest": str(Digest.of(document.data))}]
    assert value["config"] == {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                               "digest": str(Digest.of(b"{}"))}


def test_a_moment_is_utc_and_bounded() -> None:
    assert attest.moment(0) == "1970-01-01T00:00:00Z"
    assert attest.moment(1_767_323_045) == "2026-01-02T03:04:05Z"
    with pytest.raises(ValueError, match="not a date"):
        attest.moment(10**18)

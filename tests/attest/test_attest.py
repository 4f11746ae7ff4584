"""Annotations say what is known and no more; a document's manifest names its image."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tests.attest.conftest import SOURCE
from tests.support.memory import EmptyRegistry
from toolchain import attest, image
from toolchain.attest import BaseImage, Document, Source
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.store import Store

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
    value = json.loads(attest.manifest(document, made.manifest, SOURCE.created))
    assert value["artifactType"] == attest.IN_TOTO
    assert value["subject"] == {"mediaType": image.MANIFEST, "digest": str(made.digest),
                                "size": len(made.manifest)}
    assert value["layers"] == [{"mediaType": attest.IN_TOTO, "size": 7,
                                "digest": str(Digest.of(document.data))}]
    assert value["config"] == {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                               "digest": str(Digest.of(b"{}"))}


class Memory(EmptyRegistry):
    """Keeps the names of what it is given. It may take nothing that is attached."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.events: list[str] = []
        self._refuses = refuses

    def has_blob(self, digest: Digest) -> bool:
        return str(digest) in self.events

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        assert len(store.read(digest)) == size
        self.events.append(str(digest))

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        if self._refuses:
            raise RegistryError("the registry answered 400 (MANIFEST_INVALID)",
                                where="PUT /v2/", fix="see its log")
        for value in map(json.loads, manifests):
            assert value["subject"]["digest"] == str(subject)
            for item in [value["config"], *value["layers"]]:
                assert item["digest"] in self.events
            self.events.append(value["artifactType"])


DOCUMENTS = (Document(media_type=attest.CYCLONEDX, data=b'{"b":2}'),
             Document(media_type=attest.IN_TOTO, data=b'{"a":1}'))


def test_a_document_is_attached_after_its_blobs(made: Image, store: Store) -> None:
    registry, progress = Memory(), Progress()
    attest.attach(DOCUMENTS, made.manifest, SOURCE.created, registry, store, progress)
    blobs = sorted(str(Digest.of(data)) for data in (b"{}", b'{"b":2}', b'{"a":1}'))
    assert sorted(registry.events[:3]) == blobs
    assert registry.events[3:] == [attest.CYCLONEDX, attest.IN_TOTO]
    assert progress.expected == 16
    attest.attach(DOCUMENTS, made.manifest, SOURCE.created, registry, store, progress)
    assert progress.expected == 16  # no blob goes twice


def test_a_registry_that_takes_no_documents_can_be_used_without(
    made: Image, store: Store
) -> None:
    with pytest.raises(RegistryError, match="MANIFEST_INVALID") as caught:
        attest.attach(DOCUMENTS, made.manifest, SOURCE.created, Memory(refuses=True), store,
                      Progress())
    assert caught.value.where == "PUT /v2/"
    assert caught.value.fix.startswith("see its log; ")
    assert "image.attest = false" in caught.value.fix


def test_a_moment_is_utc_and_bounded() -> None:
    assert attest.moment(0) == "1970-01-01T00:00:00Z"
    assert attest.moment(1_767_323_045) == "2026-01-02T03:04:05Z"
    with pytest.raises(ValueError, match="not a date"):
        attest.moment(10**18)

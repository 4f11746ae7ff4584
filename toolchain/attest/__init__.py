"""Image -> what is said of it: annotations, a bill of materials, a provenance.

Rule 1: nothing here is part of an image's plan, so nothing here makes an image or a training new.
Rule 2: a document follows from the plan and the commit alone: no clock, machine path, environment
or random number, and no address that a package came from.
Rule 3: what is attached is there before the manifest that it is about, so whoever finds an image
finds its documents too. (distribution-spec 1.1, "Pushing Manifests with Subject": a registry
takes a manifest whose subject is not there yet.)

Source: OCI image-spec 1.1, annotations.md and manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import time

from toolchain.digest import Digest, canonical_json
from toolchain.errors import RegistryError
from toolchain.image import CREATED, MANIFEST, media_type
from toolchain.lock.image import LOCAL
from toolchain.progress import Progress
from toolchain.push import Registry
from toolchain.store import Store
from toolchain.values import dataclass
from toolchain.workers import Workers

VERSION = "0.1.0"  # of this package, as in pyproject.toml
CYCLONEDX = "application/vnd.cyclonedx+json"
IN_TOTO = "application/vnd.in-toto+json"
_ANNOTATION = "org.opencontainers.image."
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
_LAST = 253402300799  # seconds since 1970 at the end of 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a project's files come from, as far as version control knows; empty where it does not.

    repository: a URL without credentials; revision: the commit that last touched the project's
    folder, if the folder is as that commit left it; created: RFC 3339, in UTC.
    """

    repository: str = ""
    revision: str = ""
    created: str = CREATED


def moment(seconds: int) -> str:
    """Seconds since 1970 as RFC 3339, which ends with the year 9999. Raises ValueError."""
    if not 0 <= seconds <= _LAST:
        raise ValueError(f"not a date: {seconds}")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """The image that another begins with. The base made of Debian packages is none."""

    name: str
    digest: Digest

    @property
    def uri(self) -> str:
        """Where it is, as containers' tools name it; what is in no registry says so already."""
        is_local = self.name.startswith(LOCAL)
        return self.name if is_local else f"docker://{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Bytes that say something of an image, and their media type."""

    media_type: str
    data: bytes


def annotate(title: str, source: Source, base: BaseImage | None = None) -> dict[str, str]:
    """The annotations of an image's manifest."""
    values = {
        "title": title, "created": source.created, "source": source.repository,
        "revision": source.revision,
        "base.name": base.name if base else "", "base.digest": str(base.digest) if base else "",
    }
    return {f"{_ANNOTATION}{name}": value for name, value in values.items() if value}


def manifest(document: Document, subject: bytes, created: str) -> bytes:
    """The manifest that attaches a document to `subject`, a manifest or an index."""
    return canonical_json({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": document.media_type,
        "config": _descriptor(_EMPTY_TYPE, _EMPTY),
        "layers": [_descriptor(document.media_type, document.data)],
        "subject": _descriptor(media_type(subject), subject),
        "annotations": {f"{_ANNOTATION}created": created},
    })


def attach(documents: tuple[Document, ...], subject: bytes, created: str, registry: Registry,
           store: Store, progress: Progress) -> None:
    """Attach documents to a manifest or an index; twice is as once.

    Raises RegistryError, and StoreError where the cache cannot be written.
    """
    def put(data: bytes) -> None:
        digest = store.put(data)
        if not registry.has_blob(digest):
            progress.expect(len(data))
            registry.put_blob(digest, len(data), store, progress)

    blobs = [_EMPTY, *(document.data for document in documents)]
    with Workers(len(blobs)) as pool:
        pool.each(put, blobs)
    try:
        registry.attach([manifest(document, subject, created) for document in documents],
                        Digest.of(subject))
    except RegistryError as error:
        raise RegistryError(error.what, where=error.where, fix=f"{error.fix}; "
                            "for a registry that takes no attached documents, set "
                            "image.attest = false") from None


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}

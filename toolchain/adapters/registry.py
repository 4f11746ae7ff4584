"""A registry over HTTP: one repository of it, to push to and to pull from.

Source: OCI distribution-spec 1.1. Plain HTTP is for this machine's own registry, or said with
`insecure`; anything else is HTTPS. Credentials are Docker's own.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from toolchain.adapters import download, referrers
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.connections import is_loopback
from toolchain.adapters.transport import FOUND, Answer, Transport
from toolchain.digest import Digest
from toolchain.errors import ConfigError, RegistryError, StoreError, without_credentials
from toolchain.image import INDEX, media_type
from toolchain.progress import Progress
from toolchain.push import BlobSource
from toolchain.reference import api_host, check_repository, pull_name
from toolchain.store import Store
from toolchain.workers import Workers

if TYPE_CHECKING:
    from toolchain.adapters.upload import Chunks, Upload

_PIECE = 1 << 20
_MOST_PAGES = 100
_HOST = re.compile(r"(https?://)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d+)?/?\Z")
_NEXT_PAGE = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')


class HttpRegistry:
    """One repository of the registry at `host[:port]`; a push.Registry and a push.BlobSource.

    `pull_host` is the registry's name for those who pull; references begin with it. `say` tells
    people that it is waited for.
    """

    def __init__(self, host: str, pull_host: str, repository: str, *, insecure: bool,
                 environ: Mapping[str, str] | None = None,
                 backoff: Backoff | None = None,
                 say: Callable[[str], None] = lambda text: None) -> None:
        root = _root(host, insecure=insecure)
        self._address = root.partition("://")[2]
        self._repository = check_repository(repository)
        self._name = f"{pull_name(pull_host) or self._address}/{repository}"
        self._transport = Transport(root, os.environ if environ is None else environ,
                                    backoff or Backoff(), say)
        self._base = f"{root}/v2/{self._repository}"
        self._pull = (f"repository:{self._repository}:pull",)
        self._push = (f"repository:{self._repository}:pull,push",)
        self._lock = threading.Lock()
        self._chunks: Chunks | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def root(self) -> str:
        """The address that is asked: `scheme://host[:port]`."""
        return self._transport.root

    @property
    def location(self) -> tuple[str, str] | None:
        return self._address, self._repository

    # What is there

    def manifest(self, reference: str) -> bytes | None:
        answer = download.manifest(self._transport, self._url("manifests", reference), reference,
                                   self._pull)
        return None if answer is None else answer.body

    def document(self, reference: str) -> tuple[str, bytes] | None:
        """(media type, bytes) of a manifest or index, of OCI's kind or Docker's; None if not there.

        Verified if `reference` is a digest. Raises RegistryError for any other kind of document.
        """
        return download.document(self._transport, self._url("manifests", reference), reference,
                                 self._pull)

    def still_has(self, digest: Digest) -> bool:
        return True  # asking costs a request; `doit forget push` makes the next run ask

    def config(self, digest: Digest) -> bytes:
        answer = self._transport.expect(
            self._transport.ask("GET", self._url("blobs", str(digest)), scopes=self._pull), 200)
        if Digest.of(answer.body) != digest:
            raise RegistryError("the registry sent other bytes than asked for",
                                where=self._url("blobs", str(digest)),
                                fix="do not trust this registry")
        return answer.body

    def has_blob(self, digest: Digest) -> bool:
        answer = self._transport.ask("HEAD", self._url("blobs", str(digest)), scopes=self._pull)
        if answer.status == 404:
            return False
        self._transport.expect(answer, *FOUND)
        return True

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        return download.blob(self._transport, self._url("blobs", str(digest)), self._pull, digest,
                             size)

    def referrers(self, digest: Digest, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
        found = self._listed_referrers(digest, artifact_type)
        if found is None:
            tag = referrers.fallback_tag(digest)
            found = self._read_index(self.manifest(tag), self._url("manifests", tag))
        return referrers.of_type(found, artifact_type)  # not every registry filters

    # What is put there

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        def pieces(offset: int) -> Iterator[bytes]:
            with store.open(digest) as stream:
                try:
                    stream.seek(offset)
                    while piece := stream.read(_PIECE):
                        yield piece
                except OSError as error:  # else it would be taken for the connection's
                    raise StoreError(f"a blob cannot be read: {error.strerror}",
                                     where=str(store.path(digest)), fix="check the disk") from None

        self._upload(digest, size, pieces, progress).run()

    def copy_blob(self, digest: Digest, size: int, source: BlobSource,
                  progress: Progress) -> None:
        upload = self._upload(digest, size, lambda offset: _from(source, digest, size, offset),
                              progress)
        if source.location is not None and source.location[0] == self._address:
            repository = source.location[1]
            if upload.mount(repository, (*self._push, f"repository:{repository}:pull")):
                return
        upload.run()

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        # What is put under a tag is there under its digest too (distribution-spec, "Pushing
        # Manifests": the registry says under which).
        self._put_manifest(manifest, tag or str(Digest.of(manifest)))

    def attach(self, manifests: Sequence[bytes], subject: Digest) -> None:
        new = [referrers.descriptor(manifest, subject) for manifest in manifests]
        with Workers(len(manifests)) as pool:
            answers = pool.each(
                lambda manifest: self._put_manifest(manifest, str(Digest.of(manifest))), manifests)
        if all("oci-subject" in answer.headers for answer in answers):
            return  # the registry keeps the list itself
        tag = referrers.fallback_tag(subject)
        where = self._url("manifests", tag)
        for _ in range(self._transport.backoff.tries):
            index = self.manifest(tag)
            self._read_index(index, where)
            more = referrers.added(index, new)
            if more is None:
                return
            self._put_manifest(more, tag)
            # Read again, since another writer may have replaced it with a list without ours.
        raise RegistryError("the list of what refers to an image changes all the time",
                            where=where, fix="run the same command again")

    def _upload(self, digest: Digest, size: int, pieces: Callable[[int], Iterator[bytes]],
                progress: Progress) -> Upload:
        from toolchain.adapters.upload import Chunks, Upload

        with self._lock:  # all threads learn from the first that is refused
            self._chunks = chunks = self._chunks or Chunks()
        return Upload(self._transport, self._base, self._push, digest, size, pieces, progress,
                      chunks)

    def _put_manifest(self, manifest: bytes, reference: str) -> Answer:
        url, digest = self._url("manifests", reference), str(Digest.of(manifest))
        headers = {"Content-Type": media_type(manifest), "Content-Length": str(len(manifest))}
        for _ in range(self._transport.backoff.tries):
            answer = self._transport.expect(self._transport.ask(
                "PUT", url, scopes=self._push, body=manifest, headers=headers), 201)
            # Under a tag a registry takes whatever arrives, and says what that was.
            if answer.headers.get("docker-content-digest", digest) == digest:
                return answer
        raise RegistryError("the registry has another manifest than was sent",
                            where=f"PUT {url}", fix="something changes bytes on their way; use "
                                                    "HTTPS, then run the same command again")

    def _listed_referrers(self, digest: Digest,
                          artifact_type: str) -> tuple[dict[str, Any], ...] | None:
        """The registry's own list; None if it keeps none."""
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        url = self._url("referrers", str(digest)) + query
        found: tuple[dict[str, Any], ...] = ()
        for _ in range(_MOST_PAGES):
            answer = self._transport.ask("GET", url, scopes=self._pull,
                                         headers={"Accept": INDEX})
            if answer.status in (400, 404, 405) or (
                    answer.status == 200
                    and not answer.headers.get("content-type", "").startswith(INDEX)):
                return None
            self._transport.expect(answer, 200)
            found += self._read_index(answer.body, self._url("referrers", str(digest)))
            more = _NEXT_PAGE.search(answer.headers.get("link", ""))
            if not more:
                return found
            url = self._transport.target(answer.url, more[1])
        raise RegistryError(
            f"the list of what refers to an image has more than {_MOST_PAGES} pages", where=url,
            fix="remove some of it, or tell the registry's operator")

    def _read_index(self, index: bytes | None, where: str) -> tuple[dict[str, Any], ...]:
        try:
            return referrers.listed(index)
        except (ValueError, RecursionError):
            raise RegistryError("the list of what refers to an image is none", where=where,
                                fix="remove that tag from the registry") from None

    def _url(self, kind: str, reference: str) -> str:
        return f"{self._base}/{kind}/{reference}"


def address(setting: str) -> str:
    """`host[:port]` of a registry as people may write it, with a scheme."""
    return setting.rpartition("://")[2].rstrip("/")


def _root(host: str, *, insecure: bool) -> str:
    """`scheme://host[:port]` of the setting's registry. Raises ConfigError."""
    match = _HOST.match(host)
    if not match:
        raise ConfigError(f"not a registry: {host.rpartition('@')[2]!r}", where="registry",
                          fix="give host[:port], as in localhost:5000")
    loopback = is_loopback(match[2])
    scheme = match[1] or ("http://" if loopback or insecure else "https://")
    if scheme == "http://" and not (loopback or insecure):
        raise ConfigError("plain HTTP to another machine",
                          where=f"registry={without_credentials(host)}",
                          fix="use https, or say insecure=1")
    return scheme + api_host(match[2] + (match[3] or ""))


def _from(source: BlobSource, digest: Digest, size: int, offset: int) -> Iterator[bytes]:
    """What follows `offset`; what comes before is read too, as the whole is verified."""
    for piece in source.stream(digest, size):
        if offset >= len(piece):
            offset -= len(piece)
        else:
            yield piece[offset:]
            offset = 0

"""Manifest, index and config of an image that others made: found, read, distrusted.

Source: OCI image-spec 1.1 (image-index.md, manifest.md, config.md); Docker's image manifest v2,
schema 2, which differs in its media types alone.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import ResolveError, without_credentials
from toolchain.image import INDEX, MANIFEST
from toolchain.lock.image import BaseLayer
from toolchain.push import BlobSource

LARGEST = 8 << 20  # bytes
MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# Docker's names of layers -> OCI's, for the same bytes.
_LAYERS = {
    f"{_OCI_LAYER}+gzip": f"{_OCI_LAYER}+gzip", f"{_DOCKER_LAYER}.gzip": f"{_OCI_LAYER}+gzip",
    f"{_OCI_LAYER}+zstd": f"{_OCI_LAYER}+zstd", f"{_DOCKER_LAYER}.zstd": f"{_OCI_LAYER}+zstd",
    _OCI_LAYER: _OCI_LAYER, _DOCKER_LAYER: _OCI_LAYER,
}


class Home(BlobSource, Protocol):
    """Where an image is: a repository of a registry, or an OCI layout."""

    def document(self, reference: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a manifest or index by tag or digest; None if not there."""


def manifest(home: Home, wanted: str, reference: str,
             platform: str) -> tuple[dict[str, Any], Digest]:
    """The manifest for a platform, and its digest."""
    found = home.document(wanted)
    if found is None:
        raise ResolveError("there is no such base image", where=f"image.base = {reference}",
                           fix="check its name and tag")
    kind, data = found
    if kind in INDEXES:
        digest = _chosen(parsed(data, reference), reference, platform)
        found = home.document(str(digest))
        if found is None:
            raise unusable(reference, f"its index names {digest}, which is not there")
        kind, data = found
    manifest = parsed(data, reference)
    if (kind or manifest.get("mediaType")) not in MANIFESTS:
        raise unusable(reference, f"its manifest is of a kind that is not known: {kind[:100]!r}")
    return manifest, Digest.of(data)


def _chosen(index: dict[str, Any], reference: str, platform: str) -> Digest:
    """The entry of an index for a platform. A variant counts only if it is asked for."""
    offered = []
    for item in manifests_of(index, reference):
        entry = item.get("platform") or {}
        name = f"{entry.get('os')}/{entry.get('architecture')}"
        if platform in (name, f"{name}/{entry.get('variant')}"):
            return digest_of(item, reference)
        offered.append(name)
    known = ", ".join(sorted({name for name in offered if "unknown" not in name})) or "none"
    raise ResolveError(f"the base image is not for {platform}, only for: {known}",
                       where=f"image.base = {reference}",
                       fix="name another base image, or another image.platform")


def kind_of(document: dict[str, Any]) -> str:
    """The media type of a manifest or index. OCI's may leave it out (manifest.md, index.md); they
    are told apart by what they must have, and what has both is neither."""
    kind = str(document.get("mediaType") or "")
    if kind or ("manifests" in document) == ("layers" in document):
        return kind
    return INDEX if "manifests" in document else MANIFEST


def manifests_of(index: dict[str, Any], reference: str) -> list[dict[str, Any]]:
    """The descriptors in an index."""
    found = index.get("manifests")
    if not isinstance(found, list) or not all(
            isinstance(item, dict) and isinstance(item.get("platform") or {}, dict)
            for item in found):
        raise unusable(reference, "its index names no manifests")
    return found


def check_platform(config: dict[str, Any], platform: str, reference: str) -> None:
    found = f"{config.get('os')}/{config.get('architecture')}"
    if found != "/".join(platform.split("/")[:2]):
        raise other_platform(found, platform, reference)


def other_platform(found: str, wanted: str, reference: str) -> ResolveError:
    return ResolveError(f"the base image is for {found}, not for {wanted}",
                        where=f"image.base = {reference}",
                        fix="name another base image, or another image.platform")


def layers_of(manifest: dict[str, Any], config: dict[str, Any],
              reference: str) -> tuple[BaseLayer, ...]:
    layers = []
    try:
        pairs = list(zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True))
        for item, diff_id in pairs:
            if item["mediaType"] not in _LAYERS:
                raise unusable(reference, f"a layer is of a kind that cannot be copied: "
                                      f"{item['mediaType']!r}")
            layers.append(BaseLayer(digest=digest_of(item, reference),
                                    diff_id=Digest.parse(diff_id), size=int(item["size"]),
                                    media_type=_LAYERS[item["mediaType"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(reference, f"manifest and config do not fit: {error}") from None
    return tuple(layers)


def runtime_of(config: dict[str, Any], reference: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The variables and labels that a config gives to containers."""
    runtime = config.get("config") or {}
    try:
        return (tuple(str(item) for item in runtime.get("Env") or ()),
                {str(name): str(value) for name, value in (runtime.get("Labels") or {}).items()})
    except (AttributeError, TypeError):
        raise unusable(reference, "its config does not say how containers run") from None


def small(home: Home, descriptor: Any, reference: str) -> bytes:
    """The bytes of a blob that is a document."""
    size = descriptor.get("size") if isinstance(descriptor, dict) else None
    if not isinstance(size, int) or not 0 <= size <= LARGEST:
        raise unusable(reference, "its config has no sensible size")
    return b"".join(home.stream(digest_of(descriptor, reference), size))


def digest_of(descriptor: Any, reference: str) -> Digest:
    try:
        return Digest.parse(descriptor["digest"])
    except (KeyError, TypeError, ValueError):
        raise unusable(reference, "it names a blob by something that is no sha256") from None


def parsed(data: bytes, reference: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unusable(reference, "a document of it is not JSON")
    return value


def unusable(reference: str, reason: str) -> ResolveError:
    return ResolveError(f"the base image cannot be used: {reason}",
                        where=f"image.base = {without_credentials(reference)}",
                        fix="name another image, or another tag of it")

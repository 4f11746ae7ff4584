"""The list of what refers to a manifest, where a registry keeps none.

Source: OCI distribution-spec 1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from typing import Any

from toolchain.digest import Digest, canonical_json

INDEX = "application/vnd.oci.image.index.v1+json"


def tag(subject: Digest) -> str:
    """The tag under which clients keep the list."""
    return f"sha256-{subject.hex}"


def entries(index: bytes | None, artifact_type: str = "") -> tuple[dict[str, Any], ...]:
    """The descriptors in a list, of one type or all. Raises ValueError if it is none."""
    if index is None:
        return ()
    try:
        found = tuple(dict(item) for item in json.loads(index)["manifests"])
        return tuple(item for item in found
                     if artifact_type in ("", item.get("artifactType")))
    except (KeyError, TypeError):
        raise ValueError("not an image index") from None


def with_manifest(index: bytes | None, manifest: bytes) -> bytes | None:
    """The list with a manifest added; None if it is in it already."""
    parsed, digest = json.loads(manifest), str(Digest.of(manifest))
    known = entries(index)
    if any(item.get("digest") == digest for item in known):
        return None
    entry = {"mediaType": parsed["mediaType"], "digest": digest, "size": len(manifest),
             "artifactType": parsed.get("artifactType") or parsed["config"]["mediaType"]}
    if parsed.get("annotations"):
        entry["annotations"] = parsed["annotations"]
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*known, entry]})

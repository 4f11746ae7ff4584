"""What refers to a manifest: descriptors, and the index that stands in for a registry's own list.

Source: OCI distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema"; pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toolchain.digest import Digest, canonical_json
from toolchain.image import INDEX, media_type

Descriptor = dict[str, Any]


def fallback_tag(subject: Digest) -> str:
    return f"sha256-{subject.hex}"


def descriptor(manifest: bytes, subject: Digest) -> Descriptor:
    """How a manifest is listed among its subject's referrers.

    Raises ValueError if it names another subject or none.
    """
    parsed = json.loads(manifest)
    if (parsed.get("subject") or {}).get("digest") != str(subject):
        raise ValueError(f"the manifest's subject is not {subject}")
    made = {"mediaType": media_type(manifest), "digest": str(Digest.of(manifest)),
            "size": len(manifest)}
    kind = parsed.get("artifactType") or (parsed.get("config") or {}).get("mediaType")
    if kind:
        made["artifactType"] = kind
    if parsed.get("annotations"):
        made["annotations"] = parsed["annotations"]
    return made


def listed(index: bytes | None) -> tuple[Descriptor, ...]:
    """The descriptors in an index. Raises ValueError for what is none."""
    if index is None:
        return ()
    parsed = json.loads(index)
    manifests = parsed.get("manifests") if isinstance(parsed, dict) else None
    if not isinstance(manifests, list):
        raise ValueError("not an index")
    for item in manifests:
        if not isinstance(item, dict) or not isinstance(item.get("digest"), str):
            raise ValueError("not an index")
        Digest.parse(item["digest"])
    return tuple(manifests)


def added(index: bytes | None, new: Iterable[Descriptor]) -> bytes | None:
    """The index with these descriptors too; None if they are all in there already."""
    known = listed(index)
    there = {item["digest"] for item in known}
    more = [item for item in new if item["digest"] not in there]
    if not more:
        return None
    rest = json.loads(index) if index is not None else {"schemaVersion": 2, "mediaType": INDEX}
    return canonical_json({**rest, "manifests": [*known, *more]})


def of_type(found: tuple[Descriptor, ...], artifact_type: str) -> tuple[Descriptor, ...]:
    """Those of one artifact type; all for an empty one."""
    return tuple(item for item in found
                 if not artifact_type or item.get("artifactType") == artifact_type)

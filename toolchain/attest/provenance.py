"""Image -> a statement of what it was made from.

Source: in-toto Statement v1, https://in-toto.io/Statement/v1; SLSA provenance v1,
https://slsa.dev/provenance/v1. What the build type means is in docs/guides/supply-chain.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from toolchain.attest import IN_TOTO, VERSION, BaseImage, Document, Source, origin
from toolchain.digest import Digest, canonical_json
from toolchain.lock import Package
from toolchain.spec.source import FOLDER, GIT
from toolchain.values import dataclass

if TYPE_CHECKING:
    from toolchain.lock.conda import CondaPackage

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
_TOOL = "pkg:pypi/mlproject-toolchain"
BUILD_TYPE = f"{_TOOL}#image/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What an image was made from. `lock` is the digest of the file; `base_lock` is that of the
    digests of the entries of base.lock that the image stands on.

    project: its folder, relative to the workspace; plan: the key of the image's plan, which is
    its tag; files: the digest of the plan of the project's layer; base: the Debian suite, or
    the image that stands in its place.
    """

    project: str
    platform: str
    python: str
    plan: Digest
    files: Digest
    lock: Digest
    base: str | BaseImage
    base_lock: Digest
    packages: tuple[Package, ...]
    conda: tuple[CondaPackage, ...] = ()


def statement(name: str, image: Digest, made_from: Materials, source: Source) -> Document:
    """The provenance of the image `name@image`."""
    return Document(media_type=IN_TOTO, data=canonical_json({
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": _sha256(image)}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"project": made_from.project,
                                       "platform": made_from.platform,
                                       "python": made_from.python},
                "internalParameters": {"plan": str(made_from.plan)},
                "resolvedDependencies": [*_dependencies(made_from, source)],
            },
            "runDetails": {
                "builder": {"id": f"{_TOOL}@{VERSION}",
                            "version": {"mlproject-toolchain": VERSION}},
            },
        },
    }))


def _dependencies(made_from: Materials, source: Source) -> Iterable[dict[str, Any]]:
    if source.revision:
        item: dict[str, Any] = {"name": "source", "digest": {"gitCommit": source.revision}}
        if source.repository:
            item["uri"] = f"git+{source.repository}@{source.revision}"
        yield item
    yield {"name": "project files", "digest": _sha256(made_from.files)}
    yield {"name": "requirements.lock", "digest": _sha256(made_from.lock)}
    if isinstance(made_from.base, BaseImage):
        yield {"name": "base image", "uri": made_from.base.uri,
               "digest": _sha256(made_from.base.digest)}
        suite: dict[str, Any] = {}
    else:
        suite = {"annotations": {"suite": made_from.base}}
    yield {"name": "base.lock", "digest": _sha256(made_from.base_lock), **suite}
    for pinned in made_from.conda:
        yield {"uri": f"pkg:conda/{pinned.name}@{quote(pinned.version, safe='')}?build="
                      f"{quote(pinned.build, safe='')}&channel="
                      f"{quote(pinned.channel_name, safe='')}&subdir={pinned.subdir}",
               "digest": _sha256(pinned.sha256)}
    for package in made_from.packages:
        yield _package(package)


def _package(package: Package) -> dict[str, Any]:
    if package.kind == GIT:
        place = origin.place(package)
        return {"uri": place, "digest": {"gitCommit": place.rpartition("@")[2]}}
    uri = origin.purl(package).to_string()
    if package.kind == FOLDER:  # no file's: of what its wheel holds
        return {"name": package.name, "uri": uri, "annotations": {
            "folder": origin.place(package), "content": str(package.sha256)}}
    return {"uri": uri, "digest": _sha256(package.sha256)}


def _sha256(digest: Digest) -> dict[str, str]:
    return {"sha256": digest.hex}

"""A small image, its lock and its base."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain import image
from toolchain.attest import Source
from toolchain.digest import Digest
from toolchain.image import Image
from toolchain.layer import GZIP, Layer
from toolchain.lock import Package
from toolchain.lock.base import BasePins, DebianPackage
from toolchain.lock.image import ImagePins

PACKAGES = tuple(
    Package(name=name, version=version, sha256=Digest.of(name.encode()))
    for name, version in [("alpha", "1.0"), ("beta", "2.0+cu12"), ("gamma", "1!3.0rc1")]
)
PLACED = (
    Package(name="commit", version="1.0", sha256=Digest.of(b"files"),
            source=f"git+https://me:${{TOKEN}}@code.invalid/x@{'3' * 40}#rev=main"),
    Package(name="file", version="1.0", sha256=Digest.of(b"file"), source="./file.tar.gz"),
    Package(name="folder", version="1.0", sha256=Digest.of(b"wheel"),
            source="../folder#subdirectory=x"),
    Package(name="url", version="1.0", sha256=Digest.of(b"url"),
            source="https://code.invalid/archive/main.zip"),
)
LICENCES = {"alpha": "Apache-2.0", "beta": "MIT OR Apache-2.0", "gamma": "Gamma's own licence"}
BASE = BasePins(suite="bookworm", platform="linux/amd64", packages=tuple(
    DebianPackage(name=name, version=version, architecture=architecture, archive="debian",
                  path=f"pool/{name}.deb", size=1, sha256=Digest.of(name.encode()))
    for name, version, architecture in [("base-files", "12.4", "amd64"),
                                        ("libattr1", "1:2.5.1-4", "amd64"),
                                        ("libstdc++6", "12.2.0-14+deb12u1", "amd64"),
                                        ("tzdata", "2024a-0", "all")]
))
UBUNTU = ImagePins(
    reference="ubuntu:22.04", platform="linux/amd64", digest=Digest.of(b"ubuntu"), glibc="2.35",
    suite="", pythons={}, environment=(), labels={}, layers=(),
    installed={"libc6": "2.35-0ubuntu3", "tzdata": "1:2024a"}, system="ubuntu", release="jammy")
SOURCE = Source(repository="https://code.invalid/team/models.git", revision="1" * 40,
                created="2026-01-02T03:04:05Z")


@pytest.fixture
def made() -> Image:
    layer = Layer(digest=Digest.of(b"layer"), diff_id=Digest.of(b"tar"), size=5, media_type=GZIP,
                  label="one")
    return image.make((layer,), "1000", "linux/amd64")


def by_name(parts: list[Any]) -> dict[str, Any]:
    return {part["name"]: part for part in parts}

"""The image that push left, and where its bytes are to be had."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolchain import push as pushing
from toolchain.bundle import Attached, Fetch
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.stages import push

_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_TAG = 128  # OCI distribution-spec 1.1, pulling manifests


def image_of(chain: Chain) -> Image:
    """The pushed image, by its digest. Raises RegistryError if the registry lost it."""
    done = push.result(chain)
    found = pushing.find(chain.session.tools.registry(chain.config), str(done.digest))
    if found is None:
        raise RegistryError("the image is no longer where it was pushed", where=done.reference,
                            fix=f"`doit forget push:{chain.name}`, then run this again")
    return found


def attached_to(chain: Chain, image: Image) -> tuple[Attached, ...]:
    """What the registry has that refers to the image: a bill of materials, signatures."""
    registry = chain.session.tools.registry(chain.config)
    found = []
    for descriptor in registry.referrers(image.digest):
        manifest = registry.manifest(descriptor["digest"])
        try:
            found.append(Attached.of(manifest or b""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RegistryError("what is attached to the image is gone or no manifest",
                                where=f"{registry.name}@{descriptor['digest']}",
                                fix="delete it, or what lists it, from the registry") from None
    return tuple(found)


def names_of(chain: Chain) -> tuple[str, ...]:
    """What people call the image, then its tag: `repository:project`, `repository:tag`."""
    repository = chain.session.tools.registry(chain.config).name
    return f"{repository}:{tag_of(chain.name)}", f"{repository}:{push.result(chain).tag}"


def tag_of(project: str) -> str:
    """A project's name as a tag. Names that cannot be one stay different from each other."""
    tag = _NOT_IN_TAGS.sub("-", project)
    if tag == project and tag[0] not in ".-" and len(tag) <= _LONGEST_TAG:
        return tag
    return f"{tag.lstrip('.-')[:100]}-{Digest.of(project.encode()).hex[:8]}".lstrip("-")


def fetcher(chain: Chain, progress: Progress) -> Fetch:
    """Reads blobs from the store where they are there, else from the registry."""
    read = pushing.fetcher(chain.session.tools.registry(chain.config), chain.session.store)

    def fetch(digest: Digest, size: int) -> Iterator[bytes]:
        for piece in read(digest, size):
            progress.advance(len(piece))
            yield piece

    return fetch

"""The image that push left, and where its bytes are to be had."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolchain import push as pushing
from toolchain.bundle import Attached, Fetch, Several
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.stages import platforms, push

_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_TAG = 128  # OCI distribution-spec 1.1, pulling manifests


def image_of(chain: Chain) -> Image:
    """The pushed image, by its digest. Raises RegistryError if the registry lost it."""
    done = push.result(chain)
    found = pushing.find(chain.session.tools.registry(chain.config), str(done.digest))
    if found is None:
        raise _lost(chain, done.reference)
    return found


def _lost(chain: Chain, reference: str) -> RegistryError:
    return RegistryError("the image is no longer where it was pushed", where=reference,
                         fix=f"`doit forget push:{chain.name}`, then run this again")


def several_of(chain: Chain) -> Several | None:
    """The pushed index of a project for several platforms, with its images; None for one platform.

    Raises RegistryError if the registry lost it.
    """
    if len(chain.platforms) == 1:
        return None
    done = pushing.Pushed.from_json(platforms.whole(push, chain))
    index = chain.session.tools.registry(chain.config).manifest(str(done.digest))
    if index is None:
        raise _lost(chain, done.reference)
    return Several(index=index, images=tuple(
        image_of(chain.on(platform)) for platform in chain.platforms))


def attached_to(chain: Chain, subject: Digest) -> tuple[Attached, ...]:
    """What the registry has that refers to the image or index: a bill of materials, signatures."""
    registry = chain.session.tools.registry(chain.config)
    found = []
    for descriptor in registry.referrers(subject):
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
    done = pushing.Pushed.from_json(platforms.whole(push, chain))
    return f"{repository}:{tag_of(chain.name)}", f"{repository}:{done.tag}"


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

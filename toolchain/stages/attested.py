"""What is said of a project's image, from what is on record; and where its files come from."""

from __future__ import annotations

import os

from toolchain import attest
from toolchain.attest import BaseImage, Document, Source, provenance, sbom
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.image import Image
from toolchain.lock.image import LOCAL
from toolchain.reference import parse_reference
from toolchain.stages import resolve
from toolchain.stages.published import base_image, base_plan, image_plan, layer_plan

_COMPONENTS, _LICENCE = "sbom", "licence"


def source(chain: Chain) -> Source:
    """Asks version control, which takes a while: only where a manifest is made or shown."""
    files = [file[0] for file in layer_plan(chain)["files"]]
    return chain.session.tools.source(chain.folder, files)


def annotate(chain: Chain, source: Source) -> dict[str, str]:
    """The annotations of the image's manifest."""
    return attest.annotate(chain.name, source, _base_image(chain))


def _base_image(chain: Chain) -> BaseImage | None:
    pins = base_image(chain)
    if pins is None:
        return None
    name = pins.reference
    if not name.startswith(LOCAL):
        name = str(parse_reference(name))  # a reader knows of no default registry
    return BaseImage(name=name, digest=pins.digest)


def documents(chain: Chain, source: Source, image: Image) -> tuple[Document, ...]:
    """What is attached to the image."""
    name = chain.session.tools.registry(chain.config).name
    return (bill_of_materials(chain, source),
            provenance.statement(name, image.digest, _materials(chain), source))


def of_index(chain: Chain, source: Source, index: bytes) -> tuple[Document, ...]:
    """What is attached to the index of a project's images: a provenance for each platform."""
    name = chain.session.tools.registry(chain.config).name
    return tuple(
        provenance.statement(name, Digest.of(index), _materials(chain.on(platform)), source)
        for platform in chain.platforms)


def bill_of_materials(chain: Chain, source: Source) -> Document:
    """The image's packages; needs the locks alone, and tells the licences of wheels that are
    here."""
    return sbom.document(chain.name, Digest.of_json(image_plan(chain)).hex, source.created,
                         _components(chain))


def _components(chain: Chain) -> list[object]:
    trace = chain.session.trace
    pins = base_image(chain)
    # Another name of the system is no other image, but another document.
    what = {"schema": sbom.SCHEMA, "base": base_plan(chain),
            **({"system": sbom.system(pins)} if pins is not None and not pins.suite else {})}
    key = Digest.of_json(what)
    with trace.holding(_COMPONENTS, key, chain.waiting):
        known: list[object] | None = trace.get(_COMPONENTS, key)
        if known is not None:
            return known
        lock = resolve.result(chain)
        licences = _licences(chain)
        made = sbom.components(lock.packages, licences, resolve.foundation(chain),
                               lock.conda.packages if lock.conda else ())
        if len(licences) == len(lock.packages):  # else more may be known another time
            trace.record(_COMPONENTS, key, what, made, project=chain.name)
        return made


def _licences(chain: Chain) -> dict[str, str]:
    """Package -> the licence it declares, which may be none, for the wheels that are here."""
    from toolchain.attest.licence import declared

    lock, found = resolve.result(chain), {}
    trace, store = chain.session.trace, chain.session.store
    for package in lock.packages:
        text = trace.get(_LICENCE, package.sha256)
        if text is None:
            wheel = chain.session.tools.wheels().here(package, lock.python, lock.platform)
            if wheel is None:
                continue
            with store.open(wheel.digest) as stream:
                text = declared(stream)
            trace.note(_LICENCE, package.sha256, text)
        found[package.name] = text
    return found


def _materials(chain: Chain) -> provenance.Materials:
    lock, locks = resolve.result(chain), resolve.plan(chain)
    return provenance.Materials(
        project=os.path.relpath(chain.folder, chain.boundary), platform=lock.platform,
        python=lock.python,
        plan=Digest.of_json(image_plan(chain)), files=Digest.of_json(layer_plan(chain)),
        lock=Digest(locks["lock"]), base=_base_image(chain) or resolve.base(chain)["suite"],
        base_lock=Digest.of_json(locks["base"]), packages=lock.packages,
        conda=lock.conda.packages if lock.conda else (),
    )

"""Lock and base -> a CycloneDX bill of materials.

Its components follow from the lock and the base's pins alone, so they are made once for all
projects that share those; what is a project's own is written around them.
A scanner looks a package up in the advisories of the system that its package URL names, so a
package of a system that is not known has no such URL: no match is better than a wrong one.
Source: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/; package URLs,
https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from toolchain.attest import CYCLONEDX, VERSION, Document, origin
from toolchain.digest import Digest, canonical_json
from toolchain.lock import Package
from toolchain.lock.base import BasePins, Foundation
from toolchain.lock.image import ImagePins

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

    from toolchain.lock.conda import CondaPackage

SCHEMA = 3  # raise when `components` writes something else for the same packages


def components(packages: Iterable[Package], licences: Mapping[str, str],
               base: Foundation, conda: Iterable[CondaPackage] = ()) -> list[Any]:
    """The packages of an image, Debian's first. `licences` maps names of Python packages."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom(components=[*_debian(base), *_conda(conda), *_python(packages, licences)])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return sorted(document.get("components", []), key=lambda item: str(item["bom-ref"]))


def document(name: str, tag: str, created: str, parts: list[Any]) -> Document:
    """The bill of materials of the project image `name` with that tag."""
    value: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": {"type": "container", "bom-ref": "image", "name": name, "version": tag},
            "tools": {"components": [
                {"type": "application", "name": "mlproject-toolchain", "version": VERSION}]},
        },
        "components": parts,
    }
    value["serialNumber"] = f"urn:uuid:{_uuid(Digest.of_json(value))}"
    return Document(media_type=CYCLONEDX, data=canonical_json(value))


def _python(packages: Iterable[Package], licences: Mapping[str, str]) -> Iterable[Component]:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import LicenseAcknowledgement

    factory = LicenseFactory()
    for package in packages:
        purl = origin.purl(package)
        text = licences.get(package.name, "")
        yield Component(name=package.name, version=package.version, purl=purl,
                        bom_ref=purl.to_string(),
                        hashes=[] if package.is_built_here else [_sha256(package.sha256)],
                        licenses=[factory.make_from_string(
                            text, license_acknowledgement=LicenseAcknowledgement.DECLARED,
                        )] if text else ())


def _conda(packages: Iterable[CondaPackage]) -> Iterable[Component]:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    for package in packages:
        kind = "conda" if package.file.endswith(".conda") else "tar.bz2"
        purl = PackageURL("conda", name=package.name, version=package.version, qualifiers={
            "build": package.build, "channel": package.channel_name, "subdir": package.subdir,
            "type": kind})
        yield Component(name=package.name, version=package.version, purl=purl,
                        bom_ref=purl.to_string(), hashes=[_sha256(package.sha256)])


def _debian(foundation: Foundation) -> Iterable[Component]:
    base, more = foundation.base, foundation.apt
    pinned = [*(base.packages if isinstance(base, BasePins) else ()),
              *(more.packages if more else ())]
    for package in pinned:
        yield _deb(package.name, package.version, ("debian", base.suite),
                   {"arch": package.architecture}, [_sha256(package.sha256)])
    if isinstance(base, ImagePins):  # an image says what is installed, not from which file
        for name, version in base.installed.items():
            yield _deb(name, version, system(base))


def system(base: ImagePins) -> tuple[str, str]:
    """The namespace and the `distro` of the packages of a base image, as package URLs have them;
    empty where they are not known, as for an image that was pinned before they were looked for."""
    if base.suite:
        return "debian", base.suite
    # A number alone names no release: `debian-12`, as scanners write and read it.
    is_number = base.release[:1].isdigit()
    return base.system, f"{base.system}-{base.release}" if is_number else base.release


def _deb(name: str, version: str, of: tuple[str, str], more: Mapping[str, str] | None = None,
         hashes: Iterable[Any] = ()) -> Component:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    namespace, distro = of
    if not namespace:
        return Component(name=name, version=version, bom_ref=f"{name}@{version}", hashes=hashes)
    purl = PackageURL("deb", namespace, name, version,
                      {**(more or {}), **({"distro": distro} if distro else {})})
    return Component(name=name, version=version, purl=purl, bom_ref=purl.to_string(),
                     hashes=hashes)


def _sha256(digest: Digest) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest.hex)


def _uuid(digest: Digest) -> str:
    """A UUID that names content (RFC 9562, version 8: bits of the maker's choice)."""
    text = digest.hex
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-a{text[17:20]}-{text[20:32]}"

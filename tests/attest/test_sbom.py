"""A bill of materials is valid CycloneDX, names every package, and follows from the pins."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tests.attest.conftest import BASE, LICENCES, PACKAGES, PLACED, UBUNTU, by_name
from toolchain.attest import sbom
from toolchain.lock import Package
from toolchain.lock.base import BasePins, DebianPackage, Foundation
from toolchain.lock.image import ImagePins

ON = Foundation(base=BASE, apt=None)
PARTS = sbom.components(PACKAGES, LICENCES, ON)
NOTHING = Foundation(
    base=BasePins(suite="bookworm", platform="linux/amd64", packages=()), apt=None)


def error(text: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize("parts", [PARTS, sbom.components(PACKAGES, {}, ON),
                                   sbom.components((), {}, NOTHING)])
def test_it_is_valid_by_the_schema(parts: list[object]) -> None:
    text = sbom.document("one", "a" * 64, "2026-01-02T03:04:05Z", parts).data.decode()
    assert error(text) is None
    assert error(text.replace("urn:uuid:", "")) is not None  # the check can fail


def test_every_package_is_in_it_with_address_version_and_hash() -> None:
    parts = by_name(PARTS)
    every: tuple[Package | DebianPackage, ...] = (*PACKAGES, *BASE.packages)
    for pinned in every:
        part = parts[pinned.name]
        purl = PackageURL.from_string(part["purl"])
        assert (purl.name, purl.version) == (pinned.name, pinned.version)
        assert part["version"] == pinned.version
        assert part["hashes"] == [{"alg": "SHA-256", "content": pinned.sha256.hex}]
    assert len(parts) == len(PARTS) == len(PACKAGES) + len(BASE.packages)
    assert parts["beta"]["purl"] == "pkg:pypi/beta@2.0%2Bcu12"
    assert parts["tzdata"]["purl"] == "pkg:deb/debian/tzdata@2024a-0?arch=all&distro=bookworm"


def test_what_is_of_no_index_is_not_said_to_be_of_one() -> None:
    made = sbom.components(PLACED, {}, NOTHING)
    parts = by_name(made)
    assert {name: part["purl"] for name, part in parts.items()} == {
        "commit": f"pkg:pypi/commit@1.0?vcs_url=git%2Bhttps://code.invalid/x%40{'3' * 40}",
        "file": "pkg:generic/file@1.0", "folder": "pkg:generic/folder@1.0",
        "url": "pkg:pypi/url@1.0?download_url=https://code.invalid/archive/main.zip"}
    assert {name for name, part in parts.items() if "hashes" in part} == {"file", "url"}
    text = sbom.document("one", "a" * 64, "2026-01-02T03:04:05Z", made).data.decode()
    assert error(text) is None


@pytest.mark.parametrize(("suite", "system", "release", "purl"), [
    ("", "ubuntu", "jammy", "pkg:deb/ubuntu/libc6@2.35-0ubuntu3?distro=jammy"),
    ("", "ubuntu", "22.04", "pkg:deb/ubuntu/libc6@2.35-0ubuntu3?distro=ubuntu-22.04"),
    ("", "ubuntu", "", "pkg:deb/ubuntu/libc6@2.35-0ubuntu3"),
    ("bookworm", "", "", "pkg:deb/debian/libc6@2.35-0ubuntu3?distro=bookworm"),
    ("", "debian", "12", "pkg:deb/debian/libc6@2.35-0ubuntu3?distro=debian-12"),
])
def test_a_package_of_a_base_image_is_of_its_system(suite: str, system: str, release: str,
                                                    purl: str) -> None:
    made = sbom.components((), {}, on(suite=suite, system=system, release=release))
    part = by_name(made)["libc6"]
    assert (part["purl"], part["bom-ref"], part["version"]) == (purl, purl, "2.35-0ubuntu3")


def test_a_package_of_a_system_that_is_not_known_is_of_none() -> None:
    """An older base.lock says no system; a scanner must not look its packages up in Debian's."""
    made = sbom.components(PACKAGES, LICENCES, on(system="", release=""))
    parts = by_name(made)
    assert parts["libc6"] == {"type": "library", "bom-ref": "libc6@2.35-0ubuntu3",
                              "name": "libc6", "version": "2.35-0ubuntu3"}
    assert len(made) == len(PACKAGES) + len(UBUNTU.installed)
    assert "purl" not in parts["tzdata"]
    assert parts["alpha"]["purl"] == "pkg:pypi/alpha@1.0"
    assert error(sbom.document("one", "a" * 64, "2026-01-02T03:04:05Z", made).data.decode()) is None


def on(**changes: str) -> Foundation:
    return Foundation(base=replace(UBUNTU, **changes), apt=None)  # type: ignore[arg-type]


def test_the_systems_name_is_pinned_and_decides_no_image() -> None:
    assert ImagePins.from_json(UBUNTU.to_json()) == UBUNTU
    older = UBUNTU.to_json()
    assert (older.pop("system"), older.pop("release")) == ("ubuntu", "jammy")
    unknown = ImagePins.from_json(older)
    assert (unknown.system, unknown.release) == ("", "")
    assert unknown.to_json() == older
    assert (Foundation(base=unknown, apt=None).to_json()
            == Foundation(base=UBUNTU, apt=None).to_json())


def test_licences_are_ids_expressions_or_names() -> None:
    parts = by_name(PARTS)
    assert parts["alpha"]["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert parts["beta"]["licenses"][0]["expression"] == "MIT OR Apache-2.0"
    assert parts["gamma"]["licenses"][0]["license"]["name"] == "Gamma's own licence"
    assert "licenses" not in parts["tzdata"]


def test_the_same_pins_give_the_same_bytes() -> None:
    again = sbom.components(PACKAGES[::-1], dict(reversed(LICENCES.items())),
                            Foundation(apt=None, base=BasePins(
                                suite=BASE.suite, platform=BASE.platform,
                                packages=BASE.packages[::-1])))
    assert again == PARTS
    one = sbom.document("one", "a" * 64, "2026-01-02T03:04:05Z", PARTS)
    assert sbom.document("one", "a" * 64, "2026-01-02T03:04:05Z", again) == one


def test_another_content_has_another_serial_number() -> None:
    numbers = {json.loads(sbom.document(name, tag, created, parts).data)["serialNumber"]
               for name, tag, created, parts in [
                   ("one", "a" * 64, "2026-01-02T03:04:05Z", PARTS),
                   ("two", "a" * 64, "2026-01-02T03:04:05Z", PARTS),
                   ("one", "b" * 64, "2026-01-02T03:04:05Z", PARTS),
                   ("one", "a" * 64, "2026-01-02T03:04:06Z", PARTS),
                   ("one", "a" * 64, "2026-01-02T03:04:05Z", PARTS[1:])]}
    assert len(numbers) == 5

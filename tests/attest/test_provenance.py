"""A provenance has the fields of in-toto and SLSA, names every input by digest, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.attest.conftest import PACKAGES, PLACED, SOURCE
from toolchain.attest import IN_TOTO, VERSION, BaseImage, Source, provenance
from toolchain.attest.provenance import Materials
from toolchain.digest import Digest

ROOT = Path(__file__).parents[2]
IMAGE = Digest.of(b"image")
MATERIALS = Materials(
    project="projects/one", platform="linux/amd64", python="3.11", plan=Digest.of(b"plan"),
    files=Digest.of(b"files"), lock=Digest.of(b"lock"), base="bookworm",
    base_lock=Digest.of(b"base"), packages=PACKAGES)


def statement(materials: Materials = MATERIALS, source: Source = SOURCE) -> Any:
    document = provenance.statement("host/team/trainer", IMAGE, materials, source)
    assert document.media_type == IN_TOTO
    return json.loads(document.data)


def dependencies(value: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    return found


def test_it_is_a_statement_about_the_image() -> None:
    value = statement()
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    assert value["subject"] == [{"name": "host/team/trainer", "digest": {"sha256": IMAGE.hex}}]
    assert sorted(value["predicate"]) == ["buildDefinition", "runDetails"]
    definition = value["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "project": "projects/one", "platform": "linux/amd64", "python": "3.11"}
    assert definition["internalParameters"] == {"plan": str(MATERIALS.plan)}
    assert value["predicate"]["runDetails"] == {"builder": {
        "id": f"pkg:pypi/mlproject-toolchain@{VERSION}",
        "version": {"mlproject-toolchain": VERSION}}}


def test_the_builder_has_the_packages_version_and_the_build_type_is_documented() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
    assert provenance.BUILD_TYPE in (ROOT / "docs/guides/supply-chain.md").read_text()


def test_every_input_is_there_by_digest() -> None:
    found = dependencies(statement())
    assert found[0] == {"name": "source", "digest": {"gitCommit": SOURCE.revision},
                        "uri": f"git+{SOURCE.repository}@{SOURCE.revision}"}
    named = {item.get("name", item.get("uri")): item["digest"] for item in found[1:]}
    assert named == {
        "project files": {"sha256": MATERIALS.files.hex},
        "requirements.lock": {"sha256": MATERIALS.lock.hex},
        "base.lock": {"sha256": MATERIALS.base_lock.hex},
        "pkg:pypi/alpha@1.0": {"sha256": PACKAGES[0].sha256.hex},
        "pkg:pypi/beta@2.0%2Bcu12": {"sha256": PACKAGES[1].sha256.hex},
        "pkg:pypi/gamma@1%213.0rc1": {"sha256": PACKAGES[2].sha256.hex},
    }
    assert {"suite": "bookworm"} in [item.get("annotations") for item in found]


def test_what_is_of_no_index_is_not_said_to_be_of_one() -> None:
    found = dependencies(statement(replace(MATERIALS, packages=PLACED)))[-len(PLACED):]
    assert found == [
        {"uri": f"git+https://code.invalid/x@{'3' * 40}", "digest": {"gitCommit": "3" * 40}},
        {"uri": "pkg:generic/file@1.0", "digest": {"sha256": PLACED[1].sha256.hex}},
        {"name": "folder", "uri": "pkg:generic/folder@1.0", "annotations": {
            "folder": "../folder", "content": str(PLACED[2].sha256)}},
        {"uri": "pkg:pypi/url@1.0?download_url=https://code.invalid/archive/main.zip",
         "digest": {"sha256": PLACED[3].sha256.hex}},
    ]


def test_what_git_does_not_know_is_not_said() -> None:
    for source in (Source(), Source(repository=SOURCE.repository)):
        assert dependencies(statement(source=source))[0]["name"] == "project files"
    only = dependencies(statement(source=Source(revision="2" * 40)))[0]
    assert only == {"name": "source", "digest": {"gitCommit": "2" * 40}}


def test_a_base_image_is_named_by_its_digest() -> None:
    base = BaseImage(name="host/python:3.11", digest=Digest.of(b"other"))
    found = dependencies(statement(replace(MATERIALS, base=base)))
    assert {"name": "base image", "uri": "docker://host/python:3.11",
            "digest": {"sha256": base.digest.hex}} in found
    assert {"name": "base.lock", "digest": {"sha256": MATERIALS.base_lock.hex}} in found


def test_a_base_that_is_in_no_registry_is_not_said_to_be_in_one() -> None:
    base = BaseImage(name="oci:base", digest=Digest.of(b"other"))
    found = dependencies(statement(replace(MATERIALS, base=base)))
    assert "oci:base" in [item.get("uri") for item in found]


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert statement() == statement()
    assert statement() != statement(replace(MATERIALS, files=Digest.of(b"others")))

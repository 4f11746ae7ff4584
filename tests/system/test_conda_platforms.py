"""Conda packages of another architecture, alone and beside this machine's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rattler

from tests.support import conda
from tests.support.conda import PLACEHOLDER, File
from tests.support.debs import Mirror
from tests.support.images import ImageLayout, debian
from tests.support.monorepo import Monorepo, ran
from tests.support.pushed import Pushed
from tests.system.test_bases import set_base

_BOTH = 'image.platform = ["linux/amd64", "linux/arm64"]'
_ARM = "linux-aarch64"
_TEXT, _BINARY = "opt/venv/bin/tool", "opt/venv/share/tool.bin"


@pytest.fixture
def folder(monorepo: Monorepo, mirror: Mirror) -> Path:
    """A project with conda packages, some for each architecture, one for all."""
    layout = ImageLayout(monorepo.folder / "base")
    layout.tag(layout.index(layout.manifest(debian()),
                            layout.manifest(debian(), platform="linux/arm64")))
    channel = monorepo.folder / "channel"
    version = conda.python(channel)
    conda.package(channel, "python", version, "h0_0_cpython", subdir=_ARM, files={
        "bin/python": File(f"#!{PLACEHOLDER}/libexec/python\n".encode(), executable=True,
                           mode="text"),
        "bin/python3": File(link="python")})
    for subdir in ("linux-64", _ARM):
        conda.package(channel, "tool", "2.0" if subdir == _ARM else "1.0", subdir=subdir,
                      suffix=".tar.bz2", depends=[
                          f"__archspec 1 {'aarch64' if subdir == _ARM else 'x86_64'}"], files={
            "bin/tool": File(f"#!/bin/sh\necho {subdir} {PLACEHOLDER}\n".encode(),
                             executable=True, mode="text"),
            "share/tool.bin": File(f"{subdir} {PLACEHOLDER}/x\0end".encode(), mode="binary")})
    conda.package(channel, "alpha", noarch="python", depends=["python"], files={
        "site-packages/alpha.py": b"VERSION = 1\n",
        "site-packages/alpha-1.0.dist-info/METADATA":
            b"Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n"},
        entry_points=["alpha-say = alpha:main"])
    conda.index(channel)
    folder = monorepo.add("one", files={"conda.yaml": (
        "channels: [../../channel]\ndependencies: [python, tool, alpha, pip: [beta]]\n")})
    (folder / "requirements.txt").unlink()
    return folder


def locked(path: Path) -> dict[str, str]:
    """What rattler finds in a lock: name -> version and subdir."""
    environment = rattler.LockFile.from_path(path).default_environment()
    assert environment is not None
    ((_, packages),) = environment.packages_by_platform().items()
    found = {}
    for package in packages:
        assert isinstance(package, rattler.lock.CondaLockedPackage)
        assert package.package_record is not None
        found[package.name] = f"{package.version} {package.package_record.subdir}"
    return found


def check_layers(image: Pushed, subdir: str) -> None:
    prefix = "/opt/venv"
    assert image.read(_TEXT) == f"#!/bin/sh\necho {subdir} {prefix}\n".encode()
    rest = b"\0" * (len(PLACEHOLDER) - len(prefix) + 1)
    assert image.read(_BINARY) == f"{subdir} {prefix}/x".encode() + rest + b"end"
    assert "opt/venv/lib/python3.11/site-packages/alpha.py" in image.files()
    assert "opt/venv/lib/python3.11/site-packages/beta.py" in image.files()
    assert image.read("opt/venv/bin/alpha-say").startswith(b"#!/opt/venv/bin/python\n")
    meta = "opt/venv/conda-meta/tool-" + ("2.0" if subdir == _ARM else "1.0") + "-0.json"
    assert json.loads(image.read(meta))["subdir"] == subdir


def test_an_image_for_arm64_has_the_packages_of_arm64(monorepo: Monorepo, mirror: Mirror,
                                                      folder: Path) -> None:
    set_base(monorepo, mirror, 'image.base = "oci:base"', 'image.platform = "linux/arm64"')
    monorepo.doit("push")
    assert not (folder / "conda.linux-arm64.lock").exists()  # it is the first, and the only one
    found = locked(folder / "conda.lock")
    assert found["tool"] == f"2.0 {_ARM}"
    assert found["python"].endswith(_ARM)
    assert found["alpha"] == "1.0 noarch"
    image = Pushed.of(monorepo, "one")
    assert image.config["architecture"] == "arm64"
    check_layers(image, _ARM)
    assert image.read("opt/venv/bin/python") == b"#!/opt/venv/libexec/python\n"
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}


def test_each_platform_has_a_lock_and_an_image(monorepo: Monorepo, mirror: Mirror,
                                               folder: Path) -> None:
    set_base(monorepo, mirror, 'image.base = "oci:base"', _BOTH)
    monorepo.doit("push")
    locks = {subdir: locked(folder / name) for subdir, name in (
        ("linux-64", "conda.lock"), (_ARM, "conda.linux-arm64.lock"))}
    assert {subdir: found["tool"] for subdir, found in locks.items()} == {
        "linux-64": "1.0 linux-64", _ARM: f"2.0 {_ARM}"}
    assert locks["linux-64"]["alpha"] == locks[_ARM]["alpha"] == "1.0 noarch"
    index = Pushed(monorepo, monorepo.receipt("one", "push")["digest"]).manifest
    images = {item["platform"]["architecture"]: Pushed(monorepo, item["digest"])
              for item in index["manifests"]}
    check_layers(images["amd64"], "linux-64")
    check_layers(images["arm64"], _ARM)
    for image in images.values():
        assert not [path for path in image.files() if path.endswith(".lock")]
    # Another machine, with the locks alone: the same images, and nothing is asked for anew.
    texts = {path: path.read_text() for path in folder.glob("*.lock")}
    assert len(texts) == 4
    digest = monorepo.receipt("one", "push")["digest"]
    for path in monorepo.folder.glob("channel/*/repodata.json"):
        path.write_text('{"packages": {}, "packages.conda": {}}')
    (monorepo.folder / "cache").rename(monorepo.folder.parent / "old cache")
    assert "conda lock is current" in monorepo.doit("push")
    assert monorepo.receipt("one", "push")["digest"] == digest
    assert {path: path.read_text() for path in folder.glob("*.lock")} == texts


def test_a_package_that_the_other_platform_lacks_is_named(monorepo: Monorepo, mirror: Mirror,
                                                          folder: Path) -> None:
    conda.package(monorepo.folder / "channel", "only-here")
    conda.index(monorepo.folder / "channel")
    (folder / "conda.yaml").write_text(
        "channels: [../../channel]\ndependencies: [python, only-here]\n")
    set_base(monorepo, mirror, 'image.base = "oci:base"', _BOTH)
    output = monorepo.doit("resolve", expect=1)
    assert "conda cannot meet what is asked for" in output
    assert "only-here" in output
    assert "at projects/one/conda.yaml:2 (channels ./channel, for linux-aarch64)" in output
    assert "\n  fix: " in output

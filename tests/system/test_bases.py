"""Projects on images that others made, with further Debian packages, for several platforms."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.debs import Mirror, deb, default_packages, member
from tests.support.images import PATH, ImageLayout, debian, one_layer, tar
from tests.support.monorepo import Monorepo, ran
from tests.support.pushed import Pushed
from tests.support.registry import RegistryServer
from tests.support.services import docker_client, lacking, need
from tests.support.wheels import wheel
from toolchain.adapters.interpreters import Interpreters
from toolchain.digest import Digest
from toolchain.lock.base import from_text


def set_base(monorepo: Monorepo, mirror: Mirror, *lines: str) -> None:
    monorepo.settings(f'image.mirror = "{mirror.url}"', f'image.keyring = "{mirror.keyring}"',
                      *lines)


@pytest.fixture
def base(monorepo: Monorepo) -> ImageLayout:
    """A Python image in a layout beside the workspace's projects."""
    layout = ImageLayout(monorepo.folder / "base")
    layout.tag(layout.manifest(debian(), labels={"vendor": "acme"}))
    return layout


def test_packages_stand_on_the_image(monorepo: Monorepo, mirror: Mirror,
                                     base: ImageLayout) -> None:
    monorepo.add("one")
    monorepo.add("two", requirements="alpha\nbeta\n")
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    monorepo.doit("push")
    image, other = Pushed.of(monorepo, "one"), Pushed.of(monorepo, "two")
    pinned = monorepo.receipt("one", "resolve")["base"]
    assert (pinned["image"], pinned["glibc"]) == ("oci:base", "2.36")
    below = json.loads((base.folder / "blobs/sha256" / pinned["digest"][7:]).read_bytes())
    assert image.layers[:2] == [item["digest"] for item in below["layers"]]
    assert image.config["rootfs"]["diff_ids"][:2] == [str(Digest.of(tar)) for tar in debian()]
    assert image.environment["PATH"] == "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert image.environment["GREETING"] == "hello"
    assert image.config["config"]["Labels"]["vendor"] == "acme"
    assert image.config["config"]["User"] == "1000"
    files = image.files()
    assert files["opt/venv/bin/python"].linkname == "/usr/local/bin/python3.11"
    assert "opt/venv/lib/python3.11/site-packages/alpha.py" in files
    assert files[image.environment["HOME"].lstrip("/")].uid == 1000
    assert other.layers[:3] == image.layers[:3]  # image and environment are shared


def test_a_package_layer_is_the_same_on_every_base(monorepo: Monorepo, mirror: Mirror,
                                                   base: ImageLayout) -> None:
    monorepo.add("one")
    monorepo.doit("base")
    embedded = monorepo.receipt("one", "base")["layers"]
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    output = monorepo.doit("base")
    assert [item for item in monorepo.receipt("one", "base")["layers"]
            if item["label"].startswith("alpha")] == [
        item for item in embedded if item["label"].startswith("alpha")]
    assert "built 1 " in output  # the empty environment


def test_the_digest_is_pinned_until_upgrade(monorepo: Monorepo, mirror: Mirror,
                                            base: ImageLayout) -> None:
    monorepo.add("one")
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    monorepo.doit("push")
    first = monorepo.receipt("one", "push")["digest"]
    lock = (monorepo.folder / "base.lock").read_text()
    moved = base.manifest([*debian(), debian()[0]])
    base.tag(moved)
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    shutil.rmtree(monorepo.folder / "cache")
    monorepo.doit("push")
    assert monorepo.receipt("one", "push")["digest"] == first
    assert (monorepo.folder / "base.lock").read_text() == lock
    monorepo.doit("push", "upgrade=1")
    assert monorepo.receipt("one", "resolve")["base"]["digest"] == moved["digest"]
    assert monorepo.receipt("one", "push")["digest"] != first


def test_another_projects_base_is_no_concern_of_this_one(
        monorepo: Monorepo, mirror: Mirror, base: ImageLayout) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    two = monorepo.add("two")
    (two / "pyproject.toml").write_text('[tool.toolchain]\nimage.base = "oci:base"\n')
    monorepo.doit("push", "project=two")
    assert set(ran(monorepo.doit("push", "project=one"), "one").values()) == {"fresh"}
    assert {entry.name[0] for entry in from_text(
        (monorepo.folder / "base.lock").read_text(), "")} == {"base", "image"}


def test_a_base_without_the_projects_python(monorepo: Monorepo, mirror: Mirror,
                                            base: ImageLayout) -> None:
    monorepo.add("one")
    base.tag(base.manifest(debian("3.12")))
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    output = monorepo.doit("push", expect=1)
    assert "the base image oci:base has no Python 3.11 (it has: 3.12)" in output
    assert "fix: " in output


def test_labels_that_say_where_the_base_is_from_stay_with_the_base(
        monorepo: Monorepo, mirror: Mirror, base: ImageLayout) -> None:
    monorepo.add("one")
    of_the_base = {"org.opencontainers.image.source": "https://code.invalid/base",
                   "org.opencontainers.image.revision": "1" * 40,
                   "org.label-schema.name": "base"}
    kept = {"vendor": "acme", "org.opencontainers.images": "another key"}
    base.tag(base.manifest(debian(), labels={**kept, **of_the_base}))
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    monorepo.doit("push")
    assert Pushed.of(monorepo, "one").config["config"]["Labels"] == kept
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    base.tag(base.manifest(debian(), labels=of_the_base))
    monorepo.doit("push", "upgrade=1")
    assert "Labels" not in Pushed.of(monorepo, "one").config["config"]


def _with_venv(folder: str) -> list[bytes]:
    site = f"{folder}/lib/python3.11/site-packages"
    return [*debian(), tar([
        member(f"{folder}/pyvenv.cfg", b"home = /usr/local/bin\n"),
        member(f"{folder}/bin/python3.11", kind=tarfile.SYMTYPE, link="/usr/local/bin/python3.11"),
        member(f"{site}/theirs.py", b"")])]


def test_an_environment_in_the_base_is_not_that_of_the_image(monorepo: Monorepo, mirror: Mirror,
                                                             base: ImageLayout) -> None:
    """Dockerfiles often have one at /opt/venv, too. A container: tests/system/test_container.py."""
    for name, folder, hidden in (("one", "opt/venv", True), ("two", "app/.venv", False)):
        project = monorepo.add(name)
        (project / "pyproject.toml").write_text(
            f'[tool.toolchain]\nimage.base = "oci:base:{name}"\n')
        base.tag(base.manifest(_with_venv(folder), environment=(
            f"PATH=/{folder}/bin:/usr/local/bin:/usr/bin",)), name)
        monorepo.doit("push", f"project={name}")
        files = Pushed.of(monorepo, name).files()
        assert files["opt/venv/bin/python"].linkname == "/usr/local/bin/python3.11"
        assert ("opt/venv/.wh..wh..opq" in files) == hidden
        assert not any(path.endswith(".pth") for path in files)
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}


def test_a_python_where_packages_go_is_refused(monorepo: Monorepo, mirror: Mirror,
                                               base: ImageLayout) -> None:
    """As in an image of this tool with conda packages: there is no interpreter beside it."""
    monorepo.add("one")
    base.tag(base.manifest([*debian("3.10"), tar([
        member("opt/venv/bin/python3.11", b"#!/bin/sh\n", mode=0o755)])], environment=(
            "PATH=/opt/venv/bin:/usr/local/bin",)))
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    output = monorepo.doit("push", expect=1)
    assert ("the Python of the base image oci:base is /opt/venv/bin/python3.11, in the folder of "
            "the packages that are put upon it") in output
    assert "one: python 3.11" in output
    assert "fix: " in output


def test_the_system_of_the_base_is_pinned_for_the_bill_of_materials(
        monorepo: Monorepo, mirror: Mirror, base: ImageLayout) -> None:
    monorepo.add("one")
    base.tag(base.manifest([*debian(), tar([
        member("usr/lib/os-release", b"ID=ubuntu\nVERSION_CODENAME=jammy\n")])]))
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    monorepo.doit("push")
    parts = json.loads(monorepo.doit("sbom", "project=one"))["components"]
    assert "pkg:deb/ubuntu/libc6@1.0-1?distro=jammy" in {part.get("purl") for part in parts}


def test_a_base_of_many_layers(monorepo: Monorepo, mirror: Mirror, base: ImageLayout) -> None:
    """Of the 127 layers that Docker takes, an image has 120 at most."""
    more = [tar([member(f"srv/{number}", b"")]) for number in range(114)]
    monorepo.add("one")
    base.tag(base.manifest([*debian(), *more[:113]]))
    set_base(monorepo, mirror, 'image.base = "oci:base"')
    monorepo.doit("push")
    assert len(Pushed.of(monorepo, "one").layers) == 119  # there are no packages for `apt`
    base.tag(base.manifest([*debian(), *more]))
    output = monorepo.doit("push", "upgrade=1", expect=1)
    assert "the base image has 116 layers, and with what one adds at most 115 of them" in output
    assert "one: image.base = oci:base" in output
    assert "fix: build it with fewer layers" in output
    assert "built" not in output


# Further Debian packages


@pytest.fixture
def full_mirror(mirror: Mirror) -> Iterator[Mirror]:
    """The mirror with a library that needs another one, and something the base has."""
    mirror.publish({
        **default_packages(),
        "libgl1": deb("libgl1", depends="libglx0 (>= 0.5), libc6 (>= 0.5)"),
        "libglx0": deb("libglx0", members=[member("./lib/x86_64-linux-gnu/libGLX.so.0", b"glx")]),
        "choosy": deb("choosy", depends="libc6 (>= 7)"),
    })
    yield mirror
    mirror.publish()


def test_packages_that_a_project_asks_for(monorepo: Monorepo, full_mirror: Mirror) -> None:
    folder = monorepo.add("one")
    monorepo.add("plain")
    (folder / "pyproject.toml").write_text('[tool.toolchain]\napt = ["libgl1"]\n')
    monorepo.doit("push")
    files = Pushed.of(monorepo, "one").files()
    assert "usr/share/libgl1" in files
    assert "usr/lib/x86_64-linux-gnu/libGLX.so.0" in files
    assert {"var/lib/dpkg/status.d/libgl1", "var/lib/dpkg/status.d/libglx0"} <= set(files)
    assert set(monorepo.receipt("one", "resolve")["base"]["apt"]) == {"libgl1", "libglx0"}
    assert "usr/share/libgl1" not in Pushed.of(monorepo, "plain").files()
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}


def test_packages_on_an_image_of_the_same_suite(monorepo: Monorepo, full_mirror: Mirror,
                                                base: ImageLayout) -> None:
    monorepo.add("one")
    set_base(monorepo, full_mirror, 'image.base = "oci:base"', 'apt = ["libgl1"]')
    monorepo.doit("push")
    assert set(monorepo.receipt("one", "resolve")["base"]["apt"]) == {"libgl1", "libglx0"}
    assert "usr/share/libgl1" in Pushed.of(monorepo, "one").files()


@pytest.mark.parametrize(("name", "says"), [
    ("libgll1", "did you mean 'libgl1'?"),
    ("choosy", "choosy needs libc6 (>= 7), and the base has libc6 1.0-1"),
])
def test_packages_that_cannot_be_had(monorepo: Monorepo, full_mirror: Mirror, name: str,
                                     says: str) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", f"apt={name}", expect=1)
    assert says in output
    assert "fix: " in output


# Several platforms


def _attached_to(monorepo: Monorepo, digest: str) -> list[Any]:
    """The documents whose subject is that index, as a client of referrers finds them."""
    blobs = monorepo.folder / "cache/registry/mlflow/trainer"
    entries = json.loads((blobs / "index.json").read_bytes())["manifests"]

    def read(name: str) -> Any:
        return json.loads((blobs / "blobs" / name.replace(":", "/")).read_bytes())

    lists = [read(item["digest"]) for item in entries
             if item.get("annotations", {}).get("org.opencontainers.image.ref.name")
             == digest.replace(":", "-")]
    manifests = [read(item["digest"]) for one in lists for item in one["manifests"]]
    for manifest in manifests:
        assert manifest["subject"]["digest"] == digest
        assert manifest["subject"]["mediaType"] == "application/vnd.oci.image.index.v1+json"
    return [read(manifest["layers"][0]["digest"]) for manifest in manifests]


def test_several_platforms_make_an_index(monorepo: Monorepo, mirror: Mirror,
                                         base: ImageLayout) -> None:
    folder = monorepo.add("one")
    arm = base.manifest(debian(), platform="linux/arm64", labels={"vendor": "acme"})
    amd = base.manifest(debian(), labels={"vendor": "acme"})
    base.tag(base.index(amd, arm))
    set_base(monorepo, mirror, 'image.base = "oci:base"',
             'image.platform = ["linux/amd64", "linux/arm64"]')
    monorepo.doit("push")
    assert (folder / "requirements.linux-arm64.lock").exists()
    receipt = monorepo.receipt("one", "push")
    index = Pushed(monorepo, receipt["digest"]).manifest
    assert [item["platform"]["architecture"] for item in index["manifests"]] == ["amd64", "arm64"]
    assert index["annotations"]["org.opencontainers.image.title"] == "one"
    assert "org.opencontainers.image.base.digest" not in index["annotations"]
    for item in index["manifests"]:
        image = Pushed(monorepo, item["digest"])
        assert image.config["architecture"] == item["platform"]["architecture"]
        assert "requirements.linux-arm64.lock" not in " ".join(image.files())
    attached = _attached_to(monorepo, receipt["digest"])
    assert [item["predicate"]["buildDefinition"]["externalParameters"]["platform"]
            for item in attached] == ["linux/amd64", "linux/arm64"]
    for item in attached:
        assert item["subject"] == [{"name": "mlflow/trainer",
                                    "digest": {"sha256": receipt["digest"][7:]}}]
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    components = json.loads(monorepo.doit("sbom", "project=one").splitlines()[0])["components"]
    assert "alpha" in {item["name"] for item in components}
    monorepo.doit("forget", "push:one")
    assert ran(monorepo.doit("push"), "one")["push"] == "made"
    assert monorepo.receipt("one", "push") == receipt
    assert _attached_to(monorepo, receipt["digest"]) == attached
    monorepo.doit("train")  # on the platform of this machine
    (folder / "train.py").write_text((folder / "train.py").read_text() + "# more\n")
    assert ran(monorepo.doit("push"), "one") == {
        "parse": "fresh", "resolve": "fresh", "base": "fresh", "layer": "made", "push": "made"}


def test_a_file_holds_every_platform(monorepo: Monorepo, mirror: Mirror, base: ImageLayout,
                                     tmp_path: Path) -> None:
    base.tag(base.index(base.manifest(debian()), base.manifest(debian(), platform="linux/arm64")))
    set_base(monorepo, mirror, 'image.base = "oci:base"',
             'image.platform = ["linux/amd64", "linux/arm64"]')
    monorepo.add("one")
    monorepo.doit("export", "project=one", f"to={tmp_path}/one.tar")
    pushed = monorepo.receipt("one", "push")
    archive = f"oci-archive:{tmp_path}/one.tar:one"
    raw = subprocess.run([need("skopeo"), "inspect", "--raw", archive], capture_output=True,
                         check=True).stdout
    assert str(Digest.of(raw)) == pushed["digest"]
    for platform, value in pushed["platforms"].items():
        inspected = json.loads(subprocess.run(
            [need("skopeo"), "inspect", "--override-arch", platform.partition("/")[2], archive],
            capture_output=True, check=True).stdout)
        assert inspected["Architecture"] == platform.partition("/")[2]
        config = subprocess.run(
            [need("skopeo"), "inspect", "--config", "--raw", "--override-arch",
             platform.partition("/")[2], archive], capture_output=True, check=True).stdout
        assert str(Digest.of(config)) == value["config"]
    # Every blob is there, under its digest.
    subprocess.run([need("skopeo"), "copy", "--all", "--insecure-policy", archive,
                    f"dir:{tmp_path}/copied"], capture_output=True, check=True)
    client = docker_client()
    with open(tmp_path / "one.tar", "rb") as stream:
        loaded = client.images.load(stream)[0]
    try:
        assert loaded.id == pushed["platforms"]["linux/amd64"]["config"]
        assert loaded.attrs["Architecture"] == "amd64"
    finally:
        client.images.remove(loaded.id, force=True)
    first = (tmp_path / "one.tar").read_bytes()
    monorepo.doit("export", "project=one", f"to={tmp_path}/one.tar")
    assert (tmp_path / "one.tar").read_bytes() == first


def test_the_first_of_several_platforms_is_as_that_one_alone(
        monorepo: Monorepo, base: ImageLayout, mirror: Mirror,
        another_monorepo: Callable[[str], Monorepo]) -> None:
    base.tag(base.index(base.manifest(debian()), base.manifest(debian(), platform="linux/arm64")))
    set_base(monorepo, mirror, 'image.base = "oci:base"',
             'image.platform = "linux/amd64,linux/arm64"')
    monorepo.add("one")
    monorepo.doit("push")
    alone = another_monorepo("alone")
    alone.add("one")
    shutil.copytree(base.folder, alone.folder / "base")
    set_base(alone, mirror, 'image.base = "oci:base"')
    alone.doit("push")
    assert (monorepo.receipt("one", "push")["platforms"]["linux/amd64"]
            == alone.receipt("one", "push"))


def test_a_python_too_old_for_the_images_own_entry_point_is_said(
    monorepo: Monorepo, mirror: Mirror, base: ImageLayout
) -> None:
    base.tag(base.manifest(debian("3.8")))
    monorepo.add("one", requirements="")
    set_base(monorepo, mirror, 'python = "3.8"', f'image.base = "oci:{base.folder}"')
    said = "the image's own entry point needs Python 3.9"
    assert said in monorepo.doit("push")
    base.tag(base.manifest(debian("3.12")))
    set_base(monorepo, mirror, 'python = "3.12"', f'image.base = "oci:{base.folder}"')
    assert said not in monorepo.doit("push", "upgrade=1")


def test_a_python_without_a_compiler_is_said(monorepo: Monorepo, mirror: Mirror,
                                             base: ImageLayout) -> None:
    base.tag(base.manifest(debian("3.12")))
    monorepo.add("one")
    set_base(monorepo, mirror, 'python = "3.12"', 'image.base = "oci:base"')
    said = "one: no byte-code is made, as the base image does not say which Python 3.12 it has"
    assert said in monorepo.doit("resolve", "image.bytecode=yes")
    assert said not in monorepo.doit("resolve", "image.bytecode=no")


def test_a_base_image_needs_no_mirror_but_for_its_byte_code(monorepo: Monorepo, mirror: Mirror,
                                                            base: ImageLayout) -> None:
    monorepo.add("one")
    base.tag(base.manifest(debian()))
    (monorepo.folder / "pyproject.toml").write_text(
        '[tool.toolchain]\nimage.mirror = "http://127.0.0.1:9"\nimage.base = "oci:base"\n')
    output = monorepo.doit("push", expect=1)
    assert "or do without byte-code: image.bytecode=no" in output
    monorepo.doit("push", "image.bytecode=no")
    assert "opt/venv/bin/python" in Pushed.of(monorepo, "one").files()


def test_byte_code_for_a_python_that_debian_does_not_have(monorepo: Monorepo, mirror: Mirror,
                                                         base: ImageLayout) -> None:
    """An interpreter of the image's very version makes it, on every machine, or none does."""
    here = Interpreters(os.environ, print)
    version = next((version for version in sorted(here.versions(), reverse=True)
                    if version >= (3, 9) and version[:2] not in ((3, 11), (3, 13))), None)
    if version is None:
        lacking("no Python on this machine but those that Debian has")
    minor, level = f"{version[0]}.{version[1]}", ".".join(map(str, version))
    base.tag(base.manifest(debian(minor), environment=(
        f"PATH={PATH}", f"PYTHON_VERSION={level}")))
    monorepo.add("one")
    set_base(monorepo, mirror, f'python = "{minor}"', 'image.base = "oci:base"')
    hidden = {**monorepo.environment, "PYENV_ROOT": "/nowhere", "UV_PYTHON_INSTALL_DIR": "/nowhere",
              "PATH": str(Path(sys.executable).parent)}
    seen, monorepo.environment = monorepo.environment, hidden
    said = monorepo.doit("resolve", "image.bytecode=yes")
    assert ("one: no byte-code is made, as base.lock names no compiler for the base image's Python "
            f"{level}") in said
    monorepo.environment = seen
    monorepo.doit("resolve", "image.bytecode=yes")
    assert monorepo.receipt("one", "resolve")["base"]["bytecode"] is None  # it is pinned so
    said = monorepo.doit("push", "image.bytecode=yes", "upgrade=1")
    assert "no byte-code" not in said
    assert monorepo.receipt("one", "resolve")["base"]["bytecode"] == (
        f"cpython {level} unchecked-hash 1")
    compiled = (f"opt/venv/lib/python{minor}/site-packages/__pycache__/"
                f"alpha.cpython-{minor.replace('.', '')}.pyc")
    assert compiled in Pushed.of(monorepo, "one").files()

    # Whichever project pins the image first.
    monorepo.add("a", mlproject="name: a\ndocker_env: {image: 'oci:base'}\n"
                                "entry_points:\n  main: {command: python train.py}\n")
    monorepo.doit("resolve", "project=a", "image.bytecode=yes", "upgrade=1")
    monorepo.doit("resolve", "project=a", "upgrade=1")  # as it is set for the workspace: no
    monorepo.doit("resolve", "project=one", "image.bytecode=yes")
    assert monorepo.receipt("one", "resolve")["base"]["bytecode"] is not None
    shutil.rmtree(monorepo.folder / "projects/a")

    # Another machine makes the same, or says what it lacks.
    digest = monorepo.receipt("one", "push")["digest"]
    shutil.rmtree(monorepo.folder / "cache")
    monorepo.environment = hidden
    said = monorepo.doit("push", "image.bytecode=yes", expect=1)
    assert f"byte-code is made by Python {level}" in said
    assert f"fix: uv python install {level}, or do without: image.bytecode=no" in said
    monorepo.environment = seen
    monorepo.doit("push", "image.bytecode=yes")
    assert monorepo.receipt("one", "push")["digest"] == digest


# A base in a registry


def test_a_base_in_a_registry(monorepo: Monorepo, mirror: Mirror, base: ImageLayout,
                              tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with RegistryServer(tmp_path / "registry", log=True) as server:
        host = server.host
        subprocess.run([need("skopeo"), "copy", "--quiet", "--dest-tls-verify=false",
                        f"oci:{base.folder}:latest", f"docker://{host}/library/python:3.12-slim"],
                       check=True, timeout=60)
        base.tag(base.manifest(debian("3.12")))
        subprocess.run([need("skopeo"), "copy", "--quiet", "--dest-tls-verify=false",
                        f"oci:{base.folder}:latest", f"docker://{host}/library/python:3.12-slim"],
                       check=True, timeout=60)
        monorepo.add("one")
        # The fallback of `auto`, from a mirror of Docker Hub, to a registry that has it already.
        set_base(monorepo, mirror, 'python = "3.12"', f'image.hub = "{host}"',
                 f'registry = "{host}"')
        output = monorepo.doit("push")
        assert monorepo.receipt("one", "resolve")["base"]["image"] == "python:3.12-slim"
        manifest = subprocess.run(
            [need("skopeo"), "inspect", "--raw", "--tls-verify=false",
             f"docker://{monorepo.receipt('one', 'push')['reference']}"],
            capture_output=True, check=True, timeout=60).stdout
        assert json.loads(manifest)["annotations"]["org.opencontainers.image.base.name"] == (
            "docker.io/library/python:3.12-slim")
        digest = monorepo.receipt("one", "push")["reference"]
        shutil.rmtree(monorepo.folder / "cache")
        again = monorepo.doit("push")
        assert "in the registry" in again
        assert monorepo.receipt("one", "push")["reference"] == digest
        assert not list((monorepo.folder / "cache").glob("blobs/sha256/*")) or output
        # Another repository of the same registry: the base's layers are mounted, not sent, by a
        # machine without them and by the one that pinned them and so has them.
        for repository, lines in (("another/place", ()), ("a/third", ("upgrade=1",))):
            shutil.rmtree(monorepo.folder / "cache")
            asked = len(server.requests)
            monorepo.doit("push", f"repository={repository}", *lines)
            check = subprocess.run(
                [need("skopeo"), "inspect", "--tls-verify=false",
                 f"docker://{monorepo.receipt('one', 'push')['reference']}"],
                capture_output=True, text=True, timeout=60)
            assert check.returncode == 0, check.stderr
            requests = server.requests[asked:]
            below = [item["digest"] for item in json.loads(manifest)["layers"]][:2]
            for digest in below:
                (taken,) = [line for line in requests if f"mount={quote(digest)}" in line
                            or f"mount={digest}" in line]
                assert taken.startswith(f"POST /v2/{repository}/blobs/uploads/")
                assert taken.endswith(" 201")
                assert not [line for line in requests if line.startswith("PUT ")
                            and digest.removeprefix("sha256:") in line]


def test_plain_http_is_for_the_registry_that_it_is_said_of(
        monorepo: Monorepo, mirror: Mirror, base: ImageLayout, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    monorepo.environment |= {"NO_PROXY": "127.1", "no_proxy": "127.1"}
    with RegistryServer(tmp_path / "registry") as server:
        host = server.host
        subprocess.run([need("skopeo"), "copy", "--quiet", "--dest-tls-verify=false",
                        f"oci:{base.folder}:latest", f"docker://{host}/team/base:1"],
                       check=True, timeout=60)
        other = host.replace("127.0.0.1", "127.1")  # a name that does not say it is this machine
        image = f'image.base = "{other}/team/base:1"'
        folder = monorepo.add("one")
        set_base(monorepo, mirror, image)
        for said in ((), ("insecure=1",)):
            output = monorepo.doit("push", *said, expect=1)
            assert "the registry speaks plain HTTP" in output
            assert "insecure=1" in output
            assert "`image.insecure`" in output
        set_base(monorepo, mirror, image, f'image.insecure = ["other:1", "http://{other}/"]')
        monorepo.doit("push")
        assert monorepo.receipt("one", "resolve")["base"]["image"] == f"{other}/team/base:1"
        shutil.rmtree(monorepo.folder / "cache")
        (monorepo.folder / "base.lock").unlink()
        set_base(monorepo, mirror, image, 'image.insecure = ["me:hunter2@host"]')
        output = monorepo.doit("push", expect=1)
        assert "not a registry: 'host'" in output
        assert "image.insecure" in output
        set_base(monorepo, mirror, 'image.base = "base:1"', 'image.hub = "http://mirror.invalid"')
        output = monorepo.doit("push", expect=1)
        assert "image.hub = http://mirror.invalid" in output
        assert "name it in image.insecure" in output
        set_base(monorepo, mirror)
        (folder / "pyproject.toml").write_text(
            f'[tool.toolchain]\n{image}\ninsecure = true\nregistry = "http://{other}"\n')
        monorepo.doit("push")
        assert monorepo.receipt("one", "push")["reference"].startswith(f"{other}/")


def test_a_registry_that_is_not_there(monorepo: Monorepo, mirror: Mirror) -> None:
    monorepo.add("one")
    set_base(monorepo, mirror, 'image.base = "localhost:1/python:3.11"')
    output = monorepo.doit("push", expect=1)
    assert "the registry cannot be reached" in output
    assert "fix: " in output


# Another architecture


def test_the_embedded_base_and_wheels_of_arm64(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror")
    mirror.publish({**{name: deb(name, architecture="arm64") for name in default_packages()},
                    "python3": deb("python3", "3.11.2-1", architecture="arm64",
                                   depends="libc6", members=[
                        member("./usr/bin/python3.11", b"#!/bin/sh\n", mode=0o755)]),
                    "libc6": deb("libc6", "2.36-9", architecture="arm64", members=[
                        member("./lib/ld-linux-aarch64.so.1", b"loader", mode=0o755)])},
                   architecture="arm64")
    for machine in ("x86_64", "aarch64"):
        wheel(tmp_path / "wheels", "gamma", tag=f"cp311-cp311-manylinux_2_17_{machine}",
              files={"gamma.py": b"", f"gamma_{machine}.so": machine.encode()})
    repo = Monorepo(tmp_path / "workspace", mirror, tmp_path / "wheels")
    repo.add("one", requirements="gamma\n")
    repo.doit("push", "image.platform=linux/arm64")
    image = Pushed.of(repo, "one")
    assert image.config["architecture"] == "arm64"
    files = image.files()
    assert "opt/venv/lib/python3.11/site-packages/gamma_aarch64.so" in files
    assert [path for path in files if path.endswith("lib/ld-linux-aarch64.so.1")]
    assert not [path for path in files if "x86_64" in path]
    (pinned,) = from_text((repo.folder / "base.lock").read_text(), "")
    assert pinned.name == ("base", "bookworm", "linux/arm64")
    assert set(ran(repo.doit("push", "image.platform=linux/arm64"), "one").values()) == {"fresh"}


# An image of a Docker engine


def test_an_image_of_an_engine_is_the_base(monorepo: Monorepo, mirror: Mirror) -> None:
    client = docker_client()
    client.api.import_image_from_data(one_layer(), repository="toolchain-test/daemon", tag="1")
    monorepo.add("one")
    set_base(monorepo, mirror, 'image.base = "docker-daemon:toolchain-test/daemon:1"')
    try:
        monorepo.doit("push")
        image = Pushed.of(monorepo, "one")
        assert image.config["rootfs"]["diff_ids"][0] == str(Digest.of(one_layer()))
        assert {"usr/local/bin/python3.11", "opt/venv/lib/python3.11/site-packages/alpha.py",
                "project/train.py"} <= image.files().keys()
        assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
        # Without the cache the pinned layers come out of the engine again.
        shutil.rmtree(monorepo.folder / "cache")
        monorepo.doit("push")
        assert Pushed.of(monorepo, "one").layers == image.layers
    finally:
        client.images.remove("toolchain-test/daemon:1", force=True)


# A Dockerfile of the project


def test_a_dockerfile_of_the_project_is_the_base(monorepo: Monorepo, mirror: Mirror) -> None:
    client = docker_client()
    client.api.import_image_from_data(one_layer(), repository="toolchain-test/python", tag="1")
    folder = monorepo.add("one", files={
        "Dockerfile": f"FROM toolchain-test/python:1\nENV PATH={PATH} GREETING=one\n"})
    (folder / "pyproject.toml").write_text(
        '[tool.toolchain]\nimage.base = "dockerfile:Dockerfile"\n')
    try:
        monorepo.doit("push")
        first = Pushed.of(monorepo, "one")
        assert first.environment["GREETING"] == "one"
        assert "opt/venv/lib/python3.11/site-packages/alpha.py" in first.files()
        assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
        (folder / "train.py").write_text((folder / "train.py").read_text() + "# more\n")
        assert ran(monorepo.doit("push"), "one")["base"] == "fresh"
        (folder / "Dockerfile").write_text(
            f"FROM toolchain-test/python:1\nENV PATH={PATH} GREETING=two\n")
        monorepo.doit("push")
        assert Pushed.of(monorepo, "one").environment["GREETING"] == "two"
        assert len(from_text((monorepo.folder / "base.lock").read_text(), "")) == 1
        (folder / "Dockerfile").unlink()
        output = monorepo.doit("push", expect=1)
        assert "the project has no file 'Dockerfile'" in output
    finally:
        client.images.remove("toolchain-test/python:1", force=True)


def test_build_image_of_docker_env_is_the_dockerfile_beside_it(
    monorepo: Monorepo, mirror: Mirror
) -> None:
    client = docker_client()
    client.api.import_image_from_data(one_layer(), repository="toolchain-test/built", tag="1")
    folder = monorepo.add("one", mlproject=(
        "name: one\ndocker_env: {image: of-no-account, build_image: true}\n"
        "entry_points:\n  main: {command: python train.py}\n"))
    (folder / "Dockerfile").write_text(
        f"FROM toolchain-test/built:1\nENV PATH={PATH} GREETING=built\n")
    try:
        monorepo.doit("push")
        assert Pushed.of(monorepo, "one").environment["GREETING"] == "built"
        pinned = monorepo.receipt("one", "resolve")
        assert pinned["python"] == "3.11"
        assert pinned["packages"] == [], "they are in the image"
        assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    finally:
        client.images.remove("toolchain-test/built:1", force=True)


def test_an_image_with_another_patch_level_is_said(monorepo: Monorepo) -> None:
    for name, python in (("one", "3.11.7"), ("two", "3.11.2"), ("three", "3.11")):
        monorepo.add(name, files={
            "python_env.yaml": f"python: '{python}'\ndependencies: [-r requirements.txt]\n"})
    said = monorepo.doit("push")
    assert "warning: one: Python 3.11.7 is asked for; its image has Python 3.11.2" in said
    assert said.count("is asked for; its image") == 1

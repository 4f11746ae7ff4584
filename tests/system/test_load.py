"""`doit load` and `doit export`, as a user runs them, with a real Docker engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.monorepo import Monorepo, ran
from tests.support.registry import RegistryServer
from tests.support.services import docker_client, lacking, need, need_root
from toolchain.adapters.layout import Layout
from toolchain.digest import Digest, canonical_json
from toolchain.image import MANIFEST
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.store import Store


@pytest.fixture
def docker(monorepo: Monorepo) -> Iterator[Any]:
    """The engine's client; what the test loaded is taken away at the end."""
    client = docker_client()
    name = f"toolchain-test/{uuid.uuid4().hex[:12]}"
    repository(monorepo, name)
    yield client
    for image in client.api.images():  # what another test removes meanwhile is not asked for
        for tag in image["RepoTags"] or ():
            if f"{name}:" in tag:
                client.images.remove(tag, force=True)


def repository(monorepo: Monorepo, name: str = "") -> str:
    """The repository of the workspace's settings; given a name, set it."""
    path = monorepo.folder / "pyproject.toml"
    if name:
        path.write_text(f'{path.read_text()}repository = "{name}"\n')
    match = re.search(r'repository = "(.*)"', path.read_text())
    assert match is not None
    return match[1]


def said(output: str, what: str, project: str) -> str:
    """The words of a command's line, without seconds."""
    match = re.search(rf"^{what} {project}  (.*)  [\d.]+ s$", output, re.MULTILINE)
    assert match is not None, output
    return match[1]


def config_digest(monorepo: Monorepo, project: str) -> str:
    digest = Digest.parse(monorepo.receipt(project, "push")["digest"])
    layout = monorepo.folder / "cache/registry" / repository(monorepo)
    manifest = json.loads((layout / "blobs/sha256" / digest.hex).read_bytes())
    return str(manifest["config"]["digest"])


def test_an_image_is_loaded_under_its_names(monorepo: Monorepo, docker: Any) -> None:
    monorepo.add("one")
    output = monorepo.doit("load", "project=one")
    name = f"{repository(monorepo)}:one"
    assert ran(output, "one")["push"] == "made"
    total = len(monorepo.receipt("one", "base")["layers"]) + 1
    assert said(output, "load", "one").startswith(f"sent {total} of {total} layers (")
    assert said(output, "load", "one").endswith(f" as {name}")
    assert f"one: run it with `docker run --rm -it {name}`" in output
    image = docker.images.get(name)
    assert image.id == config_digest(monorepo, "one")
    tag = monorepo.receipt("one", "push")["tag"]
    assert docker.images.get(f"{repository(monorepo)}:{tag}").id == image.id


def test_what_is_there_is_not_sent_again(monorepo: Monorepo, docker: Any) -> None:
    folder = monorepo.add("one")
    monorepo.doit("load", "project=one")
    name = f"{repository(monorepo)}:one"
    first = docker.images.get(name).id
    assert said(monorepo.doit("load", "project=one"), "load", "one") == f"already there as {name}"
    (folder / "train.py").write_text("print('another')\n")
    output = monorepo.doit("load:one")
    total = len(monorepo.receipt("one", "base")["layers"]) + 1
    assert said(output, "load", "one").startswith(f"sent 1 of {total} layers (")
    assert docker.images.get(name).id == config_digest(monorepo, "one") != first
    # Every layer is whole: the engine reads all of them to write the image out.
    loaded = b"".join(docker.images.get(name).save())
    assert b"print('another')" in loaded


def test_a_name_that_was_taken_away_is_given_again(monorepo: Monorepo, docker: Any) -> None:
    monorepo.add("one")
    monorepo.doit("load", "project=one")
    name = f"{repository(monorepo)}:one"
    docker.images.remove(name)
    assert said(monorepo.doit("load", "project=one"), "load", "one") == f"already there as {name}"
    assert docker.images.get(name).id == config_digest(monorepo, "one")


def test_projects_share_layers_in_the_engine(monorepo: Monorepo, docker: Any) -> None:
    monorepo.add("one")
    monorepo.add("two words")
    monorepo.doit("load", "project=one")
    output = monorepo.doit("-n", "2", "load", "project=one,two words")
    total = len(monorepo.receipt("two words", "base")["layers"]) + 1
    assert said(output, "load", "two words").startswith(f"sent 1 of {total} layers (")
    (name,) = re.findall(r"^two words: run it with `docker run --rm -it (.*)`$", output, re.M)
    assert re.fullmatch(rf"{repository(monorepo)}:two-words-[0-9a-f]{{8}}", name)
    assert docker.images.get(name).id == config_digest(monorepo, "two words")


def test_the_loaded_image_runs(monorepo: Monorepo, docker: Any, tmp_path: Path) -> None:
    """With a program that needs nothing of the tiny system: a statically linked one."""
    program = static_program(tmp_path)
    folder = monorepo.add("one")
    (folder / "hello").write_bytes(program.read_bytes())
    (folder / "hello").chmod(0o755)
    monorepo.doit("load", "project=one")
    output = docker.containers.run(f"{repository(monorepo)}:one", entrypoint=["/project/hello"],
                                   command=[], network_mode="none", remove=True)
    assert output == b"hello\n"


def static_program(folder: Path) -> Path:
    """A Linux program of a few hundred bytes that says hello: write(2), exit(2)."""
    text = b"hello\n"
    base, header = 0x400000, 120
    code = (b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x10\0\0\0\xba\x06\0\0\0\x0f\x05"
            b"\xb8\x3c\0\0\0\x31\xff\x0f\x05")
    size = header + len(code) + len(text)

    def word(value: int, width: int) -> bytes:
        return value.to_bytes(width, "little")

    elf = (b"\x7fELF\x02\x01\x01" + bytes(9) + word(2, 2) + word(62, 2) + word(1, 4)
           + word(base + header, 8) + word(64, 8) + bytes(8) + bytes(4) + word(64, 2)
           + word(56, 2) + word(1, 2) + bytes(6)
           + word(1, 4) + word(5, 4) + bytes(8) + word(base, 8) + word(base, 8)
           + word(size, 8) + word(size, 8) + word(0x1000, 8))
    path = folder / "hello"
    path.write_bytes(elf + code + text)
    path.chmod(0o755)
    assert subprocess.run([path], capture_output=True, check=True).stdout == text
    return path


def test_blobs_that_only_a_registry_has_are_fetched_from_there(
    monorepo: Monorepo, docker: Any, another_monorepo: Callable[[str], Monorepo], tmp_path: Path,
) -> None:
    (tmp_path / "registry").mkdir()
    with RegistryServer(tmp_path / "registry") as server:
        monorepo.add("one")
        setting = f"registry={server.host}"
        monorepo.doit("push", "project=one", setting)
        other = another_monorepo("other")
        repository(other, repository(monorepo))
        other.add("one")
        (other.folder / "projects/one/requirements.lock").write_bytes(
            (monorepo.folder / "projects/one/requirements.lock").read_bytes())
        (other.folder / "base.lock").write_bytes((monorepo.folder / "base.lock").read_bytes())
        output = other.doit("load", "project=one", setting)
        assert "in the registry" in output
        name = f"{server.host}/{repository(monorepo)}:one"
        assert said(output, "load", "one").endswith(f" as {name}")
        assert docker.images.get(name).tags
        other.doit("export", "project=one", setting, "to=one.tar")
    with tarfile.open(other.folder / "one.tar") as archive:
        assert_layout_is_whole(archive)


def test_without_an_engine_it_says_how_to_get_one(monorepo: Monorepo, tmp_path: Path) -> None:
    monorepo.add("one")
    monorepo.environment["DOCKER_HOST"] = f"unix://{tmp_path}/nowhere.sock"
    output = monorepo.doit("load", "project=one", expect=1)
    assert ran(output, "one")["push"] == "made"
    assert f"""load one  failed
no Docker engine answers: No such file or directory
  at unix://{tmp_path}/nowhere.sock
  fix: start Docker, or name an engine with DOCKER_HOST or `docker context use`; \
`doit export` needs none
""" in output


# export


def assert_layout_is_whole(archive: tarfile.TarFile) -> None:
    """The files are an OCI layout of one image, every blob under its digest."""
    def read(path: str) -> bytes:
        stream = archive.extractfile(path)
        assert stream is not None
        return stream.read()

    assert json.loads(read("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    names = archive.getnames()
    for name in names:
        if name.startswith("blobs/"):
            assert Digest.of(read(name)).hex == name.rpartition("/")[2]
    (entry,) = [item for item in json.loads(read("index.json"))["manifests"]
                if "artifactType" not in item]  # what is attached to it goes along
    manifest = json.loads(read(f"blobs/sha256/{Digest.parse(entry['digest']).hex}"))
    for item in [manifest["config"], *manifest["layers"]]:
        path = f"blobs/sha256/{Digest.parse(item['digest']).hex}"
        assert archive.getmember(path).size == item["size"]
    assert len(names) == len(set(names))


def test_the_file_is_the_same_on_every_machine(
    monorepo: Monorepo, another_monorepo: Callable[[str], Monorepo],
) -> None:
    other = another_monorepo("other")
    for repo in (monorepo, other):
        repo.add("one")
        repo.doit("export", "project=one", "to=image.tar")
    first = (monorepo.folder / "image.tar").read_bytes()
    assert first == (other.folder / "image.tar").read_bytes()
    monorepo.doit("export", "project=one", "to=again.tar")
    assert first == (monorepo.folder / "again.tar").read_bytes()
    with tarfile.open(monorepo.folder / "image.tar") as archive:
        assert_layout_is_whole(archive)


def test_skopeo_and_umoci_and_docker_take_the_file(
    monorepo: Monorepo, docker: Any, tmp_path: Path,
) -> None:
    monorepo.add("one")
    output = monorepo.doit("export", "project=one", f"to={tmp_path}/one.tar")
    assert said(output, "export", "one").endswith(f" to {tmp_path}/one.tar")
    digest = monorepo.receipt("one", "push")["digest"]
    inspected = subprocess.run([need("skopeo"), "inspect", f"oci-archive:{tmp_path}/one.tar:one"],
                               capture_output=True, text=True, check=True)
    assert json.loads(inspected.stdout)["Digest"] == digest
    subprocess.run([need("skopeo"), "copy", "--insecure-policy",
                    f"oci-archive:{tmp_path}/one.tar:one", f"dir:{tmp_path}/copied"],
                   capture_output=True, check=True)
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "one.tar", "-C", tmp_path / "layout"], check=True)
    subprocess.run([need("umoci"), "unpack", "--rootless", "--image", f"{tmp_path}/layout:one",
                    f"{tmp_path}/bundle"], capture_output=True, check=True)
    assert (tmp_path / "bundle/rootfs/project/train.py").exists()
    with open(tmp_path / "one.tar", "rb") as stream:
        image = docker.images.load(stream)[0]  # by each of its names
    assert image.id == config_digest(monorepo, "one")
    assert f"{repository(monorepo)}:one" in image.tags


def test_what_is_attached_to_the_image_goes_along(
    monorepo: Monorepo, docker: Any, journal: Journal, store: Store, tmp_path: Path,
) -> None:
    monorepo.add("one")
    monorepo.doit("export", "project=one", f"to={tmp_path}/before.tar")
    subject = Digest.parse(monorepo.receipt("one", "push")["digest"])
    layout = Layout(monorepo.folder / "cache/registry" / repository(monorepo), "x",
                    tmp_path / "quarantine", journal)
    empty, note = b"{}", b'{"bomFormat": "CycloneDX"}'
    for data in (empty, note):
        layout.put_blob(store.put(data), len(data), store, Progress())
    image = layout.manifest(str(subject))
    assert image is not None
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.cyclonedx+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                   "digest": str(Digest.of(empty)), "size": len(empty)},
        "layers": [{"mediaType": "application/vnd.cyclonedx+json",
                    "digest": str(Digest.of(note)), "size": len(note)}],
        "subject": {"mediaType": MANIFEST, "digest": str(subject), "size": len(image)}})
    layout.attach([manifest], subject)
    monorepo.doit("export", "project=one", f"to={tmp_path}/one.tar")
    with tarfile.open(tmp_path / "before.tar") as old, tarfile.open(tmp_path / "one.tar") as new:
        added = set(new.getnames()) - set(old.getnames())
        index = new.extractfile("index.json")
        assert index is not None
        assert str(Digest.of(manifest)) in {
            item["digest"] for item in json.loads(index.read())["manifests"]}
    # The empty blob is there already, with what push attached.
    assert {f"blobs/sha256/{Digest.of(data).hex}" for data in (note, manifest)} == added
    inspected = subprocess.run([need("skopeo"), "inspect", f"oci-archive:{tmp_path}/one.tar:one"],
                               capture_output=True, check=True)
    assert json.loads(inspected.stdout)["Digest"] == str(subject)
    with open(tmp_path / "one.tar", "rb") as stream:
        assert docker.images.load(stream)[0].id == config_digest(monorepo, "one")


def test_each_project_gets_a_file_of_its_own(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.add("two")
    (monorepo.folder / "images").mkdir()
    monorepo.doit("export", "to=images/")
    monorepo.doit("export", "to=images/image-{project}.oci")
    assert {path.name for path in (monorepo.folder / "images").iterdir()} == {
        "one.tar", "two.tar", "image-one.oci", "image-two.oci"}
    for name in ("one", "two"):
        assert ((monorepo.folder / f"images/{name}.tar").read_bytes()
                == (monorepo.folder / f"images/image-{name}.oci").read_bytes())


def test_to_is_relative_to_where_doit_was_called(monorepo: Monorepo) -> None:
    monorepo.add("one")
    below = monorepo.folder / "below"
    below.mkdir()
    subprocess.run(["python", "-m", "doit", "-k", "export", "project=one", "to=one.tar"],
                   cwd=below, env=monorepo.environment, check=True, capture_output=True)
    assert (below / "one.tar").exists()


@pytest.mark.parametrize(("to", "message"), [
    ("", "export needs a file to write\n  at to\n  fix: give one, as in "
         "`doit export project=one to=image.tar`"),
    ("to=nowhere/one.tar", "the folder does not exist: "),
    ("to=projects", "this is a folder\n  at to=projects\n  fix: name a file, or end it in '/' "),
    ("to=one.tar", "one file for 2 projects\n  at to=one.tar\n  fix: put {project} into the name"),
])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_built(
    monorepo: Monorepo, to: str, message: str,
) -> None:
    monorepo.add("one")
    if "2 projects" in message:
        monorepo.add("two")
    output = monorepo.doit("export", *filter(None, [to]), expect=3)
    assert message in output
    assert ran(output, "one") == {}


def test_an_archive_is_not_written_into_the_project(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    output = monorepo.doit("export", "project=one", "to=projects/one/image.tar", expect=1)
    assert "the archive would become part of the project's image\n" in output
    assert not (folder / "image.tar").exists()


def test_a_full_disk_leaves_the_old_file(monorepo: Monorepo, tmp_path: Path) -> None:
    need_root("mount a small disk")
    monorepo.add("one", files={"big.bin": os.urandom(300_000).hex()})
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", small],
                             capture_output=True)
    if mounted.returncode:
        lacking("no mounting here")
    try:
        (small / "one.tar").write_text("old")
        output = monorepo.doit("export", "project=one", f"to={small}/one.tar", expect=1)
        assert "the archive cannot be written: No space left on device\n" in output
        assert (small / "one.tar").read_text() == "old"
        assert [path.name for path in small.iterdir()] == ["one.tar"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_commands_are_tasks_like_others(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.add("two")
    output = monorepo.doit("list", "--all", "project=one")
    assert "load:one" in output
    assert "export:one" in output
    monorepo.doit("push")
    monorepo.doit("forget", "load:one")
    assert ran(monorepo.doit("push"), "one")["push"] == "fresh"
    (monorepo.folder / "dodo.py").write_text(
        "from toolchain.tasks import *\n\n\ndef task_carry():\n"
        "    return {'actions': ['ls out'], 'task_dep': ['export']}\n")
    (monorepo.folder / "out").mkdir()
    monorepo.doit("carry", "to=out/")
    assert {path.name for path in (monorepo.folder / "out").iterdir()} == {"one.tar", "two.tar"}

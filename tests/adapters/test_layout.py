"""The embedded registry is a valid OCI image layout, and notices what is damaged in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.services import need
from toolchain import push
from toolchain.adapters.layout import Layout
from toolchain.digest import Digest, canonical_json
from toolchain.errors import RegistryError, ToolchainError
from toolchain.image import INDEX, MANIFEST, Image
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def layout(folder: Path, tmp_path: Path, journal: Journal) -> Layout:
    return Layout(folder, "mlflow/trainer", tmp_path / "quarantine", journal)


@pytest.fixture
def pushed(layout: Layout, made: Image, store: Store) -> Layout:
    push.make(made, "tag", layout, store, Progress())
    return layout


def _damage(path: Path) -> None:
    """Turn one bit, in a copy, so that the store's hard link stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_the_folder_is_what_the_specification_says(
    pushed: Layout, made: Image, folder: Path
) -> None:
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_bytes())
    assert index == {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": MANIFEST, "digest": str(made.digest),
                       "size": len(made.manifest),
                       "annotations": {"org.opencontainers.image.ref.name": "tag"}}],
    }


def test_every_blob_is_under_its_digest_and_nothing_else_is_there(
    pushed: Layout, made: Image, folder: Path
) -> None:
    found = {path.name: Digest.of(path.read_bytes()).hex
             for path in (folder / "blobs/sha256").iterdir()}
    assert all(name == digest for name, digest in found.items())
    assert set(found) == {made.digest.hex, made.config_digest.hex,
                          *(layer.digest.hex for layer in made.layers)}


def test_blobs_take_no_second_space(pushed: Layout, made: Image, folder: Path,
                                    store: Store) -> None:
    for layer in made.layers:
        blob = folder / "blobs/sha256" / layer.digest.hex
        assert blob.stat().st_ino == store.path(layer.digest).stat().st_ino


def test_a_moved_tag_is_named_once(
    pushed: Layout, make_image: Callable[..., Image], store: Store, folder: Path
) -> None:
    other = make_image("other")
    push.make(other, "tag", pushed, store, Progress())
    push.make(other, "tag", pushed, store, Progress())
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == str(other.digest)


def test_entries_of_other_tools_stay(pushed: Layout, made: Image, folder: Path) -> None:
    index = json.loads((folder / "index.json").read_bytes())
    theirs = {"mediaType": MANIFEST, "digest": str(Digest.of(b"theirs")), "size": 6}
    (folder / "index.json").write_text(json.dumps(
        {**index, "manifests": [theirs, *index["manifests"]]}))
    pushed.put_manifest(made.manifest, "new")
    assert theirs in json.loads((folder / "index.json").read_bytes())["manifests"]
    assert pushed.manifest("tag") == pushed.manifest("new") == made.manifest


def test_umoci_unpacks_the_image(pushed: Layout, folder: Path, tmp_path: Path) -> None:
    subprocess.run([need("umoci"), "unpack", "--rootless", "--image", f"{folder}:tag",
                    str(tmp_path / "bundle")], check=True, capture_output=True)
    root = tmp_path / "bundle/rootfs/usr/share"
    assert (root / "one").read_text() == "one"
    assert (root / ("three" * 4)).read_text() == "three" * 100_000


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", [_damage, Path.unlink], ids=["damaged", "gone"])
def test_a_blob_that_is_not_right_is_noticed_and_put_again(
    pushed: Layout, made: Image, store: Store, folder: Path, what: str,
    how: Callable[[Path], None]
) -> None:
    victim = {"manifest": made.digest, "config": made.config_digest,
              "layer": made.layers[1].digest}[what]
    assert pushed.still_has(made.digest)
    how(folder / "blobs/sha256" / victim.hex)
    assert not pushed.still_has(made.digest)
    assert not pushed.has_blob(victim)
    if what == "manifest":
        assert pushed.manifest("tag") is None
    push.make(made, "tag", pushed, store, Progress())
    assert pushed.still_has(made.digest)
    assert push.find(pushed, "tag") == made


def test_a_damaged_blob_is_kept_for_whoever_wants_to_know(
    pushed: Layout, made: Image, folder: Path, tmp_path: Path
) -> None:
    _damage(folder / "blobs/sha256" / made.layers[0].digest.hex)
    assert not pushed.has_blob(made.layers[0].digest)
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [
        made.layers[0].digest.hex]


def test_another_process_notices_too(
    pushed: Layout, made: Image, folder: Path, tmp_path: Path
) -> None:
    """What was verified is on record with its times; a changed blob has others."""
    _damage(folder / "blobs/sha256" / made.layers[0].digest.hex)
    again = Layout(folder, "mlflow/trainer", tmp_path / "quarantine", Journal(tmp_path / "cache"))
    assert not again.still_has(made.digest)


def test_a_layout_that_was_deleted_is_empty_and_can_be_filled_again(
    pushed: Layout, made: Image, store: Store, folder: Path
) -> None:
    shutil.rmtree(folder)
    assert not pushed.still_has(made.digest)
    assert pushed.manifest("tag") is None
    _, count, _ = push.make(made, "tag", pushed, store, Progress())
    assert count == len(made.layers)
    assert pushed.still_has(made.digest)


def test_an_index_that_cannot_be_read_is_answered_with_a_remedy(
    pushed: Layout, folder: Path
) -> None:
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()
    with pytest.raises(RegistryError, match="the image layout's index cannot be read") as caught:
        pushed.manifest("tag")
    assert caught.value.where == str(folder / "index.json")
    assert "delete it" in caught.value.fix


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "3", "{}", '{"manifests": 3}', '{"manifests": [3]}',
    '{"manifests": {"tag": "x"}}',
    '{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "tag"}}]}',
    '{"manifests": [{"digest": "md5:1", "annotations": '
    '{"org.opencontainers.image.ref.name": "tag"}}]}',
    "\ud800",
])
def test_an_index_that_is_none_is_said_to_be_none(
    pushed: Layout, made: Image, folder: Path, text: str
) -> None:
    (folder / "index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RegistryError, match="not an image layout") as caught:
        pushed.manifest("tag")
    assert str(folder / "index.json") in str(caught.value)
    assert caught.value.fix


def test_a_layout_without_its_index_has_nothing_and_gets_a_new_one(
    pushed: Layout, made: Image, store: Store, folder: Path
) -> None:
    """That is what the error above says to do."""
    (folder / "index.json").unlink()
    assert not pushed.still_has(made.digest)
    assert push.find(pushed, "tag") is None
    push.make(made, "tag", pushed, store, Progress())
    assert pushed.still_has(made.digest)
    assert push.find(pushed, "tag") == made


def test_annotations_that_are_null_are_no_tag(pushed: Layout, folder: Path) -> None:
    (folder / "index.json").write_text(
        '{"manifests": [{"digest": "sha256:' + "0" * 64 + '", "annotations": null}]}')
    assert pushed.manifest("tag") is None


def test_a_folder_that_cannot_be_written_is_explained(
    made: Image, store: Store, tmp_path: Path, journal: Journal
) -> None:
    (tmp_path / "registry").write_text("a file")
    layout = Layout(tmp_path / "registry", "mlflow/trainer", tmp_path / "quarantine", journal)
    with pytest.raises(ToolchainError) as caught:
        push.make(made, "tag", layout, store, Progress())
    assert str(tmp_path / "registry") in str(caught.value)
    assert caught.value.fix


def test_what_refers_to_an_image_is_where_other_tools_look_for_it(
    pushed: Layout, made: Image, store: Store, folder: Path
) -> None:
    """An index under the tag sha256-…; a tool that removes what nothing refers to keeps it all."""
    manifests = []
    for kind in ("application/a", "application/b"):
        pushed.put_blob(store.put(b"{}"), 2, store, Progress())
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                 "digest": str(Digest.of(b"{}"))}
        manifest = canonical_json({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": empty,
            "layers": [empty], "subject": {"mediaType": MANIFEST, "digest": str(made.digest),
                                           "size": len(made.manifest)}})
        pushed.attach([manifest], made.digest)
        manifests.append(manifest)
    (entry,) = [item for item in json.loads((folder / "index.json").read_bytes())["manifests"]
                if item["mediaType"] == INDEX]
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": f"sha256-{made.digest.hex}"}
    listed = pushed.manifest(f"sha256-{made.digest.hex}")
    assert listed is not None
    assert Digest.of(listed) == Digest.parse(entry["digest"])
    assert pushed.still_has(Digest.of(listed))
    subprocess.run([need("umoci"), "gc", "--layout", str(folder)], check=True, capture_output=True)
    assert push.find(pushed, "tag") == made
    assert [pushed.manifest(item["digest"]) for item in pushed.referrers(made.digest)] == manifests
    assert pushed.config(Digest.of(b"{}")) == b"{}"
    (folder / "blobs/sha256" / Digest.of(manifests[0]).hex).unlink()
    assert not pushed.still_has(Digest.of(listed))


def test_a_list_of_referrers_that_is_none_is_said_to_be_none(
    pushed: Layout, made: Image, folder: Path
) -> None:
    pushed.put_manifest(made.manifest, f"sha256-{made.digest.hex}")
    with pytest.raises(RegistryError, match="is none") as caught:
        pushed.referrers(made.digest)
    assert caught.value.where == str(folder)
    assert caught.value.fix


def test_a_full_layout_says_so_when_a_blob_is_copied(
    made: Image, tmp_path: Path, journal: Journal, pushed: Layout
) -> None:
    (tmp_path / "file").write_text("")
    layout = Layout(tmp_path / "file", "x", tmp_path / "quarantine", journal)
    with pytest.raises(ToolchainError) as caught:
        layout.copy_blob(made.config_digest, len(made.config), pushed, Progress())
    assert str(tmp_path / "file") in str(caught.value)

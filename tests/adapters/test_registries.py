"""One contract for every registry: a layout in a folder and a real server over HTTP."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.memory import EmptyRegistry
from tests.support.registry import RegistryServer
from tests.support.services import need
from toolchain import push
from toolchain.adapters.layout import Layout
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest, canonical_json
from toolchain.errors import RegistryError, StoreError
from toolchain.image import INDEX, MANIFEST, Image, make
from toolchain.journal import Journal
from toolchain.layer import Layer
from toolchain.progress import Progress
from toolchain.push import BlobSource, Registry
from toolchain.store import Store

_REPOSITORY = "mlflow/trainer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(params=["layout", "http"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def registry(kind: str, request: pytest.FixtureRequest, tmp_path: Path,
             journal: Journal) -> Registry:
    if kind == "layout":
        return Layout(tmp_path / "registry", _REPOSITORY, tmp_path / "quarantine", journal)
    host = request.getfixturevalue("server").host
    fresh = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    return HttpRegistry(host, host, f"{_REPOSITORY}/{fresh}", insecure=False)


def _put(registry: Registry, image: Image, store: Store, *tags: str) -> None:
    for layer in image.layers:
        registry.put_blob(layer.digest, layer.size, store, Progress())
    registry.put_blob(image.config_digest, len(image.config), store, Progress())
    for tag in tags:
        registry.put_manifest(image.manifest, tag)


def test_references_begin_with_the_name(registry: Registry, made: Image, store: Store) -> None:
    pushed, _, _ = push.make(made, "tag", registry, store, Progress())
    assert pushed.reference == f"{registry.name}@{made.digest}"
    assert _REPOSITORY in registry.name
    assert push.Pushed.from_json(pushed.to_json()) == pushed


def test_what_is_not_there_is_not_there(registry: Registry, made: Image) -> None:
    assert registry.manifest("tag") is None
    assert registry.manifest(str(made.digest)) is None
    assert not registry.has_blob(made.config_digest)
    with pytest.raises(RegistryError) as caught:
        registry.config(made.config_digest)
    assert caught.value.where
    assert caught.value.fix


def test_a_blob_that_was_put_can_be_had(registry: Registry, made: Image, store: Store) -> None:
    progress = Progress()
    registry.put_blob(made.config_digest, len(made.config), store, progress)
    assert registry.has_blob(made.config_digest)
    assert registry.config(made.config_digest) == made.config
    assert progress.done == len(made.config)


def test_a_blob_is_streamed_whole(registry: Registry, store: Store) -> None:
    data = b"blob " * 500_000
    registry.put_blob(store.put(data), len(data), store, Progress())
    pieces = list(registry.stream(Digest.of(data), len(data)))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 1 << 20


def test_a_blob_that_is_not_there_is_not_streamed(registry: Registry) -> None:
    with pytest.raises(RegistryError) as caught:
        list(registry.stream(Digest.of(b"nothing"), 7))
    assert caught.value.where
    assert caught.value.fix


def test_putting_a_blob_twice_is_as_once(
    registry: Registry, made: Image, store: Store, tmp_path: Path
) -> None:
    for _ in range(2):
        registry.put_blob(made.config_digest, len(made.config), store, Progress())
    assert registry.config(made.config_digest) == made.config
    assert not list(tmp_path.rglob("tmp-*"))


def test_an_empty_blob_can_be_put(registry: Registry, store: Store) -> None:
    digest = store.put(b"")
    registry.put_blob(digest, 0, store, Progress())
    assert registry.has_blob(digest)
    assert registry.config(digest) == b""


def test_the_same_blob_can_be_put_by_many_at_once(registry: Registry, store: Store) -> None:
    for text in (b"one", b"two", b"three", b"four"):
        digest = store.put(text * 1000)
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(registry.put_blob, digest, 1000 * len(text), store,
                                     Progress()) for _ in range(8)]:
                done.result()
        assert registry.config(digest) == text * 1000


def test_a_blob_that_the_store_lost_is_not_put(
    registry: Registry, made: Image, store: Store
) -> None:
    store.path(made.config_digest).unlink()
    with pytest.raises(StoreError):
        registry.put_blob(made.config_digest, len(made.config), store, Progress())
    assert not registry.has_blob(made.config_digest)


def test_a_manifest_is_had_by_its_tag_and_by_its_digest(
    registry: Registry, made: Image, store: Store
) -> None:
    _put(registry, made, store, "first", "second")
    assert registry.manifest("first") == made.manifest
    assert registry.manifest("second") == made.manifest
    assert registry.manifest(str(made.digest)) == made.manifest
    assert registry.manifest("third") is None
    assert registry.still_has(made.digest)


def test_a_tag_moves_and_what_it_named_stays(
    registry: Registry, made: Image, make_image: Callable[..., Image], store: Store
) -> None:
    other = make_image("other")
    _put(registry, made, store, "tag")
    _put(registry, other, store, "tag", "tag")
    assert registry.manifest("tag") == other.manifest
    assert registry.manifest(str(made.digest)) == made.manifest


def test_eight_tags_at_once_are_all_there(
    registry: Registry, made: Image, make_image: Callable[..., Image], store: Store
) -> None:
    images = [make_image(f"image {number}") for number in range(8)]
    for image in images:
        _put(registry, image, store)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(registry.put_manifest, image.manifest, f"tag-{number}")
                     for number, image in enumerate(images)]:
            done.result()
    assert [registry.manifest(f"tag-{number}") for number in range(8)] == [
        image.manifest for image in images]


def test_a_push_sends_what_is_missing_and_a_second_nothing(
    registry: Registry, made: Image, store: Store
) -> None:
    progress = Progress()
    _, count, sent = push.make(made, "tag", registry, store, progress)
    assert (count, sent) == (3, sum(layer.size for layer in made.layers))
    assert progress.expected == progress.done == sent + len(made.config)
    assert push.make(made, "tag", registry, store, Progress())[1:] == (0, 0)


def test_a_push_sends_a_shared_layer_once(
    registry: Registry, made: Image, make_image: Callable[..., Image], store: Store
) -> None:
    push.make(made, "tag", registry, store, Progress())
    twice = make_image("one", "new", "new")
    assert push.make(twice, "other", registry, store, Progress())[1:] == (1, twice.layers[1].size)


def test_an_image_that_was_pushed_is_found_by_its_tag(
    registry: Registry, made: Image, store: Store
) -> None:
    push.make(made, "tag", registry, store, Progress())
    assert push.find(registry, "tag") == made
    assert push.find(registry, "another") is None


@pytest.mark.parametrize("change", ["no labels", "other layers", "no layers"])
def test_an_image_of_somebody_else_is_not_taken_for_ours(
    registry: Registry, made: Image, store: Store, change: str
) -> None:
    theirs = json.loads(made.manifest)
    if change == "no labels":
        for layer in theirs["layers"]:
            del layer["annotations"]
    else:
        theirs["layers"] = theirs["layers"][:1] if change == "other layers" else []
    _put(registry, made, store)
    registry.put_manifest(canonical_json(theirs), "tag")
    assert push.find(registry, "tag") is None


def test_a_tag_whose_blobs_are_gone_is_nothing_to_build_on(
    registry: Registry, made: Image, store: Store, tmp_path: Path, request: pytest.FixtureRequest,
    kind: str
) -> None:
    """Someone cleaned up the registry: the image must be pushed again, not be an error."""
    push.make(made, "tag", registry, store, Progress())
    if kind == "layout":
        (tmp_path / "registry/blobs/sha256" / made.config_digest.hex).unlink()
    else:
        storage = request.getfixturevalue("server").folder / "storage"
        name = registry.name.partition("/")[2]
        for path in storage.glob(f"**/{name}/_layers/sha256/{made.config_digest.hex}/link"):
            path.unlink()
    assert not registry.has_blob(made.config_digest)
    assert push.find(registry, "tag") is None
    push.make(made, "tag", registry, store, Progress())
    assert push.find(registry, "tag") == made


class Blobs:
    """A push.BlobSource in memory that says of itself what it is told to say."""

    def __init__(self, data: bytes, location: tuple[str, str] | None = None) -> None:
        self.location = location
        self._data = data
        self.streamed = 0

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        self.streamed += 1
        if (Digest.of(self._data), len(self._data)) != (digest, size):
            yield self._data[: size // 2]
            raise RegistryError("other bytes than asked for")
        for start in range(0, size, 70_000):
            yield self._data[start:start + 70_000]


def test_a_blob_is_copied_from_elsewhere(registry: Registry) -> None:
    data = bytes(range(256)) * 1000
    progress = Progress()
    for source in (Blobs(data), Blobs(data, ("elsewhere.example.com", "a/b"))):
        registry.copy_blob(Digest.of(data), len(data), source, progress)
        assert registry.config(Digest.of(data)) == data
    assert progress.done == 2 * len(data)


def test_an_empty_blob_can_be_copied(registry: Registry) -> None:
    registry.copy_blob(Digest.of(b""), 0, Blobs(b""), Progress())
    assert registry.config(Digest.of(b"")) == b""


def test_a_blob_whose_source_fails_is_not_there(registry: Registry, tmp_path: Path) -> None:
    data = b"right" * 100_000
    progress = Progress()
    with pytest.raises(RegistryError, match="other bytes"):
        registry.copy_blob(Digest.of(data), len(data), Blobs(b"wrong" * 100_000), progress)
    assert not registry.has_blob(Digest.of(data))
    assert not list(tmp_path.rglob("tmp-*"))


def test_what_was_pushed_can_be_streamed_and_is_verified(
    registry: Registry, made: Image, store: Store
) -> None:
    push.make(made, "tag", registry, store, Progress())
    source: BlobSource = registry
    for layer in made.layers:
        assert b"".join(source.stream(layer.digest, layer.size)) == store.read(layer.digest)
        for wrong in (layer.size - 1, layer.size + 1):
            got = bytearray()
            with pytest.raises(RegistryError) as caught:
                got.extend(byte for piece in source.stream(layer.digest, wrong) for byte in piece)
            assert len(got) < min(layer.size, wrong)
            assert caught.value.where
            assert caught.value.fix
    with pytest.raises(RegistryError):
        list(source.stream(Digest.of(b"not there"), 9))


def test_one_registry_copies_from_another(
    registry: Registry, made: Image, store: Store, tmp_path: Path, journal: Journal
) -> None:
    push.make(made, "tag", registry, store, Progress())
    other = Layout(tmp_path / "other", "other", tmp_path / "quarantine", journal)
    for layer in made.layers:
        other.copy_blob(layer.digest, layer.size, registry, Progress())
        assert other.config(layer.digest) == store.read(layer.digest)


def _index(*images: Image) -> bytes:
    return canonical_json({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{"mediaType": MANIFEST, "digest": str(image.digest),
                       "size": len(image.manifest),
                       "platform": {"os": "linux", "architecture": f"a{number}"}}
                      for number, image in enumerate(images)]})


def test_an_index_of_images_is_put_after_them(
    registry: Registry, make_image: Callable[..., Image], store: Store
) -> None:
    images = [make_image("one", "two"), make_image("one", "three")]
    for image in images:
        _put(registry, image, store)
        registry.put_manifest(image.manifest, None)
        assert registry.manifest(str(image.digest)) == image.manifest
    index = _index(*images)
    registry.put_manifest(index, None)
    assert registry.manifest(str(Digest.of(index))) == index
    assert registry.manifest("tag") is None
    registry.put_manifest(index, "tag")
    assert registry.manifest("tag") == index
    assert registry.still_has(Digest.of(index))
    assert push.find(registry, "tag") is None  # an index is not what `push` made


def test_a_manifest_must_say_what_it_is(registry: Registry) -> None:
    with pytest.raises(ValueError, match="media type"):
        registry.put_manifest(b"{}", "tag")


def _referrer(subject: Image, kind: str, text: str) -> tuple[bytes, bytes]:
    """A manifest about an image, and its one blob."""
    blob = text.encode()
    return canonical_json({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                   "digest": str(Digest.of(b"{}"))},
        "layers": [{"mediaType": kind, "digest": str(Digest.of(blob)), "size": len(blob)}],
        "subject": {"mediaType": MANIFEST, "digest": str(subject.digest),
                    "size": len(subject.manifest)},
        "annotations": {"org.opencontainers.image.created": "1980-01-02T00:00:00Z"},
    }), blob


def _attach(registry: Registry, subject: Image, kind: str, text: str, store: Store) -> bytes:
    manifest, blob = _referrer(subject, kind, text)
    for data in (blob, b"{}"):
        registry.put_blob(store.put(data), len(data), store, Progress())
    registry.attach([manifest], subject.digest)
    return manifest


def test_what_is_attached_to_an_image_is_listed(
    registry: Registry, made: Image, make_image: Callable[..., Image], store: Store
) -> None:
    assert registry.referrers(made.digest) == ()
    push.make(made, "tag", registry, store, Progress())
    first = _attach(registry, made, "application/a", "one", store)
    second = _attach(registry, made, "application/b", "two", store)
    _attach(registry, made, "application/b", "two", store)  # twice is as once
    assert registry.referrers(made.digest) == tuple(
        {"mediaType": MANIFEST, "digest": str(Digest.of(manifest)), "size": len(manifest),
         "artifactType": kind,
         "annotations": {"org.opencontainers.image.created": "1980-01-02T00:00:00Z"}}
        for manifest, kind in ((first, "application/a"), (second, "application/b")))
    assert [item["digest"] for item in registry.referrers(made.digest, "application/b")] == [
        str(Digest.of(second))]
    assert registry.referrers(made.digest, "application/c") == ()
    assert registry.manifest(str(Digest.of(first))) == first
    assert registry.referrers(make_image("other").digest) == ()
    assert push.find(registry, "tag") == made


def test_something_may_be_attached_before_the_image_is_there(
    registry: Registry, made: Image, store: Store
) -> None:
    _attach(registry, made, "application/a", "one", store)
    assert len(registry.referrers(made.digest)) == 1


def test_what_names_another_subject_is_not_attached(
    registry: Registry, made: Image, make_image: Callable[..., Image]
) -> None:
    manifest, _ = _referrer(made, "application/a", "one")
    with pytest.raises(ValueError, match="subject"):
        registry.attach([manifest], make_image("other").digest)
    assert registry.referrers(made.digest) == ()


class Recorder(EmptyRegistry):
    """Writes down in which order it was given things."""

    def __init__(self, *, refuse: Digest | None = None) -> None:
        self.given: list[str] = []
        self._refuse = refuse

    def put_blob(self, digest: Digest, size: int, store: Store, progress: Progress) -> None:
        if digest == self._refuse:
            raise RegistryError("refused")
        self.given.append(str(digest))

    def put_manifest(self, manifest: bytes, tag: str | None) -> None:
        self.given.append(tag or str(Digest.of(manifest)))


def test_blobs_go_before_the_config_and_that_before_the_manifest(
    made: Image, store: Store
) -> None:
    recorder = Recorder()
    push.make(made, "tag", recorder, store, Progress())
    assert sorted(recorder.given[:3]) == sorted(str(layer.digest) for layer in made.layers)
    # One request: what is put under a tag is there under its digest too.
    assert recorder.given[3:] == [str(made.config_digest), "tag"]


def test_no_manifest_is_put_while_a_blob_is_missing(made: Image, store: Store) -> None:
    recorder = Recorder(refuse=made.layers[1].digest)
    with pytest.raises(RegistryError, match="refused"):
        push.make(made, "tag", recorder, store, Progress())
    assert "tag" not in recorder.given
    assert str(made.config_digest) not in recorder.given


def _address(kind: str, registry: Registry, image: Image, folder: Path) -> tuple[str, list[str]]:
    """How skopeo names an image, and the options that it needs."""
    if kind == "layout":
        return f"oci:{folder / 'registry'}:tag", []
    return f"docker://{registry.name}@{image.digest}", ["tls-verify=false"]


def test_skopeo_reads_and_copies_the_image(
    registry: Registry, kind: str, made: Image, store: Store, tmp_path: Path, fetched: Path
) -> None:
    skopeo = need("skopeo")
    push.make(made, "tag", registry, store, Progress())
    address, options = _address(kind, registry, made, tmp_path)
    inspected = json.loads(subprocess.run(
        [skopeo, "inspect", *(f"--{option}" for option in options), address],
        capture_output=True, check=True).stdout)
    assert inspected["Digest"] == str(made.digest)
    assert inspected["Layers"] == [str(layer.digest) for layer in made.layers]
    assert (inspected["Os"], inspected["Architecture"]) == ("linux", "amd64")
    subprocess.run([skopeo, "--insecure-policy", "copy", "--quiet",
                    *(f"--src-{option}" for option in options), address, f"dir:{fetched}"],
                   check=True, capture_output=True)
    assert (fetched / "manifest.json").read_bytes() == made.manifest
    assert (fetched / made.config_digest.hex).read_bytes() == made.config
    for layer in made.layers:
        assert (fetched / layer.digest.hex).read_bytes() == store.read(layer.digest)


def test_what_an_earlier_manifest_names_is_not_asked_for(
    made: Image, registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    push.make(made, "tag", registry, store, Progress())
    asked: list[Digest] = []
    has_blob = registry.has_blob

    def noted(digest: Digest) -> bool:
        asked.append(digest)
        return has_blob(digest)

    monkeypatch.setattr(registry, "has_blob", noted)
    new = Layer(digest=store.put(b"new"), diff_id=Digest.of(b"new"), size=3,
                media_type=made.layers[0].media_type, label="new")
    more = make((*made.layers, new), "1000", "linux/amd64")
    _, number, _ = push.make(more, "more", registry, store, Progress(), before=made.digest)
    assert number == 1
    assert asked == [new.digest]  # where a layer was missing, so is the config
    assert push.find(registry, "more") == more
    asked.clear()
    push.make(more, "again", registry, store, Progress(), before=Digest.of(b"never pushed"))
    assert {layer.digest for layer in more.layers} < set(asked)


def test_a_blob_that_was_deleted_from_under_a_manifest_is_sent_again(
    made: Image, server: RegistryServer, store: Store
) -> None:
    registry = HttpRegistry(server.host, server.host, f"{_REPOSITORY}/deleted", insecure=False)
    push.make(made, "tag", registry, store, Progress())
    lost = made.layers[0]
    connection = http.client.HTTPConnection(server.host, timeout=10)
    connection.request("DELETE", f"/v2/{_REPOSITORY}/deleted/blobs/{lost.digest}")
    assert connection.getresponse().status == 202
    connection.close()
    assert not registry.has_blob(lost.digest)
    new = Layer(digest=store.put(b"newer"), diff_id=Digest.of(b"newer"), size=5,
                media_type=lost.media_type, label="newer")
    more, progress = make((*made.layers, new), "0", "linux/amd64"), Progress()
    meanwhile: list[None] = []
    _, number, size = push.make(more, "more", registry, store, progress, before=made.digest,
                                beside=lambda: meanwhile.append(None))
    assert (number, size) == (2, lost.size + new.size)
    assert registry.has_blob(lost.digest)
    assert len(meanwhile) == 1
    assert (progress.layers_done, progress.layers_expected) == (2, 2)
    assert progress.done == progress.expected == size + len(more.config)

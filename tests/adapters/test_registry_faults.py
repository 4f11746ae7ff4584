"""Whatever the network and the registry do, an image is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support import faults
from tests.support.faults import FaultyProxy
from tests.support.loopback import Handler, Loopback
from tests.support.registry import RegistryServer
from tests.support.tls import Certificate, make_ca, make_server
from toolchain import image, push
from toolchain.adapters import referrers
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.registry import HttpRegistry
from toolchain.adapters.upload import Chunks
from toolchain.attest import CYCLONEDX, IN_TOTO, Document, attach
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import CREATED, Image
from toolchain.layer import GZIP, Layer
from toolchain.progress import Progress
from toolchain.store import Store

_SEED = int(os.environ.get("FAULT_SEED", "20240229"))
_FAULTS = 200
_QUICK = Backoff(tries=4, first=0.005)
_MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def proxy(server: RegistryServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.host, _SEED) as started:
        yield started


def _open(host: str, repository: str) -> HttpRegistry:
    return HttpRegistry(host, host, repository, insecure=False, backoff=_QUICK)


def _image(store: Store, chance: random.Random, lent: Layer) -> Image:
    """An image of a lent layer and three of random bytes, from a few to some hundred thousand."""
    layers = [lent]
    for number in range(3):
        data = chance.randbytes(chance.choice([1, 700, 70_000, 400_000]) + number)
        digest = store.put(data)
        layers.append(Layer(digest=digest, diff_id=digest, size=len(data), media_type=GZIP,
                            label=f"layer {number}"))
    return image.make(tuple(layers), "1000", "linux/amd64")


class Elsewhere:
    """The home of a base image that is no registry; implements push.BlobSource."""

    location = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.readings = 0

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        assert size == len(self._data)
        self.readings += 1
        yield from (self._data[at:at + 10_000] for at in range(0, size, 10_000))


def _lent(direct: HttpRegistry, faulty: HttpRegistry, store: Store, chance: random.Random
          ) -> tuple[Layer, push.BlobSource]:
    """A layer that is in another repository of the registry, or not in a registry at all."""
    data = chance.randbytes(90_000)
    digest = Digest.of(data)
    layer = Layer(digest=digest, diff_id=digest, size=len(data), media_type=GZIP, label="lent")
    kind = chance.choice(["mounted", "mounted, and in the store", "streamed"])
    if kind == "streamed":
        return layer, Elsewhere(data)
    assert store.put(data) == digest
    direct.put_blob(digest, len(data), store, Progress())
    if kind == "mounted":
        store.path(digest).unlink()
    return layer, faulty


def _documents(chance: random.Random) -> tuple[Document, ...]:
    return tuple(Document(media_type=kind, data=chance.randbytes(3000))
                 for kind in (CYCLONEDX, IN_TOTO))


def _attached_is_whole(registry: HttpRegistry, image: Image) -> set[str]:
    """Whatever the registry lists beside an image is there, and about it; what kinds they are."""
    listed = registry.referrers(image.digest)
    for item in listed:
        manifest = registry.manifest(item["digest"])
        assert manifest is not None
        assert item["size"] == len(manifest)
        assert json.loads(manifest)["subject"]["digest"] == str(image.digest)
        _is_whole(registry, manifest)
    assert len({item["digest"] for item in listed}) == len(listed)
    return {item["artifactType"] for item in listed}


def _is_whole(registry: HttpRegistry, manifest: bytes) -> None:
    """Every blob that a manifest in the registry names is in the registry, with its bytes."""
    named = json.loads(manifest)
    for item in [named["config"], *named["layers"]]:
        assert registry.config(Digest.parse(item["digest"])) is not None  # compared with it


def test_two_hundred_faults(server: RegistryServer, proxy: FaultyProxy, store: Store) -> None:
    print(f"FAULT_SEED={_SEED}")
    chance = random.Random(_SEED)
    outcomes: Counter[str] = Counter()
    attempt = 0
    while (len(proxy.faults) < _FAULTS or {kind for kind, _ in proxy.faults} != set(faults.KINDS)
           or min(outcomes["right"], outcomes["refused"]) < 3):  # neither is tried too little
        attempt += 1
        repository = f"faults/{attempt}"
        direct, faulty = _open(server.host, repository), _open(proxy.host, repository)
        layer, source = _lent(_open(server.host, f"lent/{attempt}"),
                              _open(proxy.host, f"lent/{attempt}"), store, chance)
        made = _image(store, chance, layer)
        documents = _documents(chance)

        def send(progress: Progress, made: Image = made, layer: Layer = layer,
                 source: push.BlobSource = source, faulty: HttpRegistry = faulty,
                 documents: tuple[Document, ...] = documents) -> None:
            push.make(made, "tag", faulty, store, progress, {layer.digest}, source,
                      lambda: attach(documents, made.manifest, CREATED, faulty, store, progress))

        progress = Progress()
        proxy.rate = chance.choice([0.05, 0.2, 0.4, 0.7])
        try:
            send(progress)
            outcome = "right"
            assert direct.manifest("tag") == made.manifest
            assert progress.done >= progress.expected
        except RegistryError as error:
            outcome = "refused"
            assert all((error.where, error.fix)), error  # noqa: PT017
        for reference in ("tag", str(made.digest)):
            manifest = direct.manifest(reference)
            if manifest is not None:
                _is_whole(direct, manifest)
        kinds = _attached_is_whole(direct, made)
        if direct.manifest("tag") is not None:  # it comes last
            assert kinds == {CYCLONEDX, IN_TOTO}
        proxy.rate = 0
        send(Progress())
        assert direct.manifest("tag") == made.manifest
        _is_whole(direct, made.manifest)
        assert _attached_is_whole(direct, made) == {CYCLONEDX, IN_TOTO}
        # The registry keeps no list of its own, so the one under a tag went through the faults.
        assert direct.manifest(referrers.fallback_tag(made.digest)) is not None
        outcomes[outcome] += 1
    print(outcomes, Counter(kind for kind, _ in proxy.faults))


class Resumable:
    """A registry that keeps what arrived of an upload that broke; answers for a Double."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.upload = b""
        self.received = 0
        self.chunks: list[str] = []

    def __call__(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        place = {"Location": "/upload", "Range": f"0-{max(len(self.upload) - 1, 0)}"}
        if request.method == "HEAD":
            return Answer(status=200 if path.rpartition("/")[2] in self.blobs else 404)
        if request.method == "POST":
            self.upload = b""
            return Answer(status=202, headers=place)
        if request.method == "GET":
            return Answer(status=204, headers=place)
        self.received += len(request.body)
        if request.method == "PATCH":
            self.chunks.append(request.headers["content-range"])
            if not self.chunks[-1].startswith(f"{len(self.upload)}-"):
                return Answer(status=416)
        self.upload += request.body
        if len(request.body) < int(request.headers["content-length"]):
            return Answer(hang_up=True)
        if request.method == "PATCH":
            return Answer(status=202, headers=place)
        digest = query.partition("digest=")[2]
        if str(Digest.of(self.upload)) != digest:
            return Answer(status=400, body=b'{"errors": [{"code": "DIGEST_INVALID"}]}')
        self.blobs[digest] = self.upload
        return Answer(status=201)


def test_an_upload_that_broke_goes_on_where_it_broke(
    serve: Callable[..., Double], store: Store
) -> None:
    """docker-registry forgets such an upload, and it is begun anew; others do as the
    specification says."""
    data = random.Random(_SEED).randbytes(8 << 20)
    digest = store.put(data)
    registry = Resumable()
    double = serve(registry)
    with FaultyProxy(double.host, _SEED) as proxy:
        proxy.script = [faults.CUT_REQUEST, faults.CUT_REQUEST, faults.CUT_REQUEST]
        progress = Progress()
        _open(proxy.host, "a/b").put_blob(digest, len(data), store, progress)
    assert registry.blobs == {str(digest): data}
    assert progress.done == len(data)
    assert len(registry.chunks) >= 2
    assert registry.received == len(data)  # no byte came twice


class Limited(Resumable):
    """One that takes bodies up to `limit` alone, and only at the place that it named last."""

    def __init__(self, limit: int, begun: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.begun = begun or {}  # headers of a POST's answer
        self.sizes: list[int] = []  # of the bodies that were taken
        self.refused: list[int] = []
        self._turn = 0

    def __call__(self, request: Request) -> Answer:
        size = int(request.headers.get("content-length") or 0)
        if size > self.limit:
            self.refused.append(size)
            return Answer(status=413)
        if request.method in ("PATCH", "PUT"):
            if not request.path.startswith(f"/upload?turn={self._turn}"):
                return Answer(status=404)
            if size:
                self.sizes.append(size)
        answer = super().__call__(replace(
            request, path=request.path.replace(f"turn={self._turn}&", "")))
        if "Location" not in answer.headers:
            return answer
        self._turn += 1
        return replace(answer, headers={
            **answer.headers, "Location": f"/upload?turn={self._turn}",
            **(self.begun if request.method == "POST" else {})})


class Curt(Loopback):
    """Speaks TLS. Of what is larger than `limit` it reads nothing: it says 413, or not even that,
    and closes."""

    def __init__(self, limited: Limited, tls: Certificate, *, says: bool) -> None:
        refused = limited.refused

        class Answering(Handler):
            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                if size <= limited.limit:
                    given = limited(Request(
                        method=self.command, path=self.path, body=self.rfile.read(size), port=0,
                        headers={k.lower(): v for k, v in self.headers.items()}))
                    self.send_response(given.status)
                    for name, value in {**given.headers, "Content-Length": "0"}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    return
                refused.append(size)
                self.close_connection = True
                if says:
                    self.send_response(413)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    time.sleep(0.3)
                else:  # a reset: nothing that was said can be read
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                               struct.pack("ii", 1, 0))
                    self.connection.close()

        super().__init__(Answering)
        self.speak_tls(tls.certificate, tls.key)


@pytest.mark.parametrize("says", [True, False])
def test_who_refuses_a_size_and_hangs_up_is_understood_over_tls_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bool
) -> None:
    ca = make_ca(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
    data, digest = _random(store, 40 * _MIB)
    limited, progress = Limited(3 * _MIB), Progress()
    with Curt(limited, make_server(tmp_path, ca), says=says) as server:
        registry = HttpRegistry(server.url, server.url, "a/b", insecure=False,
                                backoff=Backoff(tries=8, first=0.005))
        registry.put_blob(digest, len(data), store, progress)
    assert limited.blobs == {str(digest): data}
    assert set(limited.sizes) == {2 * _MIB}
    assert limited.refused[-1] == 4 * _MIB
    assert limited.refused.count(40 * _MIB) == (1 if says else 2)
    assert progress.done == len(data)


def _random(store: Store, size: int, seed: int = _SEED) -> tuple[bytes, Digest]:
    data = random.Random(seed).randbytes(size)
    return data, store.put(data)


def test_a_blob_that_is_refused_for_its_size_goes_in_chunks(
    serve: Callable[..., Double], store: Store
) -> None:
    data, digest = _random(store, 9 * _MIB + 5)
    second, other = _random(store, 5 * _MIB, seed=1)
    small, third = _random(store, 2 * _MIB, seed=2)
    limited = Limited(3 * _MIB)
    progress = Progress()
    double = serve(limited)
    registry = _open(double.host, "a/b")
    registry.put_blob(digest, len(data), store, progress)
    assert [request.method for request in double.requests] == [
        "POST", "PUT", "POST", "PATCH", "POST", "PATCH", "POST", *["PATCH"] * 5, "PUT"]
    assert limited.refused == [9 * _MIB + 5, 8 * _MIB, 4 * _MIB]
    assert limited.sizes == [2 * _MIB] * 4 + [_MIB + 5]
    assert limited.chunks[0] == f"0-{2 * _MIB - 1}"
    assert limited.chunks[-1] == f"{8 * _MIB}-{9 * _MIB + 4}"
    limited.refused, limited.sizes, limited.chunks = [], [], []
    registry.put_blob(other, len(second), store, progress)
    assert limited.sizes == [2 * _MIB, 2 * _MIB, _MIB]
    registry.put_blob(third, len(small), store, progress)
    assert len(limited.chunks) == 3  # what is not larger than a chunk is not made into one
    assert limited.refused == []  # it is known by now
    assert limited.blobs == {str(digest): data, str(other): second, str(third): small}
    assert progress.done == len(data) + len(second) + len(small)


def test_a_chunk_that_broke_goes_on_where_it_broke(
    serve: Callable[..., Double], store: Store
) -> None:
    data, digest = _random(store, 8 * _MIB)
    limited = Limited(3 * _MIB)
    with FaultyProxy(serve(limited).host, _SEED) as proxy:
        # The whole blob and 4 MiB are refused; then the first chunk arrives.
        proxy.script = ["", "", "", faults.CUT_REQUEST, "", faults.CUT_REQUEST, faults.REFUSE]
        progress = Progress()
        _open(proxy.host, "a/b").put_blob(digest, len(data), store, progress)
        assert proxy.script == []
    assert limited.blobs == {str(digest): data}
    assert limited.refused == [8 * _MIB, 4 * _MIB]
    assert limited.received == len(data)  # no byte was taken twice
    assert progress.done == len(data)


def test_chunks_from_elsewhere_are_read_once(serve: Callable[..., Double]) -> None:
    data = random.Random(_SEED).randbytes(9 * _MIB)
    source, limited = Elsewhere(data), Limited(_MIB)
    _open(serve(limited).host, "a/b").copy_blob(Digest.of(data), len(data), source, Progress())
    assert limited.blobs == {str(Digest.of(data)): data}
    assert len(limited.sizes) == 9
    assert source.readings == len(limited.refused) + 1


@pytest.mark.parametrize(("least", "sizes"), [
    (str(5 * _MIB), [5 * _MIB, 5 * _MIB, 2 * _MIB]), ("5242880 bytes", [4 * _MIB] * 3)])
def test_chunks_are_not_smaller_than_the_registry_allows(
    serve: Callable[..., Double], store: Store, least: str, sizes: list[int]
) -> None:
    data, digest = _random(store, 12 * _MIB)
    limited = Limited(6 * _MIB, {"OCI-Chunk-Min-Length": least})
    _open(serve(limited).host, "a/b").put_blob(digest, len(data), store, Progress())
    assert limited.blobs == {str(digest): data}
    assert limited.sizes == sizes


@pytest.mark.parametrize(("limit", "least", "smallest"), [
    (_MIB - 1, "", _MIB), (3 * _MIB, str(4 * _MIB), 4 * _MIB), (100, str(100 * _MIB), 9 * _MIB)])
def test_a_registry_that_refuses_the_smallest_chunk_too_is_explained(
    serve: Callable[..., Double], store: Store, limit: int, least: str, smallest: int
) -> None:
    data, digest = _random(store, 9 * _MIB)
    limited = Limited(limit, {"OCI-Chunk-Min-Length": least})
    progress = Progress()
    with pytest.raises(RegistryError, match="answered 413") as caught:
        _open(serve(limited).host, "a/b").put_blob(digest, len(data), store, progress)
    assert "raise the limit" in caught.value.fix
    assert limited.refused[-1] == smallest
    assert limited.blobs == {}
    assert progress.done == 0


def test_uploads_learn_from_each_other_how_much_is_too_much() -> None:
    chunks = Chunks()
    assert chunks.most(0) > 1 << 50
    assert not chunks.refused(_MIB, 0)  # nothing smaller is tried
    assert chunks.most(0) > 1 << 50
    assert chunks.refused(100 * _MIB, 40 * _MIB)
    assert chunks.most(0) == 40 * _MIB
    assert chunks.refused(100 * _MIB, 0)  # another had begun with a whole blob as well
    assert chunks.most(0) == 32 * _MIB
    assert chunks.refused(32 * _MIB, 0)
    assert chunks.refused(32 * _MIB, 0)  # two at a time: it is halved once
    assert chunks.most(0) == 16 * _MIB
    assert chunks.most(20 * _MIB) == 20 * _MIB
    assert not chunks.refused(20 * _MIB, 20 * _MIB)
    assert chunks.refused(16 * _MIB, 9 * _MIB)
    assert chunks.most(0) == 9 * _MIB


def test_a_real_registry_behind_a_limit(server: RegistryServer, proxy: FaultyProxy,
                                        store: Store) -> None:
    """All uploads of a push at once, with lines that break and answers that are lost."""
    proxy.limit = _MIB  # nginx's own
    layers = []
    for number, size in enumerate([7 * _MIB + 1, 3 * _MIB, 2 * _MIB + 9, 700]):
        data, digest = _random(store, size, seed=number)
        layers.append(Layer(digest=digest, diff_id=digest, size=len(data), media_type=GZIP,
                            label=f"layer {number}"))
    made = image.make(tuple(layers), "1000", "linux/amd64")
    proxy.script = ["", "", faults.CUT_REQUEST, "", faults.LOSE, "", faults.CUT_ANSWER]
    progress = Progress()
    push.make(made, "tag", _open(proxy.host, "limited/a"), store, progress)
    assert proxy.script == []
    assert proxy.refused
    direct = _open(server.host, "limited/a")
    assert direct.manifest("tag") == made.manifest
    _is_whole(direct, made.manifest)
    assert progress.done >= progress.expected


@pytest.mark.parametrize("limit", [9 * _MIB, _MIB])
@pytest.mark.parametrize(("size", "found"), [
    (3 * _MIB + 1, f"only {3 * _MIB}"), (3 * _MIB - 1, "more"), (2 * _MIB, "more")])
def test_a_blob_of_another_size_is_not_waited_for(
    serve: Callable[..., Double], store: Store, limit: int, size: int, found: str
) -> None:
    _, digest = _random(store, 3 * _MIB)
    limited = Limited(limit)
    with pytest.raises(RegistryError, match=f"a blob of {size} bytes has {found}") as caught:
        _open(serve(limited).host, "a/b").put_blob(digest, size, store, Progress())
    assert caught.value.where == str(digest)
    assert limited.blobs == {}


@pytest.mark.parametrize("lost", [500, 504])
def test_a_blob_that_arrived_is_found_where_storage_is_redirected_to(
    serve: Callable[..., Double], store: Store, lost: int
) -> None:
    """As before S3: the answer to the PUT is lost, HEAD sends to where the blob is."""
    data, digest = _random(store, 1000)
    registry = Resumable()

    def answer(request: Request) -> Answer:
        if request.method == "GET":
            return Answer(status=404)  # the upload has ended
        given = registry(request)
        if request.method == "HEAD" and given.status == 200:
            return Answer(status=307, headers={"Location": "https://storage.invalid/signed"})
        return Answer(status=lost) if request.method == "PUT" else given

    double = serve(answer)
    progress = Progress()
    _open(double.host, "a/b").put_blob(digest, len(data), store, progress)
    assert registry.blobs == {str(digest): data}
    assert registry.received == len(data)
    assert progress.done == len(data)
    assert [request.method for request in double.requests] == ["POST", "PUT", "GET", "HEAD"]


def test_pulls_meet_faults_too(server: RegistryServer, proxy: FaultyProxy, store: Store,
                               tmp_path: Path) -> None:
    """What arrives is right, or the pull fails; a break in the middle is taken up there."""
    chance = random.Random(_SEED)
    data = chance.randbytes(3 << 20)
    digest = store.put(data)
    _open(server.host, "pulls/a").put_blob(digest, len(data), store, Progress())
    outcomes: Counter[str] = Counter()
    faulty = _open(proxy.host, "pulls/a")
    proxy.rate = 0.5
    while len(proxy.faults) < 60:
        got = bytearray()
        try:
            for piece in faulty.stream(digest, len(data)):
                got += piece
            assert got == data
            outcomes["right"] += 1
        except RegistryError as error:
            assert all((error.where, error.fix, len(got) < len(data))), error  # noqa: PT017
            outcomes["refused"] += 1
    print(outcomes)
    assert min(outcomes["right"], outcomes["refused"]) > 3


def test_a_registry_that_takes_connections_and_says_nothing_is_named_and_given_up() -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        registry = HttpRegistry(host, host, "a/b", insecure=False, backoff=Backoff(tries=1),
                                say=told.append)
        started = time.monotonic()
        with pytest.raises(RegistryError, match="cannot be reached: timed out") as caught:
            registry.manifest("latest")
    assert time.monotonic() - started < 20
    assert told == [f"waiting for an answer of {host}, try 1 of 1"]
    assert caught.value.fix.startswith("check that it runs")

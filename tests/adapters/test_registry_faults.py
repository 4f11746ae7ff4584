"""Whatever the network and the registry do, an image is there whole or not at all."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support import faults
from tests.support.faults import FaultyProxy
from tests.support.registry import RegistryServer
from toolchain import image, push
from toolchain.adapters import referrers
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.registry import HttpRegistry
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

    def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
        assert size == len(self._data)
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

"""What a registry sends is right, or is not handed out: lies of digest, size, type and place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.registry import RegistryServer
from toolchain import push
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest
from toolchain.errors import RegistryError
from toolchain.image import INDEX, MANIFEST, Image
from toolchain.progress import Progress
from toolchain.store import Store

Serve = Callable[..., Double]
_DATA = bytes(range(256)) * (5 << 12)  # 5 MiB
_DIGEST = Digest.of(_DATA)
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def _open(host: str, repository: str = "a/b") -> HttpRegistry:
    return HttpRegistry(host, host, repository, insecure=False,
                        backoff=Backoff(tries=3, first=0.01))


def _refused(host: str, match: str, size: int = len(_DATA)) -> bytes:
    """What of a blob was handed out before it was refused."""
    got = bytearray()

    def pull() -> None:
        for piece in _open(host).stream(_DIGEST, size):
            got.extend(piece)

    with pytest.raises(RegistryError, match=match) as caught:
        pull()
    assert caught.value.where
    assert caught.value.fix
    return bytes(got)


def test_a_blob_is_had_in_pieces(serve: Serve) -> None:
    double = serve(lambda _: Answer(body=_DATA))
    pieces = list(_open(double.host).stream(_DIGEST, len(_DATA)))
    assert b"".join(pieces) == _DATA
    assert len(pieces) > 3


def test_other_bytes_are_refused_before_the_last_piece(serve: Serve) -> None:
    wrong = _DATA[:-1] + b"x"
    double = serve(lambda _: Answer(body=wrong))
    got = _refused(double.host, "other bytes than asked for")
    assert len(got) < len(_DATA)
    assert len(double.requests) == 1  # nothing is gained by asking again


@pytest.mark.parametrize("answer", [
    Answer(body=_DATA + b"x"), Answer(body=_DATA[:-1]), Answer(body=b""),
    Answer(status=206, body=_DATA[1:], headers={"Content-Range": f"bytes 1-{len(_DATA) - 1}/*"}),
    Answer(body=_DATA, length=1 << 60, cut=True),
], ids=["more", "less", "nothing", "another part", "huge"])
def test_a_lie_about_the_size_is_refused(serve: Serve, answer: Answer) -> None:
    double = serve(lambda _: answer)
    assert _refused(double.host, "than asked for") == b""


def test_an_endless_body_is_not_read(serve: Serve) -> None:
    """Chunked, so that no length is announced."""
    chunk = b"100000\r\n" + _DATA[:1 << 20] + b"\r\n"
    double = serve(lambda _: Answer(headers={"Transfer-Encoding": "chunked"}, body=chunk * 40,
                                    cut=True))
    got = _refused(double.host, "not more|other bytes")
    assert len(got) < len(_DATA)


def test_a_document_without_end_is_not_read(serve: Serve) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    double = serve(lambda _: Answer(headers={"Transfer-Encoding": "chunked"}, body=chunk * 40,
                                    cut=True))
    with pytest.raises(RegistryError, match="too large"):
        _open(double.host).document("tag")


def test_a_broken_pull_goes_on_where_it_broke(serve: Serve) -> None:
    half = len(_DATA) // 2

    def answer(request: Request) -> Answer:
        begin = request.headers.get("range", "")
        if not begin:
            return Answer(body=_DATA[:half], length=len(_DATA), cut=True)
        place = int(begin.removeprefix("bytes=").partition("-")[0])
        return Answer(status=206, body=_DATA[place:], headers={
            "Content-Range": f"bytes {place}-{len(_DATA) - 1}/{len(_DATA)}"})

    double = serve(answer)
    assert b"".join(_open(double.host).stream(_DIGEST, len(_DATA))) == _DATA
    assert [request.headers.get("range") for request in double.requests] == [
        None, f"bytes={half}-{len(_DATA) - 1}"]


def test_a_server_without_ranges_sends_it_all_again(serve: Serve) -> None:
    answers = iter([Answer(body=_DATA[:1 << 20], length=len(_DATA), cut=True)])
    double = serve(lambda _: next(answers, Answer(body=_DATA)))
    assert b"".join(_open(double.host).stream(_DIGEST, len(_DATA))) == _DATA


@pytest.mark.parametrize("trouble", [Answer(status=503), Answer(hang_up=True),
                                     Answer(body=b"", length=len(_DATA), cut=True)])
def test_a_trouble_that_stays_is_an_error(serve: Serve, trouble: Answer) -> None:
    double = serve(lambda _: trouble)
    assert _refused(double.host, "answered 503|cannot be reached") == b""
    assert len(double.requests) == 3


def test_a_blob_is_pulled_from_the_storage_behind_a_registry(serve: Serve) -> None:
    storage = serve(lambda _: Answer(body=_DATA))
    double = serve(lambda _: Answer(status=307, headers={"Location": f"{storage.url}/x?s=1"}))
    assert b"".join(_open(double.host).stream(_DIGEST, len(_DATA))) == _DATA


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://x/y", "http://a b/",
                                   "//[/", "gopher://127.0.0.1/"])
def test_a_redirect_to_no_address_is_refused(serve: Serve, place: str) -> None:
    double = serve(lambda _: Answer(status=302, headers={"Location": place}))
    assert _refused(double.host, "not HTTP|cannot be reached") == b""


def test_a_redirect_in_a_circle_ends(serve: Serve) -> None:
    double = serve(lambda _: Answer(status=302, headers={"Location": "/round"}))
    _refused(double.host, "without end")
    assert len(double.requests) < 10


# Manifests and indexes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as started:
        yield started


def test_a_document_is_had_with_its_type(server: RegistryServer, made: Image, store: Store,
                                         tmp_path: Path) -> None:
    registry = _open(server.host)
    push.make(made, "tag", registry, store, Progress())
    assert registry.document("tag") == (MANIFEST, made.manifest)
    assert registry.document(str(made.digest)) == (MANIFEST, made.manifest)
    assert registry.document("other") is None
    docker = {**json.loads(made.manifest), "mediaType": _DOCKER}
    docker["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in docker["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    data = json.dumps(docker).encode()
    registry.put_manifest(data, "docker")
    assert registry.document("docker") == (_DOCKER, data)


def test_a_document_other_than_asked_for_is_refused(serve: Serve, made: Image) -> None:
    double = serve(lambda _: Answer(body=b'{"mediaType": "x"}'))
    with pytest.raises(RegistryError, match="another manifest") as caught:
        _open(double.host).document(str(made.digest))
    assert caught.value.fix


@pytest.mark.parametrize(("said", "document", "match"), [
    (MANIFEST, {"mediaType": INDEX, "manifests": []}, "two ways"),
    (INDEX, {"mediaType": INDEX, "manifests": [], "layers": []}, "two ways"),
    (MANIFEST, {"config": {}, "layers": [], "manifests": []}, "two ways"),
    ("application/vnd.docker.distribution.manifest.v1+prettyjws", {"fsLayers": []}, "kind"),
    ("text/html", {}, "kind"),
    (MANIFEST, [], "no manifest"),
    (MANIFEST, {"mediaType": 3}, "kind"),
    (MANIFEST, {"mediaType": ["x"]}, "kind"),
])
def test_a_document_of_no_kind_or_of_two_is_refused(
    serve: Serve, said: str, document: object, match: str
) -> None:
    double = serve(lambda _: Answer(headers={"Content-Type": said},
                                    body=json.dumps(document).encode()))
    with pytest.raises(RegistryError, match=match) as caught:
        _open(double.host).document("tag")
    assert caught.value.where
    assert caught.value.fix


def test_a_document_that_is_not_json_is_refused(serve: Serve) -> None:
    double = serve(lambda _: Answer(body=b"<html>"))
    with pytest.raises(RegistryError, match="no manifest"):
        _open(double.host).document("tag")


def test_a_document_without_a_type_is_what_the_registry_says(serve: Serve) -> None:
    double = serve(lambda _: Answer(headers={"Content-Type": f"{MANIFEST}; charset=utf-8"},
                                    body=b'{"config": {}, "layers": []}'))
    assert _open(double.host).document("tag") == (MANIFEST, b'{"config": {}, "layers": []}')
    accepted = double.requests[0].headers["accept"]
    assert MANIFEST in accepted
    assert INDEX in accepted
    assert _DOCKER in accepted


# From one repository to another


def test_a_blob_of_the_same_registry_is_mounted(
    server: RegistryServer, made: Image, store: Store
) -> None:
    """No byte of it moves: the source is never read."""
    layer = made.layers[2]
    source = _open(server.host, "mount/from")
    source.put_blob(layer.digest, layer.size, store, Progress())

    class Unread:
        location = source.location

        def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
            raise AssertionError("read")

    target = _open(server.host, "mount/to")
    progress = Progress()
    target.copy_blob(layer.digest, layer.size, Unread(), progress)
    assert target.has_blob(layer.digest)
    assert progress.done == layer.size


@pytest.mark.parametrize("refusal", [202, 403, 404, 405])
def test_a_registry_that_mounts_nothing_is_sent_the_bytes(serve: Serve, refusal: int) -> None:
    def answer(request: Request) -> Answer:
        if request.method == "GET":
            return Answer(body=_DATA)
        if request.method == "POST":
            return Answer(status=refusal if "mount=" in request.path else 202,
                          headers={"Location": "/upload?mounted=1" if "mount=" in request.path
                                   else "/upload"})
        return Answer(status=201)

    double = serve(answer)
    _open(double.host, "to").copy_blob(_DIGEST, len(_DATA), _open(double.host, "from"), Progress())
    posts = [request.path for request in double.requests if request.method == "POST"]
    assert posts[0] == f"/v2/to/blobs/uploads/?mount={_DIGEST}&from=from"
    assert len(posts) == (1 if refusal == 202 else 2)
    assert double.requests[-1].body == _DATA


def test_a_blob_streams_from_one_registry_to_another_and_wrong_bytes_do_not_arrive(
    serve: Serve, server: RegistryServer
) -> None:
    source = serve(lambda _: Answer(body=_DATA))
    target = _open(server.host, "copied")
    target.copy_blob(_DIGEST, len(_DATA), _open(source.host), Progress())
    assert b"".join(target.stream(_DIGEST, len(_DATA))) == _DATA
    wrong = serve(lambda _: Answer(body=_DATA[:-1] + b"x"))
    other = _open(server.host, "not-copied")
    with pytest.raises(RegistryError, match="other bytes"):
        other.copy_blob(_DIGEST, len(_DATA), _open(wrong.host), Progress())
    assert not other.has_blob(_DIGEST)


# Referrers where the registry keeps the list


def test_the_registrys_own_list_of_referrers_is_read_to_its_end(serve: Serve, made: Image) -> None:
    def entry(text: str, kind: str) -> dict[str, object]:
        return {"mediaType": MANIFEST, "digest": str(Digest.of(text.encode())), "size": 1,
                "artifactType": kind}

    pages = {"": ([entry("a", "x/a")], "?page=2"), "page=2": ([entry("b", "x/b")], "")}

    def answer(request: Request) -> Answer:
        query = request.path.partition("?")[2].removeprefix("artifactType=x%2Fb")
        manifests, more = pages[query]
        path = request.path.partition("?")[0]
        headers = {"Content-Type": INDEX}
        if more:
            headers["Link"] = f'<{path}{more}>; rel="next"'
        return Answer(headers=headers, body=json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode())

    double = serve(answer)
    registry = _open(double.host)
    assert registry.referrers(made.digest) == (entry("a", "x/a"), entry("b", "x/b"))
    assert registry.referrers(made.digest, "x/b") == (entry("b", "x/b"),)
    assert double.requests[0].path == f"/v2/a/b/referrers/{made.digest}"


def test_a_list_of_referrers_without_an_end_is_refused(serve: Serve, made: Image) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    double = serve(lambda request: Answer(
        headers={"Content-Type": INDEX, "Link": f'<{request.path}>; rel="next"'}, body=body))
    with pytest.raises(RegistryError, match="more than 100 pages"):
        _open(double.host).referrers(made.digest)


def test_a_registry_that_keeps_the_list_is_not_given_one(serve: Serve, made: Image) -> None:
    double = serve(lambda _: Answer(status=201, headers={"OCI-Subject": str(made.digest)}))
    manifest = json.dumps({"mediaType": MANIFEST, "artifactType": "x/a",
                           "subject": {"digest": str(made.digest)}}).encode()
    _open(double.host).attach([manifest], made.digest)
    (request,) = double.requests
    assert request.path == f"/v2/a/b/manifests/{Digest.of(manifest)}"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"manifests": [3]}',
                                  b'{"manifests": [{"digest": "x"}]}'])
def test_a_list_of_referrers_that_is_none_is_refused(
    serve: Serve, made: Image, body: bytes
) -> None:
    def answer(request: Request) -> Answer:
        if request.method == "PUT":
            return Answer(status=201)
        return Answer(status=404) if "/referrers/" in request.path else Answer(body=body)

    double = serve(answer)
    manifest = json.dumps({"mediaType": MANIFEST,
                           "subject": {"digest": str(made.digest)}}).encode()
    for ask in (lambda: _open(double.host).referrers(made.digest),
                lambda: _open(double.host).attach([manifest], made.digest)):
        with pytest.raises(RegistryError, match="is none") as caught:
            ask()
        assert f"sha256-{made.digest.hex}" in caught.value.where


# Pauses


def test_a_server_that_says_when_to_come_back_is_heard(serve: Serve) -> None:
    import time

    answers = iter([Answer(status=429, headers={"Retry-After": "1"})])
    double = serve(lambda _: next(answers, Answer(body=b"{}")))
    begin = time.monotonic()
    _open(double.host).manifest("tag")
    assert 1 <= time.monotonic() - begin < 3


@pytest.mark.parametrize("when", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_server_that_asks_for_too_much_patience_is_an_error_at_once(
    serve: Serve, when: str
) -> None:
    double = serve(lambda _: Answer(status=429, headers={"Retry-After": when}))
    with pytest.raises(RegistryError, match="answered 429") as caught:
        _open(double.host).manifest("tag")
    assert "limits how often" in caught.value.fix
    assert len(double.requests) == 1


@pytest.mark.parametrize("when", ["", "soon", "-1", "1e9", "Fri, 99 Dec", "٣"])
def test_a_time_that_is_none_is_passed_over(serve: Serve, when: str) -> None:
    answers = iter([Answer(status=503, headers={"Retry-After": when.encode().decode("latin-1")})])
    double = serve(lambda _: next(answers, Answer(body=b"{}")))
    assert _open(double.host).manifest("tag") == b"{}"

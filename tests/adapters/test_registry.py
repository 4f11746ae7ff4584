"""What a registry over HTTP does wrong is said with what, where and how to fix it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.credentials import login
from tests.support.registry import RegistryServer
from toolchain import image, push
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest
from toolchain.errors import ConfigError, RegistryError
from toolchain.image import Image
from toolchain.layer import GZIP, Layer
from toolchain.progress import Progress
from toolchain.reference import check_repository
from toolchain.store import Store

Serve = Callable[..., Double]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    (tmp_path / "server").mkdir()
    with RegistryServer(tmp_path / "server") as started:
        yield started


def _open(host: str, *, insecure: bool = False, repository: str = "a/b") -> HttpRegistry:
    return HttpRegistry(host, host, repository, insecure=insecure)


def _explained(caught: pytest.ExceptionInfo[RegistryError], host: str) -> None:
    assert host in caught.value.where
    assert caught.value.fix
    assert "Traceback" not in str(caught.value)


def test_a_registry_that_is_down_is_said_to_be(made: Image, store: Store, nobody: str) -> None:
    begin = time.monotonic()
    for ask in (lambda: _open(nobody).manifest("tag"), lambda: _open(nobody).has_blob(made.digest),
                lambda: push.make(made, "tag", _open(nobody), store, Progress())):
        with pytest.raises(RegistryError, match="cannot be reached: Connection refused") as caught:
            ask()
        _explained(caught, nobody)
    assert time.monotonic() - begin < 2  # nothing is gained by asking again


def test_https_to_a_plain_port_is_explained(server: RegistryServer) -> None:
    with pytest.raises(RegistryError, match="the registry speaks plain HTTP") as caught:
        _open(f"https://{server.host}").manifest("tag")
    _explained(caught, f"https://{server.host}")


@pytest.mark.parametrize("host", ["http://registry.example.com", "http://192.0.2.1:5000",
                                  "http://127.0.0.1.example.com", "http://127.example.com:5000",
                                  "http://localhost.example.com"])
def test_plain_http_to_another_machine_is_refused_unless_said(host: str) -> None:
    with pytest.raises(ConfigError, match="plain HTTP to another machine") as caught:
        _open(host)
    assert host in caught.value.where
    assert "insecure" in caught.value.fix
    assert _open(host, insecure=True).root == host


@pytest.mark.parametrize(("host", "root"), [
    ("localhost:5000", "http://localhost:5000"), ("127.0.0.1", "http://127.0.0.1"),
    ("127.9.9.9:1", "http://127.9.9.9:1"), ("[::1]:5000", "http://[::1]:5000"),
    ("https://localhost", "https://localhost"), ("registry.example.com", "https://registry.example"
                                                                         ".com"),
    ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
    ("10.0.0.1:5000/", "https://10.0.0.1:5000"),
])
def test_plain_http_is_for_this_machine_alone(host: str, root: str) -> None:
    assert _open(host).root == root


@pytest.mark.parametrize("host", [
    "", "ftp://host", "host/path", "ho st", "host:port", "user:hunter2@host:5000",
    "https://user:hunter2@host", "https://user:hun@ter2@host", "hunter2@host"])
def test_what_is_no_host_is_refused_without_its_password(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _open(host)
    assert caught.value.where.startswith("registry")
    assert caught.value.fix
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "Upper", "a//b", "/a", "a/", "a:b", "a@b", "a..b", "-a",
                                  "a/../b", "a b", "é", "a\n"])
def test_what_is_no_repository_is_refused(name: str) -> None:
    for check in (check_repository, lambda given: _open("localhost", repository=given)):
        with pytest.raises(ConfigError, match="not a repository name") as caught:
            check(name)
        assert (caught.value.where, bool(caught.value.fix)) == ("repository", True)


@pytest.mark.parametrize("name", ["a", "a/b/c", "a-b.c_d", "a--b", "a__b", "0"])
def test_what_is_a_repository_is_taken(name: str) -> None:
    assert check_repository(name) == name


def test_references_name_the_registry_as_those_who_pull_see_it() -> None:
    registry = HttpRegistry("localhost:5000", "https://registry.example.com/", "a/b",
                            insecure=False)
    assert registry.name == "registry.example.com/a/b"


@pytest.mark.parametrize(("status", "fix"), [
    (401, "credentials"), (403, "repository"), (413, "limit"), (500, "log"), (418, "log")])
def test_what_the_registry_answers_is_passed_on(
    serve: Serve, made: Image, store: Store, status: int, fix: str
) -> None:
    body = json.dumps({"errors": [{"code": "SOME_CODE", "message": "no"}]}).encode()
    double = serve(lambda _: Answer(status=status, body=body))
    with pytest.raises(RegistryError, match=rf"answered {status} \(SOME_CODE\)") as caught:
        _open(double.host).manifest("tag")
    assert caught.value.where == f"GET {double.url}/v2/a/b/manifests/tag"
    assert fix in caught.value.fix
    with pytest.raises(RegistryError, match=f"answered {status}"):
        push.make(made, "tag", _open(double.host), store, Progress())


def test_uploads_that_have_not_begun_are_given_up_when_one_fails(
    serve: Serve, store: Store
) -> None:
    def answer(request: Request) -> Answer:
        if request.method == "POST":
            time.sleep(0.05)
        return Answer(status=404 if request.method == "HEAD" else 403)

    double = serve(answer)
    blobs = [store.put(b"%d" % number) for number in range(60)]
    layers = tuple(Layer(digest=blob, diff_id=blob, size=len(store.read(blob)), media_type=GZIP,
                         label="x") for blob in blobs)
    with pytest.raises(RegistryError, match="answered 403"):
        push.make(image.make(layers, "1000", "linux/amd64"), "tag", _open(double.host), store,
                  Progress())
    assert sum(request.method == "POST" for request in double.requests) < 30


def test_a_name_space_that_is_not_there_is_explained_when_pushing(
    serve: Serve, made: Image, store: Store
) -> None:
    double = serve(lambda _: Answer(status=404))
    with pytest.raises(RegistryError, match="answered 404") as caught:
        push.make(made, "tag", _open(double.host), store, Progress())
    assert "repository" in caught.value.fix


@pytest.mark.parametrize("trouble", [
    Answer(status=500), Answer(status=503), Answer(status=429), Answer(hang_up=True),
    Answer(body=b"half", length=100, cut=True)])
def test_a_passing_trouble_is_overcome(serve: Serve, trouble: Answer) -> None:
    answers = iter([trouble, trouble])
    double = serve(lambda _: next(answers, Answer(body=b"{}")))
    assert _open(double.host).manifest("tag") == b"{}"
    assert len(double.requests) == 3


def test_an_upload_that_is_cut_is_begun_again(
    serve: Serve, server: RegistryServer, made: Image, store: Store
) -> None:
    """The double stands before a real registry and loses two uploads."""
    import http.client

    lost = iter([Answer(hang_up=True), Answer(status=503)])

    def pass_on(request: Request) -> Answer:
        if request.method == "PUT" and "/blobs/" in request.path:
            trouble = next(lost, None)
            if trouble is not None:
                return trouble
        connection = http.client.HTTPConnection(server.host)
        connection.request(request.method, request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        headers = {name: value for name, value in response.getheaders()
                   if name.lower() != "content-length"}
        return Answer(status=response.status, headers=headers, body=response.read())

    double = serve(pass_on)
    layer = made.layers[2]
    progress = Progress()
    _open(double.host).put_blob(layer.digest, layer.size, store, progress)
    assert _open(server.host).has_blob(layer.digest)
    posts = [request for request in double.requests if request.method == "POST"]
    assert len(posts) == 3
    assert progress.done == layer.size


def test_a_manifest_other_than_asked_for_is_refused(serve: Serve, made: Image) -> None:
    double = serve(lambda _: Answer(body=b'{"evil": true}'))
    with pytest.raises(RegistryError, match="another manifest") as caught:
        _open(double.host).manifest(str(made.digest))
    _explained(caught, double.host)


def test_a_blob_other_than_asked_for_is_refused(serve: Serve, made: Image) -> None:
    double = serve(lambda _: Answer(body=b"evil"))
    with pytest.raises(RegistryError, match="other bytes") as caught:
        _open(double.host).config(made.config_digest)
    _explained(caught, double.host)


def test_a_blob_that_rotted_in_a_real_registry_is_refused(
    server: RegistryServer, made: Image, store: Store
) -> None:
    registry = _open(server.host)
    push.make(made, "tag", registry, store, Progress())
    (blob,) = server.folder.glob(f"storage/**/{made.config_digest.hex}/data")
    blob.write_bytes(blob.read_bytes().replace(b"linux", b"minux"))
    with pytest.raises(RegistryError, match="other bytes"):
        push.find(registry, "tag")


def test_a_blob_may_be_behind_a_redirect_and_is_checked_there_too(
    serve: Serve, made: Image
) -> None:
    answers = {"/right": Answer(body=made.config), "/wrong": Answer(body=b"evil"),
               "/gone": Answer(status=404), "/cut": Answer(body=b"x", length=99, cut=True),
               "/garbled": Answer(hang_up=True)}
    storage = serve(lambda request: answers[request.path])
    places: list[str] = []
    double = serve(lambda _: Answer(status=307, headers={"Location": places[-1]}))
    places.append(f"{storage.url}/right")
    assert _open(double.host).has_blob(made.config_digest)
    assert _open(double.host).config(made.config_digest) == made.config
    for path in ("/wrong", "/gone", "/cut", "/garbled"):
        places.append(f"{storage.url}{path}")
        with pytest.raises(RegistryError):
            _open(double.host).config(made.config_digest)
    places.append("file:///etc/passwd")
    with pytest.raises(RegistryError, match="not HTTP"):
        _open(double.host).config(made.config_digest)


def test_an_upload_may_go_to_another_host_which_gets_no_credentials(
    serve: Serve, made: Image, store: Store
) -> None:
    other = serve(lambda _: Answer(status=201))

    def answer(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(status=202, headers={"Location": f"{other.url}/upload?signature=hunter2"})

    double = serve(answer)
    login(double.host, "user", "hunter2")
    _open(double.host).put_blob(made.config_digest, len(made.config), store, Progress())
    (request,) = other.requests
    assert request.path == f"/upload?signature=hunter2&digest={made.config_digest}"
    assert request.body == made.config
    assert "authorization" not in request.headers
    assert "authorization" in double.requests[-1].headers


def test_an_endless_answer_is_not_read(serve: Serve) -> None:
    double = serve(lambda _: Answer(body=bytes(9 << 20)))
    with pytest.raises(RegistryError, match="too large"):
        _open(double.host).manifest("tag")


def test_an_upload_that_is_refused_before_its_end_says_why(
    serve: Serve, store: Store
) -> None:
    """A proxy with a limit answers 413 and hangs up while the body is still being sent."""
    blob = bytes(64 << 20)
    digest = store.put(blob)

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return Answer(status=202, headers={"Location": "/upload"})
        return Answer(status=413)

    double = serve(answer, read_body=False)
    with pytest.raises(RegistryError, match="413") as caught:
        _open(double.host).put_blob(digest, len(blob), store, Progress())
    assert "limit" in caught.value.fix


def test_one_connection_is_kept(serve: Serve) -> None:
    double = serve(lambda _: Answer(body=b"{}"))
    registry = _open(double.host)
    for _ in range(3):
        registry.manifest("tag")
        registry.has_blob(Digest.of(b"x"))
    assert len({request.port for request in double.requests}) == 1


def test_a_kept_connection_that_ended_is_replaced(serve: Serve) -> None:
    double = serve(lambda _: Answer(body=b"{}", cut=True))
    registry = _open(double.host)
    for _ in range(3):
        registry.manifest("tag")
    assert len(double.requests) == 3  # none was asked twice

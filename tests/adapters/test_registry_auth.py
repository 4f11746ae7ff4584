"""Registries that want to know who asks: Basic over TLS, and Bearer tokens that soon expire."""

from __future__ import annotations

import json
import os
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.credentials import login, write_config
from tests.support.registry import RegistryServer
from tests.support.tls import Certificate, make_ca, make_server
from tests.support.tokens import Tokens
from toolchain import push
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.registry import HttpRegistry
from toolchain.digest import Digest
from toolchain.errors import ConfigError, RegistryError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.store import Store

Serve = Callable[..., Double]
SECRET = "hunter2"


def _open(host: str, repository: str = "a/b") -> HttpRegistry:
    return HttpRegistry(host, host, repository, insecure=False, backoff=Backoff(first=0.01))


# Basic, over TLS from a CA that nobody knows yet


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def private(ca: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    folder = tmp_path_factory.mktemp("private")
    made = make_server(folder, ca)
    with RegistryServer(folder, tls=(made.certificate, made.key), password=True) as started:
        yield started


@pytest.fixture
def trusted(ca: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))


def test_a_ca_that_is_not_known_is_not_trusted(private: RegistryServer) -> None:
    begin = time.monotonic()
    with pytest.raises(RegistryError, match="certificate is not trusted") as caught:
        _open(f"https://{private.host}").manifest("tag")
    assert caught.value.where == f"https://{private.host}"
    assert f"certs.d/{private.host}/ca.crt" in caught.value.fix
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("how", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "certs.d", "XDG certs.d"])
def test_a_ca_is_trusted_where_one_says_so(
    private: RegistryServer, ca: Certificate, made: Image, store: Store,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    if how.endswith("certs.d"):
        config = Path(os.environ["HOME"]) / ".config"
        if how.startswith("XDG"):
            config = tmp_path / "config"
            monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
        folder = config / "docker/certs.d" / private.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(ca.certificate.read_bytes())
    else:
        monkeypatch.setenv(how, str(ca.certificate))
    login(private.host, "user", SECRET)
    registry = _open(f"https://{private.host}", "team/basic")
    pushed, _, _ = push.make(made, "tag", registry, store, Progress())
    assert pushed.reference == f"{private.host}/team/basic@{made.digest}"
    assert SECRET not in json.dumps(pushed.to_json())
    assert push.find(registry, "tag") == made


@pytest.mark.parametrize("what", ["missing", "not PEM"])
def test_a_ca_that_cannot_be_read_is_explained(
    private: RegistryServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "ca.pem"
    if what == "not PEM":
        path.write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with pytest.raises(ConfigError, match=r"ca\.pem") as caught:
        _open(f"https://{private.host}").manifest("tag")
    assert caught.value.where == "REQUESTS_CA_BUNDLE"
    assert caught.value.fix


@pytest.mark.usefixtures("trusted")
def test_without_credentials_one_is_told_how_to_give_them(private: RegistryServer) -> None:
    with pytest.raises(RegistryError, match=r"answered 401 \(UNAUTHORIZED\)") as caught:
        _open(f"https://{private.host}").manifest("tag")
    assert caught.value.where == f"GET https://{private.host}/v2/a/b/manifests/tag"
    assert f"docker login {private.host}" in caught.value.fix
    assert "DOCKER_CONFIG" in caught.value.fix


@pytest.mark.usefixtures("trusted")
def test_wrong_credentials_are_said_to_be_wrong_and_are_not_shown(
    private: RegistryServer, made: Image, store: Store
) -> None:
    login(private.host, "user", "hunter3")
    with pytest.raises(RegistryError, match="answered 401") as caught:
        push.make(made, "tag", _open(f"https://{private.host}"), store, Progress())
    assert "are not good for this" in caught.value.fix
    assert "hunter3" not in f"{caught.value!r} {caught.value}"


@pytest.mark.usefixtures("trusted")
def test_a_credential_helper_is_asked(
    private: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-box"
    helper.write_text(f"""#!/bin/sh
[ "$1" = get ] && [ "$(cat)" = {private.host} ] || exit 1
echo '{{"ServerURL": "x", "Username": "user", "Secret": "{SECRET}"}}'
""")
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    write_config({"credHelpers": {private.host: "box"}})
    assert _open(f"https://{private.host}").manifest("tag") is None


def test_a_certificate_for_oneself_is_shown(ca: Certificate, tmp_path: Path) -> None:
    made = make_server(tmp_path, ca)
    with RegistryServer(tmp_path, tls=(made.certificate, made.key), clients=ca.certificate) as own:
        folder = Path(os.environ["HOME"]) / ".config/docker/certs.d" / own.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(ca.certificate.read_bytes())
        with pytest.raises(RegistryError, match="cannot be reached"):
            _open(f"https://{own.host}").manifest("tag")
        (folder / "client.cert").write_bytes(made.certificate.read_bytes())
        with pytest.raises(ConfigError, match="certificate cannot be used") as caught:
            _open(f"https://{own.host}").manifest("tag")
        assert "client.key" in caught.value.fix
        (folder / "client.key").write_bytes(made.key.read_bytes())
        assert _open(f"https://{own.host}").manifest("tag") is None


# Bearer


@pytest.fixture
def guarded(tmp_path: Path, serve: Serve) -> Iterator[Callable[..., tuple[str, Tokens]]]:
    """Starts a real registry before which there is a token server; its address."""
    import contextlib

    with contextlib.ExitStack() as stack:
        def start(**settings: object) -> tuple[str, Tokens]:
            tokens = Tokens(tmp_path, **settings)  # type: ignore[arg-type]
            double = serve(tokens)
            server = RegistryServer(tmp_path, auth=tokens.auth(f"{double.url}/token"))
            return stack.enter_context(server).host, tokens

        yield start


def test_a_token_is_fetched_for_each_scope_and_kept(
    guarded: Callable[..., tuple[str, Tokens]], made: Image, store: Store
) -> None:
    host, tokens = guarded(life=300, said=300, user=("user", SECRET))
    login(host, "user", SECRET)
    registry = _open(host)
    push.make(made, "tag", registry, store, Progress())
    assert push.find(registry, "tag") == made
    assert tokens.given == ["repository:a/b:pull",
                            "repository:a/b:pull,push"]


@pytest.mark.parametrize("said", [1, 300, None], ids=["said", "said wrongly", "not said"])
def test_a_token_that_expires_in_a_long_push_is_fetched_again(
    guarded: Callable[..., tuple[str, Tokens]], make_image: Callable[..., Image], store: Store,
    said: int | None
) -> None:
    """Each blob takes longer than a quarter of a token's life."""
    host, tokens = guarded(life=1, said=said)
    image = make_image(*(f"layer {number}" for number in range(8)))
    registry = _open(host)

    class Slow:
        location = None

        def stream(self, digest: Digest, size: int) -> Iterator[bytes]:
            time.sleep(0.4)
            yield store.read(digest)

    for layer in image.layers:
        registry.copy_blob(layer.digest, layer.size, Slow(), Progress())
    push.make(image, "tag", registry, store, Progress())
    assert push.find(registry, "tag") == image
    assert 3 <= tokens.given.count("repository:a/b:pull,push") <= 20


def test_a_token_that_expires_between_the_beginning_and_the_end_of_an_upload(
    guarded: Callable[..., tuple[str, Tokens]], serve: Serve, store: Store
) -> None:
    """The registry refuses the PUT with 401: another token is fetched, and the blob arrives."""
    host, tokens = guarded(life=1, said=300)
    refused: list[str] = []

    def slowly(request: Request) -> Answer:
        if request.method == "PUT":
            if not refused:
                time.sleep(2.2)
            refused.append(request.path)
        return pass_on(host, request)

    front = serve(slowly)
    digest = store.put(bytes(3 << 20))
    progress = Progress()
    _open(front.host).put_blob(digest, 3 << 20, store, progress)
    assert _open(host).has_blob(digest)
    assert progress.done == 3 << 20
    assert len(refused) == 2
    assert len(tokens.given) >= 2


def pass_on(host: str, request: Request) -> Answer:
    import http.client

    connection = http.client.HTTPConnection(host)
    connection.request(request.method, request.path, request.body, dict(request.headers))
    response = connection.getresponse()
    headers = {name: value for name, value in response.getheaders()
               if name.lower() != "content-length"}
    return Answer(status=response.status, headers=headers, body=response.read())


def test_an_identity_token_is_exchanged(
    guarded: Callable[..., tuple[str, Tokens]], made: Image, store: Store
) -> None:
    host, tokens = guarded(life=300, identity=SECRET, user=("nobody", "nothing"))
    write_config({"auths": {host: {"identitytoken": SECRET}}})
    push.make(made, "tag", _open(host), store, Progress())
    assert tokens.given


def test_a_token_server_that_refuses_is_explained_without_the_password(
    guarded: Callable[..., tuple[str, Tokens]]
) -> None:
    host, _ = guarded(life=300, user=("user", "other"))
    with pytest.raises(RegistryError, match="wants credentials, and there are none") as caught:
        _open(host).manifest("tag")
    login(host, "user", SECRET)
    with pytest.raises(RegistryError, match="refused the credentials: it answered 401") as caught:
        _open(host).manifest("tag")
    assert "/token for http://" in caught.value.where
    assert f"docker login {host}" in caught.value.fix
    assert SECRET not in str(caught.value)


def test_a_blob_is_mounted_with_a_token_for_both_repositories(
    guarded: Callable[..., tuple[str, Tokens]], made: Image, store: Store
) -> None:
    host, tokens = guarded(life=300)
    layer = made.layers[2]
    source = _open(host, "from/here")
    source.put_blob(layer.digest, layer.size, store, Progress())
    target = _open(host)
    target.copy_blob(layer.digest, layer.size, source, Progress())
    assert target.has_blob(layer.digest)
    assert set(tokens.given[-1].split()) >= {"repository:a/b:pull,push",
                                             "repository:from/here:pull"}


# To whom nothing is said


def _challenge(realm: str) -> Answer:
    return Answer(status=401, headers={
        "WWW-Authenticate": f'Bearer realm="{realm}",service="x",scope="repository:a/b:pull"'})


@pytest.mark.parametrize("realm", [
    "http://registry.example.com/token", "http://10.0.0.1/token", "file:///etc/passwd", "", "x",
    "http://127.0.0.1.example.com/", "https://user:pw@127.0.0.1/"])
def test_no_credentials_go_to_a_realm_in_plain_text(serve: Serve, realm: str) -> None:
    double = serve(lambda _: _challenge(realm))
    login(double.host, "user", SECRET)
    with pytest.raises(RegistryError) as caught:
        _open(double.host).manifest("tag")
    assert caught.value.where
    assert caught.value.fix
    assert "pw" not in str(caught.value)
    assert all("authorization" not in request.headers for request in double.requests)


def test_no_credentials_follow_a_redirect_to_another_host(serve: Serve, made: Image) -> None:
    storage = serve(lambda _: Answer(body=made.config))

    def answer(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if request.path.startswith("/elsewhere"):
            return Answer(status=307, headers={"Location": f"{storage.url}/blob?signed=1"})
        return Answer(status=307, headers={"Location": "/elsewhere"})

    double = serve(answer)
    login(double.host, "user", SECRET)
    assert _open(double.host).config(made.config_digest) == made.config
    assert [request.path for request in double.requests[-1:]] == ["/elsewhere"]
    assert "authorization" in double.requests[-1].headers
    assert "authorization" not in storage.requests[0].headers


def test_a_storage_that_wants_credentials_gets_none(serve: Serve, made: Image) -> None:
    storage = serve(lambda _: Answer(status=401, headers={"WWW-Authenticate": "Basic realm=x"}))
    double = serve(lambda _: Answer(status=307, headers={"Location": f"{storage.url}/b?key=s3cr"}))
    login(storage.host, "user", SECRET)
    login(double.host, "user", SECRET)
    with pytest.raises(RegistryError, match="401") as caught:
        _open(double.host).config(made.config_digest)
    assert "s3cr" not in str(caught.value)
    assert all("authorization" not in request.headers for request in storage.requests)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}',
                                  b'{"token": "x", "expires_in": "soon"}'])
def test_what_is_no_token_is_not_sent(serve: Serve, body: bytes) -> None:
    def answer(request: Request) -> Answer:
        return (Answer(body=body) if request.path.startswith("/token")
                else _challenge(f"{double.url}/token"))

    double = serve(answer)
    with pytest.raises(RegistryError, match="no token") as caught:
        _open(double.host).manifest("tag")
    assert caught.value.fix
    assert all("authorization" not in request.headers for request in double.requests)


def test_a_registry_that_refuses_every_token_is_not_asked_for_ever(serve: Serve) -> None:
    def answer(request: Request) -> Answer:
        return (Answer(body=b'{"token": "x"}') if request.path.startswith("/token")
                else _challenge(f"{double.url}/token"))

    double = serve(answer)
    with pytest.raises(RegistryError, match="answered 401"):
        _open(double.host).manifest("tag")
    assert len(double.requests) < 12


def test_a_busy_token_server_is_asked_again(serve: Serve) -> None:
    busy = iter([Answer(status=503), Answer(status=429, headers={"Retry-After": "0"}),
                 Answer(hang_up=True)])

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return next(busy, Answer(body=b'{"token": "x"}'))
        if "authorization" in request.headers:
            return Answer(body=b"{}")
        return _challenge(f"{double.url}/token")

    double = serve(answer)
    assert _open(double.host).manifest("tag") == b"{}"


def test_a_scope_is_written_as_the_specification_says(serve: Serve) -> None:
    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(body=b'{"token": "x"}')
        return (Answer(body=b"{}") if "authorization" in request.headers
                else _challenge(f"{double.url}/token?a=1"))

    double = serve(answer)
    _open(double.host).manifest("tag")
    path = urllib.request.unquote(double.requests[1].path)  # type: ignore[attr-defined]
    assert path == "/token?a=1&service=x&scope=repository:a/b:pull"

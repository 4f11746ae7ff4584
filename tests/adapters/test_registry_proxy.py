"""A registry that only a proxy can reach, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.credentials import login
from tests.support.proxy import ForwardProxy
from tests.support.registry import RegistryServer
from tests.support.tls import Certificate, make_ca, make_server
from toolchain import push
from toolchain.adapters.backoff import Backoff
from toolchain.adapters.registry import HttpRegistry
from toolchain.errors import ConfigError, RegistryError
from toolchain.image import Image
from toolchain.progress import Progress
from toolchain.store import Store

_NAME = "registry.test"  # which no name server knows (RFC 6761)


def _open(host: str, *, insecure: bool = False) -> HttpRegistry:
    return HttpRegistry(host, host, "a/b", insecure=insecure,
                        backoff=Backoff(tries=2, first=0.01))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def private(ca: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    folder = tmp_path_factory.mktemp("private")
    made = make_server(folder, ca, _NAME)
    with RegistryServer(folder, tls=(made.certificate, made.key), password=True) as started:
        yield started


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("plain")) as started:
        yield started


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_https_goes_through_a_tunnel_that_sees_no_credentials(
    private: RegistryServer, ca: Certificate, made: Image, store: Store,
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "other.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.certificate))
    login(_NAME, "user", "hunter2")
    with ForwardProxy({_NAME: private.host}, user="me:p@ss") as proxy:
        monkeypatch.setenv(variable, f"http://me:p%40ss@{proxy.host}")
        registry = _open(_NAME)
        push.make(made, "tag", registry, store, Progress())
        assert push.find(registry, "tag") == made
        assert set(proxy.asked) == {("CONNECT", f"{_NAME}:443")}
        assert len(proxy.asked) <= 5  # connections are kept
        assert all("authorization" not in headers for headers in proxy.seen)


def test_plain_http_is_passed_on_by_the_proxy(
    plain: RegistryServer, made: Image, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    with ForwardProxy({_NAME: plain.host}, user="me:pass") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"me:pass@{proxy.host}")
        registry = _open(_NAME, insecure=True)
        push.make(made, "tag", registry, store, Progress())
        assert push.find(registry, "tag") == made
        assert ("PUT", f"http://{_NAME}/v2/a/b/manifests/tag") in proxy.asked


@pytest.mark.parametrize("no_proxy", ["*", _NAME, ".test", f"{_NAME}:443,x"])
def test_no_proxy_is_heard(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    with ForwardProxy({}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with pytest.raises(RegistryError, match="cannot be reached") as caught:
            _open(f"{_NAME}:443").manifest("tag")
        assert caught.value.where.startswith(f"https://{_NAME}")
        assert proxy.asked == []


def test_this_machine_is_not_reached_through_a_proxy(
    plain: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert _open(plain.host).manifest("other") is None


def test_a_proxy_that_refuses_is_explained_without_its_password(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    with ForwardProxy({}, user="me:right") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@{proxy.host}")
        with pytest.raises(RegistryError, match="407") as caught:
            _open(_NAME).manifest("tag")
    assert "hunter2" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@127.0.0.1:1", "https://127.0.0.1:1",
                                   "http://", "http://127.0.0.1:port"])
def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match="proxy") as caught:
        _open(_NAME).manifest("tag")
    assert "HTTPS_PROXY" in caught.value.where
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)


def test_a_name_that_nobody_knows_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be reached") as caught:
        _open("https://registry.invalid").manifest("tag")
    assert caught.value.where == "https://registry.invalid"

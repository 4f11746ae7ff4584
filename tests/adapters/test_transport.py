"""Where a registry may send, and to whom what is said."""

from __future__ import annotations

import pytest

from toolchain.adapters.backoff import Backoff
from toolchain.adapters.connections import is_loopback, origin, shown
from toolchain.adapters.transport import Transport
from toolchain.errors import RegistryError


def _target(root: str, location: str) -> str:
    return Transport(root, {}, Backoff()).target(f"{root}/v2/a/blobs/uploads/", location)


@pytest.mark.parametrize(("root", "location", "target"), [
    ("https://r.test", "/v2/a/blobs/uploads/1?x=y", "https://r.test/v2/a/blobs/uploads/1?x=y"),
    ("https://r.test", "https://storage.test/1", "https://storage.test/1"),
    # A registry behind a proxy that ends TLS often thinks that it has none.
    ("https://r.test", "http://r.test/v2/1", "https://r.test/v2/1"),
    ("https://r.test:5000", "http://r.test:5000/v2/1", "https://r.test:5000/v2/1"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:9000/1", "http://127.0.0.1:9000/1"),
])
def test_what_is_followed(root: str, location: str, target: str) -> None:
    assert _target(root, location) == target


@pytest.mark.parametrize("location", [
    "http://storage.test/1", "http://r.test:80/1", "file:///etc/passwd", "https://[/",
    "https://r.test/ä", "https://r.test/\r\nHost: evil", "https://r.test:port/", "https://r.test:0/"])
def test_what_is_not_followed(location: str) -> None:
    with pytest.raises(RegistryError) as caught:
        _target("https://r.test:5000", location)
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize(("url", "expected"), [
    ("https://r.test/x", "https://r.test"), ("https://r.test:443/x", "https://r.test"),
    ("http://r.test:443/x", "http://r.test:443"), ("https://R.test/x", "https://r.test"),
    ("https://user:pw@r.test/x", "https://r.test"), ("http://[::1]:5000/x", "http://[::1]:5000"),
    ("https://r.test@evil.test/x", "https://evil.test"),
])
def test_an_origin_is_scheme_host_and_port(url: str, expected: str) -> None:
    assert origin(url) == expected


def test_what_is_shown_of_an_address_holds_no_secret() -> None:
    assert shown("https://user:hunter2@r.test/v2/x?X-Amz-Signature=hunter2#hunter2") == (
        "https://r.test/v2/x")


@pytest.mark.parametrize(("host", "expected"), [
    ("localhost", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True),
    ("127.0.0.1.example.com", False), ("localhost.example.com", False), ("0.0.0.0", False),
    ("10.0.0.1", False), ("", False), ("127.0.0.1\n", False)])
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected

"""Image names are read as Docker reads them."""

from __future__ import annotations

import pytest

from toolchain.digest import Digest
from toolchain.errors import ConfigError
from toolchain.reference import Reference, api_host, check_repository, parse_reference, pull_name

_D = "sha256:" + "ab" * 32


@pytest.mark.parametrize(("text", "canonical", "api"), [
    ("python", "docker.io/library/python:latest", "registry-1.docker.io"),
    ("python:3.11-slim", "docker.io/library/python:3.11-slim", "registry-1.docker.io"),
    ("docker.io/python", "docker.io/library/python:latest", "registry-1.docker.io"),
    ("index.docker.io/a/b", "docker.io/a/b:latest", "registry-1.docker.io"),
    ("registry-1.docker.io/a/b", "docker.io/a/b:latest", "registry-1.docker.io"),
    ("bitnami/python:3", "docker.io/bitnami/python:3", "registry-1.docker.io"),
    ("localhost/x", "localhost/x:latest", "localhost"),
    ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000"),
    ("localhost:5000/a/b:T_1.x-y", "localhost:5000/a/b:T_1.x-y", "localhost:5000"),
    ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest", "ghcr.io"),
    ("127.0.0.1:5000/x:y", "127.0.0.1:5000/x:y", "127.0.0.1:5000"),
    ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000"),
    ("Registry/x", "Registry/x:latest", "Registry"),
    (f"python@{_D}", f"docker.io/library/python@{_D}", "registry-1.docker.io"),
    (f"python:3.11@{_D}", f"docker.io/library/python:3.11@{_D}", "registry-1.docker.io"),
    (f"localhost:5000/x:y@{_D}", f"localhost:5000/x:y@{_D}", "localhost:5000"),
    ("a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest", "registry-1.docker.io"),
])
def test_a_name_is_read(text: str, canonical: str, api: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == canonical
    assert api_host(reference.host) == api
    assert parse_reference(canonical) == reference


def test_the_parts_of_a_name() -> None:
    digest = Digest.parse(_D)
    assert parse_reference(f"localhost:5000/a/b:c@{_D}") == Reference(
        host="localhost:5000", repository="a/b", tag="c", digest=digest)
    assert parse_reference(f"a:c@{_D}").wanted == _D
    assert parse_reference("a:c").wanted == "c"


@pytest.mark.parametrize("text", [
    "", ":", "@", "/", "a/", "/a", "a//b", "a:", "a:b:c", "Python", "a/B", "a b", "a\n", "é",
    "https://docker.io/python", "a@sha256:12", "a@md5:" + "0" * 32, f"a@{_D.upper()}", "@" + _D,
    "a:" + "x" * 129, "a:-b", "a/../b", "localhost:port/x", "-a.com/x", "a..b/x", "ab" * 32,
    "x/" + "a" * 260, "host:5000/", "[::1/x", "a:b/c:d:e",
])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an image reference") as caught:
        parse_reference(text)
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("text", ["user:hunter2@host/x", "https://user:hunter2@host/x",
                                  "user:hunter2@host:5000/x:y"])
def test_a_password_is_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(text)
    assert "hunter2" not in str(caught.value)
    assert "host" in caught.value.where


def test_a_repository_has_at_most_255_characters() -> None:
    assert check_repository("a" * 255)
    with pytest.raises(ConfigError):
        check_repository("a" * 256)


@pytest.mark.parametrize(("setting", "name"), [
    ("", ""), ("registry:5000", "registry:5000"), ("127.0.0.1:30500", "127.0.0.1:30500"),
    ("https://registry.example/", "registry.example"), ("http://[::1]:5000", "[::1]:5000"),
    ("harbor.example/proxy/cache", "harbor.example/proxy/cache"),
])
def test_the_registrys_name_for_those_who_pull(setting: str, name: str) -> None:
    assert pull_name(setting) == name


@pytest.mark.parametrize("setting", [
    "user:hunter2@host:5000", "https://user:hunter2@host", "hunter2@host", "ftp://host", "ho st",
    "host:port", "host/Upper", "host//path", "/path", "host?token=hunter2",
])
def test_what_pullers_cannot_ask_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="not a registry") as caught:
        pull_name(setting)
    assert caught.value.where == "pull_registry"
    if "@" in setting:
        assert "hunter2" not in str(caught.value)

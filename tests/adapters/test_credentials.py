"""Docker's config.json and its helpers, as Docker reads them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.credentials import login, write_config
from toolchain.adapters.credentials import Credential, find
from toolchain.errors import ConfigError, RegistryError, ToolchainError

_SECRET = "hunter2"
_USER = Credential(username="user", password=_SECRET)


def _find(host: str = "registry.example.com:5000") -> Credential | None:
    return find(host, os.environ)


def _auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a credential helper on PATH; it writes down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        asked = tmp_path / f"{name}.asked"
        program = folder / f"docker-credential-{name}"
        program.write_text(f'#!/bin/sh\nhost=$(cat)\necho "$* $host" >>{asked}\n{script}\n')
        program.chmod(0o755)
        return asked

    return make


def _says(user: str, secret: str) -> str:
    return f"echo '{json.dumps({'ServerURL': 'x', 'Username': user, 'Secret': secret})}'"


def test_a_machine_without_docker_has_no_credentials(monkeypatch: pytest.MonkeyPatch,
                                                     tmp_path: Path) -> None:
    assert _find() is None
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))
    assert _find() is None
    monkeypatch.delenv("HOME")
    assert find("x", {"DOCKER_CONFIG": str(tmp_path / "file")}) is None


@pytest.mark.parametrize("key", ["registry.example.com:5000", "https://registry.example.com:5000",
                                 "http://registry.example.com:5000/v1/",
                                 "https://registry.example.com:5000/v2/"])
def test_a_login_is_found_however_the_host_is_written(key: str) -> None:
    login(key, "user", _SECRET)
    assert _find() == _USER
    assert _find("registry.example.com") is None
    assert _find("registry.example.com:5001") is None
    assert _find("example.com:5000") is None


def test_docker_config_names_another_folder(monkeypatch: pytest.MonkeyPatch,
                                            tmp_path: Path) -> None:
    login("registry.example.com:5000", "somebody", "else")
    (tmp_path / "config.json").write_text(json.dumps(
        {"auths": {"registry.example.com:5000": {"auth": _auth("user", _SECRET)}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert _find() == _USER


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_has_a_name_of_its_own(key: str) -> None:
    login(key, "user", _SECRET)
    assert find("registry-1.docker.io", os.environ) == _USER


@pytest.mark.parametrize(("entry", "expected"), [
    ({"auth": _auth("user", "a:b:c")}, Credential(username="user", password="a:b:c")),
    ({"auth": _auth("üser", "pässword")}, Credential(username="üser", password="pässword")),
    ({"auth": _auth("user", _SECRET + "\0\0")}, _USER),
    ({"username": "user", "password": _SECRET}, _USER),
    ({"identitytoken": _SECRET}, Credential(identity_token=_SECRET)),
    ({"auth": _auth("user", ""), "identitytoken": _SECRET},
     Credential(username="user", identity_token=_SECRET)),
    ({}, None), ({"email": "x"}, None), ({"auth": ""}, None),
])
def test_the_forms_of_an_entry(entry: Any, expected: Credential | None) -> None:
    write_config({"auths": {"registry.example.com:5000": entry}})
    assert _find() == expected


@pytest.mark.parametrize("config", [
    "", "{", "[]", "3", "null", '{"auths": 3}', '{"credHelpers": ["x"]}',
    '{"auths": {"registry.example.com:5000": 3}}',
    '{"auths": {"registry.example.com:5000": {"auth": "hunter2"}}}',
    '{"auths": {"registry.example.com:5000": {"auth": "aHVudGVyMg=="}}}',
    '{"auths": {"registry.example.com:5000": {"auth": 3}}}',
    '{"auths": {"registry.example.com:5000": {"auth": "/w=="}}}',
    '{"credsStore": "../../bin/evil"}', '{"credsStore": "a b"}', '{"credsStore": 3}',
    '{"credHelpers": {"registry.example.com:5000": "-x"}}',
])
def test_a_configuration_that_is_none_is_explained(config: str) -> None:
    path = write_config(config)
    with pytest.raises(ConfigError) as caught:
        _find()
    assert str(path) in caught.value.where
    assert caught.value.fix
    assert _SECRET not in str(caught.value)


def test_a_configuration_that_cannot_be_read_is_explained() -> None:
    path = write_config({})
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        _find()


def test_a_helper_for_one_host_goes_before_the_store(helper: Callable[[str, str], Path]) -> None:
    one, store = helper("one", _says("user", _SECRET)), helper("store", _says("other", "x"))
    write_config({"credHelpers": {"registry.example.com:5000": "one"}, "credsStore": "store",
                  "auths": {"registry.example.com:5000": {}}})
    assert _find() == _USER
    assert one.read_text() == "get registry.example.com:5000\n"
    assert not store.exists()
    assert find("other.example.com", os.environ) == Credential(username="other", password="x")
    assert find("registry-1.docker.io", os.environ)
    assert store.read_text() == "get other.example.com\nget https://index.docker.io/v1/\n"


def test_a_helper_may_give_an_identity_token(helper: Callable[[str, str], Path]) -> None:
    helper("one", _says("<token>", _SECRET))
    write_config({"credsStore": "one"})
    assert _find() == Credential(identity_token=_SECRET)


def test_a_helper_may_know_nothing(helper: Callable[[str, str], Path]) -> None:
    helper("one", "echo 'credentials not found in native keychain'; exit 1")
    write_config({"credsStore": "one"})
    assert _find() is None
    write_config({"credsStore": "one", "auths": {
        "registry.example.com:5000": {"auth": _auth("user", _SECRET)}}})
    assert _find() == _USER


@pytest.mark.parametrize("script", [
    "echo hunter2; echo hunter2 >&2; exit 1", "echo hunter2", "echo '{}'", "echo '[\"hunter2\"]'",
    "kill -9 $$"])
def test_a_helper_that_fails_is_named_and_what_it_said_is_not_shown(
    helper: Callable[[str, str], Path], script: str
) -> None:
    helper("one", script)
    write_config({"credsStore": "one"})
    with pytest.raises(RegistryError, match="docker-credential-one") as caught:
        _find()
    assert caught.value.where
    assert caught.value.fix
    assert _SECRET not in str(caught.value)


def test_a_helper_that_is_not_installed_is_named() -> None:
    path = write_config({"credsStore": "missing"})
    with pytest.raises(ToolchainError, match="docker-credential-missing is not on PATH") as caught:
        _find()
    assert caught.value.where == str(path)


def test_no_secret_is_in_a_repr() -> None:
    shown = repr(Credential(username="user", password=_SECRET, identity_token=_SECRET))
    assert _SECRET not in shown
    assert "user" in shown

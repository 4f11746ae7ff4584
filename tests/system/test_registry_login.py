"""`doit push` to a registry with a CA of its own and a password, and where that password goes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.monorepo import Monorepo, ran
from tests.support.registry import RegistryServer, secured, trusting_user

_PASSWORD = "hunter2"
_AUTH = base64.b64encode(f"user:{_PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with secured(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def user(registry: RegistryServer, monorepo: Monorepo, tmp_path: Path) -> Path:
    """A user's folder in which Docker's settings trust the registry's CA."""
    return trusting_user(tmp_path / "home", registry, monorepo.environment)


def test_two_projects_are_pushed_by_two_processes_and_no_secret_stays(
    registry: RegistryServer, monorepo: Monorepo, user: Path
) -> None:
    (user / ".docker/config.json").write_text(json.dumps(
        {"auths": {registry.host: {"auth": _AUTH}}}))
    monorepo.add("one")
    monorepo.add("two", requirements="beta\n")
    call = ("push", f"registry=https://{registry.host}")
    output = monorepo.doit("-n", "2", *call)
    assert {ran(output, name)["push"] for name in ("one", "two")} == {"made"}
    receipt = monorepo.receipt("one", "push")
    assert receipt["reference"].startswith(f"{registry.host}/mlflow/trainer@sha256:")
    again = monorepo.doit("--verbosity", "2", *call)
    assert set(ran(again, "one").values()) == {"fresh"}
    for secret in (_PASSWORD, _AUTH):
        assert secret not in output + again
        assert not [path for path in monorepo.folder.rglob("*")
                    if path.is_file() and secret.encode() in path.read_bytes()]


def test_another_machine_finds_the_image_and_builds_nothing(
    registry: RegistryServer, monorepo: Monorepo, user: Path
) -> None:
    (user / ".docker/config.json").write_text(json.dumps(
        {"auths": {registry.host: {"auth": _AUTH}}}))
    monorepo.add("three")
    call = ("push", f"registry=https://{registry.host}", "project=three")
    monorepo.doit(*call)
    for name in ("blobs", "out", "state.db", "doit.json"):
        path = monorepo.folder / "cache" / name
        path.rename(path.with_name(f"{name}-away"))
    assert "in the registry" in monorepo.doit(*call)


def test_without_a_login_one_is_told_what_to_do(
    registry: RegistryServer, monorepo: Monorepo, user: Path
) -> None:
    monorepo.add("four")
    output = monorepo.doit("push", f"registry=https://{registry.host}", expect=1)
    assert "the registry answered 401 (UNAUTHORIZED)" in output
    assert f"docker login {registry.host}" in output
    (user / ".docker/config.json").write_text('{"credsStore": "nowhere"}')
    output = monorepo.doit("push", f"registry=https://{registry.host}", expect=1)
    assert "docker-credential-nowhere is not on PATH" in output

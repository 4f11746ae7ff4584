"""The image of this tool, in a real container: a codeset is mounted, an image is pushed.

Making it needs the network that `pip install` needs; the container itself gets a mirror and wheels
from folders, and a registry on loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import conda
from tests.support.debs import Mirror
from tests.support.registry import RegistryServer
from tests.support.services import docker_client
from tests.system.test_examples import Clone

_MLPROJECT = "name: little\nentry_points:\n  main:\n    command: python train.py\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server.host


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Iterator[Any]:
    clone = Clone(tmp_path_factory.mktemp("builder") / "clone")
    clone.doit("push", "project=toolchain", f"registry={registry}")
    pulled = docker_client().images.pull(clone.receipt("toolchain", "push")["reference"])
    yield pulled
    docker_client().images.remove(pulled.id, force=True)
    shutil.rmtree(clone.folder)


class Step:
    """A codeset, and the folders that its container sees; open to the image's own user."""

    def __init__(self, folder: Path, mirror: Mirror, wheels: Path) -> None:
        self.folder = folder
        self.codeset, self.results = folder / "codeset", folder / "results"
        self.codeset.mkdir()
        self.results.mkdir()
        shutil.copytree(mirror.folder / "debian", folder / "apt/debian")
        shutil.copy(mirror.keyring, folder / "apt/keyring.gpg")
        shutil.copytree(wheels, folder / "wheels", ignore=shutil.ignore_patterns(".uv"))
        (self.codeset / "MLproject").write_text(_MLPROJECT)
        (self.codeset / "requirements.txt").write_text("alpha\n")
        (self.codeset / "train.py").write_text("print('trained')\n")
        (self.codeset / "pyproject.toml").write_text(
            '[tool.toolchain]\nimage.bytecode = false\nimage.mirror = "file:///apt/debian"\n'
            'image.keyring = "/apt/keyring.gpg"\n')
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)

    def start(self, image: Any, *command: str, **environ: str) -> Any:
        return docker_client().containers.run(
            image, list(command) or None, detach=True, network_mode="host",
            working_dir="/workspace",
            environment={"UV_FIND_LINKS": "/wheels", "UV_NO_INDEX": "1", **environ},
            volumes={str(self.folder / place): {"bind": seen, "mode": mode}
                     for place, seen, mode in (
                         ("codeset", "/workspace", "rw"), ("results", "/tekton/results", "rw"),
                         ("apt", "/apt", "ro"), ("wheels", "/wheels", "ro"))})

    def run(self, image: Any, *command: str, **environ: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        container = self.start(image, *command, **environ)
        try:
            status = container.wait(timeout=200)["StatusCode"]
            return status, *(container.logs(stdout=out, stderr=not out).decode()
                             for out in (True, False))
        finally:
            container.remove(force=True)


@pytest.fixture
def step(tmp_path: Path, mirror: Mirror, wheels: Path) -> Step:
    return Step(tmp_path, mirror, wheels)


def _manifest(registry: str, name: str) -> tuple[dict[str, Any], str]:
    repository, _, tag = name.rpartition(":")
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response), response.headers["Docker-Content-Digest"]


def test_without_a_command_it_is_the_builder_step(builder: Any, registry: str, step: Step) -> None:
    status, output, errors = step.run(builder, registry=registry,
                                      FUSEML_PULL_REGISTRY="in-cluster.example:30500",
                                      repository="team/trainer")
    assert status == 0, errors
    found = dict(line.split("=", 1) for line in output.splitlines())
    assert found["image"].startswith("in-cluster.example:30500/team/trainer:")
    manifest, digest = _manifest(registry, found["image"].partition("/")[2])
    assert digest == found["digest"]
    assert any("alpha" in item["annotations"]["toolchain.layer"] for item in manifest["layers"])
    assert (step.results / "image").read_text() == found["image"]
    assert (step.results / "digest").read_text() == found["digest"]
    # The codeset has its locks, to be committed, and nothing else that is new.
    assert {path.name for path in step.codeset.iterdir()} == {
        "MLproject", "requirements.txt", "train.py", "pyproject.toml", "requirements.lock",
        "base.lock"}

    # Arguments win, and what was pushed is found there by another container.
    status, output, errors = step.run(builder, f"--registry={registry}", "--pull-registry=",
                                      registry="127.0.0.1:9", repository="team/trainer")
    assert status == 0, errors
    assert f"image={registry}/team/trainer:" in output
    assert f"digest={digest}" in output
    assert "in the registry" in errors

    status, output, errors = step.run(builder)
    assert (status, output) == (1, "")
    assert errors == ("no registry is given\n  at registry\n  fix: say --registry=HOST:PORT, or "
                      "set the variable `registry`\n")


def test_a_codeset_with_conda_packages(builder: Any, registry: str, step: Step) -> None:
    channel = step.folder / "wheels/channel"
    conda.python(channel)
    conda.package(channel, "tool", "2.0", depends=["python"], files={"lib/tool.txt": b"tool\n"})
    conda.index(channel)
    (step.codeset / "requirements.txt").unlink()
    (step.codeset / "conda.yaml").write_text(
        "channels: ['file:///wheels/channel']\ndependencies: [python, tool]\n")
    status, output, errors = step.run(builder, registry=registry, repository="team/conda")
    assert status == 0, errors
    found = dict(line.split("=", 1) for line in output.splitlines())
    manifest, _ = _manifest(registry, found["image"].partition("/")[2])
    assert any("tool" in item["annotations"]["toolchain.layer"] for item in manifest["layers"])
    assert (step.codeset / "conda.lock").is_file()


def test_a_codeset_that_it_may_not_write_is_an_error_in_plain_words(
    builder: Any, registry: str, step: Step
) -> None:
    step.codeset.chmod(0o755)
    if os.getuid() == 1000:
        pytest.skip("the image's user is the owner here")
    status, output, errors = step.run(builder, registry=registry, repository="team/other")
    assert (status, output) == (1, "")
    assert "Traceback" not in errors
    assert "  fix: " in errors
    with pytest.raises(urllib.error.HTTPError):
        _manifest(registry, "team/other:latest")


def test_it_ends_on_sigterm_as_process_1(builder: Any, step: Step) -> None:
    """`docker stop` need not wait for its ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(100)
        container = step.start(builder, f"--registry=127.0.0.1:{silent.getsockname()[1]}")
        try:
            waiting, _ = silent.accept()  # it asks this registry, which never answers
            container.kill("SIGTERM")
            assert container.wait(timeout=20)["StatusCode"] == 143
            waiting.close()
        finally:
            container.remove(force=True)

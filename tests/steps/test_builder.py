"""The builder step with a real registry: a codeset in, an image's name out."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.debs import Mirror
from tests.support.images import ImageLayout, debian
from tests.support.loopback import Handler, Loopback
from tests.support.monorepo import Monorepo
from tests.support.registry import RegistryServer, secured, trusting_user
from toolchain.errors import ConfigError
from toolchain.steps.inputs import read


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server.host


class Codeset:
    """One MLflow project in a folder of its own, which is the whole workspace."""

    def __init__(self, monorepo: Monorepo, mirror: Mirror, folder: Path) -> None:
        self.folder = monorepo.add("codeset").rename(folder)
        (self.folder / "pyproject.toml").write_text(
            f'[tool.toolchain]\nimage.bytecode = false\nimage.mirror = "{mirror.url}"\n'
            f'image.keyring = "{mirror.keyring}"\n')
        self.environment = {**monorepo.environment, "TOOLCHAIN_CACHE": f"{folder}-cache"}

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "toolchain.steps.builder", *arguments], cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def build(self, *arguments: str, expect: int = 0,
              **environ: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **environ) as process:
            try:
                output, errors = process.communicate(timeout=200)
            finally:
                process.kill()
        done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done


@pytest.fixture
def codeset(monorepo: Monorepo, mirror: Mirror, tmp_path: Path) -> Codeset:
    return Codeset(monorepo, mirror, tmp_path / "project")


def _results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def _manifest(registry: str, repository: str, reference: str,
              kind: str = "application/vnd.oci.image.manifest.v1+json",
              ) -> tuple[dict[str, Any], str]:
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{reference}",
        headers={"Accept": kind})
    with urllib.request.urlopen(request) as response:
        return json.load(response), response.headers["Docker-Content-Digest"]


def _blob(registry: str, repository: str, digest: str) -> Any:
    with urllib.request.urlopen(
            f"http://{registry}/v2/{repository}/blobs/{digest}") as response:
        return json.load(response)


def test_a_codeset_becomes_an_image_with_a_name(
    codeset: Codeset, registry: str, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    done = codeset.build(registry=registry, FUSEML_PULL_REGISTRY="registry.example:30500",
                         TASK_RESULT="trainer-image", TASK_RESULTS_DIR=str(results),
                         miniconda_version="4.7.12", intel_optimized="false")
    assert "warning: miniconda_version has no meaning here" in done.stderr
    assert "intel_optimized" not in done.stderr
    found = _results(done)
    name, _, tag = found["image"].rpartition(":")
    assert name == "registry.example:30500/mlflow/trainer"
    assert len(tag) == 64
    assert (results / "trainer-image").read_text() == found["image"]
    assert (results / "digest").read_text() == found["digest"]
    manifest, digest = _manifest(registry, "mlflow/trainer", tag)
    assert digest == found["digest"]
    labels = [item["annotations"]["toolchain.layer"] for item in manifest["layers"]]
    assert labels[-2:] == ["runner", "project files"]
    config = _blob(registry, "mlflow/trainer", manifest["config"]["digest"])["config"]
    assert config["Entrypoint"][-1] == "/opt/toolchain"
    assert not (codeset.folder / "cache").exists()


def test_the_same_codeset_is_the_same_image_and_costs_nothing(
    codeset: Codeset, registry: str, tmp_path: Path
) -> None:
    first = _results(codeset.build(f"--registry={registry}", "--repository=a/b"))
    done = codeset.build(f"--registry={registry}", "--repository=a/b")
    assert _results(done) == first
    assert done.stderr.count("up to date") == 5
    # With nothing but the registry: what it has is neither built nor fetched.
    done = codeset.build(f"--registry={registry}", "--repository=a/b", "--verbose=true",
                         f"--cache={tmp_path}/other")
    assert _results(done) == first
    assert "in the registry" in done.stderr
    assert "project codeset" in done.stderr
    # Every dependency counts, as does the code; and so does every line end of it.
    for path, text in (("train.py", "print(1)"), ("train.py", "print(1)\n"),
                       ("requirements.txt", "alpha==1.0"), ("requirements.txt", "alpha==1.1")):
        (codeset.folder / path).write_text(text)
        other = _results(codeset.build(f"--registry={registry}", "--repository=a/b"))
        assert other["image"] != first["image"], path
        first = other
    (codeset.folder / "requirements.txt").write_text("# the same\nalpha==1.1\n")
    assert _results(codeset.build(f"--registry={registry}", "--repository=a/b")) == first


def test_several_platforms_are_one_name(codeset: Codeset, registry: str) -> None:
    base = ImageLayout(codeset.folder.parent / "base")
    base.tag(base.index(*(base.manifest(debian(), platform=f"linux/{machine}")
                          for machine in ("amd64", "arm64"))))
    found = _results(codeset.build(
        f"registry={registry}", "repository=both", "base_image=oci:../base",
        "image.platform=linux/amd64,linux/arm64"))
    index, digest = _manifest(registry, "both", found["image"].rpartition(":")[2],
                              kind="application/vnd.oci.image.index.v1+json")
    assert digest == found["digest"]
    assert [item["platform"]["architecture"] for item in index["manifests"]] == ["amd64", "arm64"]


def test_a_registry_with_a_ca_of_its_own_and_a_password(codeset: Codeset, tmp_path: Path) -> None:
    auth = base64.b64encode(b"user:hunter2").decode()
    (tmp_path / "secured").mkdir()
    with secured(tmp_path / "secured") as server:
        home = trusting_user(tmp_path / "home", server, codeset.environment)
        asked = f"--registry=https://{server.host}"
        done = codeset.build(asked, expect=1)
        assert f"docker login {server.host}" in done.stderr
        (home / ".docker/config.json").write_text(json.dumps(
            {"auths": {server.host: {"auth": auth}}}))
        done = codeset.build(asked, "--verbose=true")
        assert _results(done)["image"].startswith(f"{server.host}/mlflow/trainer:")
        (home / ".config/docker/certs.d" / server.host / "ca.crt").unlink()
        (codeset.folder / "train.py").write_text("print(2)\n")
        failed = codeset.build(asked, expect=1)
        assert "certificate" in failed.stderr
    for secret in ("hunter2", auth):
        assert secret not in done.stdout + done.stderr + failed.stderr
        for place in (codeset.folder, Path(f"{codeset.folder}-cache")):
            assert not [path for path in place.rglob("*")
                        if path.is_file() and secret.encode() in path.read_bytes()]


def test_the_name_is_the_folders_where_the_project_has_none(
    codeset: Codeset, registry: str
) -> None:
    text = (codeset.folder / "MLproject").read_text()
    (codeset.folder / "MLproject").write_text(text.partition("\n")[2])
    assert "parse project  " in codeset.build(f"--registry={registry}").stderr


def test_a_mistake_is_an_error_with_a_remedy(
    codeset: Codeset, registry: str, tmp_path: Path
) -> None:
    cases: list[tuple[tuple[str, ...], dict[str, str], str]] = [
        ((), {}, "no registry is given"),
        ((f"--registery={registry}",), {}, "did you mean 'registry'"),
        (("--registry",), {}, "--registry has no value"),
        ((f"--registry={registry}", "--cache=cache"), {}, "would be a part of the image"),
        (("--registry=127.0.0.1:9",), {}, "127.0.0.1:9"),
        ((f"--registry={registry}",), {"verbose": "loud"}, "verbose is yes or no"),
        ((f"--registry={registry}",), {"TASK_RESULT": "a/b"}, "no file name"),
        (("--registry=http://me:hunter22@127.0.0.1",), {}, "registry"),
        (("--registry=127.0.0.1:5000", "--pull_registry=https://me:hunter22@host"), {},
         "pull_registry"),
    ]
    for arguments, environ, words in cases:
        done = codeset.build(*arguments, expect=1, **environ)
        assert words in done.stderr
        assert "  fix: " in done.stderr
        assert done.stdout == ""
        assert "hunter22" not in done.stderr
    (codeset.folder / "MLproject").unlink()
    done = codeset.build(f"--registry={registry}", expect=1)
    assert "no MLproject in the working folder" in done.stderr


def test_the_cache_is_all_that_must_be_writable(codeset: Codeset, registry: str,
                                                tmp_path: Path) -> None:
    """As for a user whom nobody knows, with no home, whom some clusters choose."""
    codeset.environment.pop("UV_CACHE_DIR", None)
    codeset.build(f"--registry={registry}", HOME="/proc/nowhere", XDG_CACHE_HOME="/proc/nowhere")
    cache = Path(codeset.environment["TOOLCHAIN_CACHE"])
    assert (cache / "uv/CACHEDIR.TAG").is_file()
    codeset.build(f"--registry={registry}", "python=3.11", UV_CACHE_DIR=str(tmp_path / "uv"))


class _Slow(Loopback):
    """A registry that has nothing, and begins an upload whose bytes it then does not read."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()
        registry = self

        class Answering(Handler):
            def answer(self) -> None:
                if self.command == "PUT":
                    registry.asked.set()
                    registry.over.wait(300)
                    self.close_connection = True
                    return
                self.send_response(202 if self.command == "POST" else
                                   200 if self.path == "/v2/" else 404)
                if self.command == "POST":
                    self.send_header("Location", f"{self.path}1")
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(Answering)

    def __exit__(self, *error: Any) -> None:
        self.over.set()
        super().__exit__(*error)


def _wait_until_asleep(pid: int) -> None:
    """Python does not notice a signal that comes in the moment before its main thread waits for a
    lock (python/cpython: acquire_timed), until that wait is over."""
    seen = 0
    while seen < 10:
        stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
        seen = seen + 1 if stat.rpartition(")")[2].split()[0] == "S" else 0
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_the_middle_of_an_upload(
    codeset: Codeset, number: signal.Signals, status: int
) -> None:
    with _Slow() as registry, codeset.start(f"--registry={registry.host}") as process:
        try:
            assert registry.asked.wait(200)
            _wait_until_asleep(process.pid)
            process.send_signal(number)
            # The upload itself would be given up, and tried again, after a minute without a byte.
            output, errors = process.communicate(timeout=40)
        finally:
            process.kill()
    assert (process.returncode, output) == (status, ""), errors
    assert errors.endswith("interrupted\n"), errors


def test_inputs_have_fusemls_names_and_become_settings() -> None:
    warnings: list[str] = []
    asked = read(["--base_image=python:3.11", "pull_registry=in-cluster:5000", "python=3.12"], {
        "registry": "", "FUSEML_REGISTRY": "a:1", "REPOSITORY": "x/y", "intel_optimized": "true",
        "compressed_caching": "true", "VERBOSE": "true", "HOME": "/h"}, warnings.append)
    assert asked.verbose
    assert {name: text for name, text in asked.settings.items() if name != "cache"} == {
        "registry": "a:1", "repository": "x/y", "image.base": "python:3.11",
        "pull_registry": "in-cluster:5000", "python": "3.12"}
    assert [text.split(" ")[0] for text in warnings] == ["intel_optimized", "compressed_caching"]
    asked = read(["image.mirror=https://argument/debian"], {
        "insecure": "yes", "IMAGE_INSECURE": "b:2", "image_mirror": "https://variable/debian",
        "FUSEML_IMAGE_KEYRING": "/k.gpg"}, warnings.append)
    assert {name: text for name, text in asked.settings.items() if name != "cache"} == {
        "insecure": "yes", "image.insecure": "b:2", "image.mirror": "https://argument/debian",
        "image.keyring": "/k.gpg"}
    warnings.clear()
    read(["--compressed_caching=false", "intel_optimized=no", "miniconda_version="], {},
         warnings.append)
    assert warnings == []  # they ask for nothing
    with pytest.raises(ConfigError, match="compressed_caching is yes or no"):
        read(["--compressed_caching=perhaps"], {}, warnings.append)
    with pytest.raises(ConfigError, match="unknown input --entry_point"):
        read(["--entry_point=main"], {}, warnings.append)

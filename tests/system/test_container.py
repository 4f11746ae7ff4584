"""The runner in a real container: a real image, pulled and run by a Docker engine.

These need the network that `pip install` needs. The container has the machine's network, so that
it reaches an MLflow server here.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from mlflow import MlflowClient

from tests.support.registry import RegistryServer
from tests.support.services import docker_client, mlflow_server, need_module
from tests.system.test_examples import Clone

# A project of this test, with the packages that an example has locked: its own are few.
_MLPROJECT = """\
name: contained
python_env: python_env.yaml
entry_points:
  main:
    parameters:
      text: {type: string, default: none}
      max-depth: {type: int, default: 3}
    command: python train.py {text} {max-depth}
  waits:
    command: "echo ready; exec python wait.py"
  orphans:
    command: "for i in 1 2 3 4 5; do (sh -c 'sleep 0.1 & exit' &); done; sleep 1; \
python zombies.py"
  fails:
    command: exit 7
"""
_TRAIN = '''\
import sys, mlflow
with mlflow.start_run():
    mlflow.log_metric("depth", int(sys.argv[2]))
    mlflow.log_text("flavors: {}", "model/MLmodel")
print(*sys.argv[1:], sep="|")
'''
_WAIT = '''\
import time
try:
    time.sleep(120)
finally:
    print("never said")
'''
_ZOMBIES = '''\
import pathlib
states = [path.read_text().rpartition(")")[2].split()[:2]
          for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print("zombies", sum(state == "Z" for state, _ in states), "of", pathlib.Path("/proc/1/cmdline")
      .read_text().split("\\0")[2])
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


_PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a name and a password, as `mlflow server --app-name basic-auth`."""
    need_module("flask_wtf")
    folder = tmp_path_factory.mktemp("guarded")
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder / 'users.db'}\nadmin_username = trainer\n"
        f"admin_password = {_PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
    with mlflow_server(folder, "--app-name", "basic-auth", MLFLOW_AUTH_CONFIG_PATH=str(settings),
                       MLFLOW_FLASK_SERVER_SECRET_KEY="of a test") as url:
        yield url


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    client = docker_client()
    folder = tmp_path_factory.mktemp("container")
    clone = Clone(folder / "clone")
    project = clone.folder / "projects/contained"
    project.mkdir()
    (project / "MLproject").write_text(_MLPROJECT)
    (project / "python_env.yaml").write_text('python: "3.11"\ndependencies: [mlflow-skinny]\n')
    for name, text in (("train.py", _TRAIN), ("wait.py", _WAIT), ("zombies.py", _ZOMBIES)):
        (project / name).write_text(text)
    with RegistryServer(tmp_path_factory.mktemp("registry")) as registry:
        clone.doit("push", "project=contained", f"registry={registry.host}")
        pulled = client.images.pull(clone.receipt("contained", "push")["reference"])
    yield pulled
    client.images.remove(pulled.id, force=True)
    shutil.rmtree(clone.folder)


class Ran:
    """What a container came to."""

    def __init__(self, container: Any) -> None:
        self.status = container.wait()["StatusCode"]
        self.output = container.logs(stdout=True, stderr=False).decode()
        self.errors = container.logs(stdout=False, stderr=True).decode()
        assert "Traceback" not in self.errors


def _start(image: Any, *command: str, environ: dict[str, str], **options: Any) -> Any:
    return docker_client().containers.run(
        image, list(command) or None, environment={"MLFLOW_DISABLE_TELEMETRY": "true", **environ},
        network_mode="host", detach=True, **options)


def _run(image: Any, *command: str, **environ: str) -> Ran:
    container = _start(image, *command, environ=environ)
    try:
        return Ran(container)
    finally:
        container.remove(force=True)


def _latest(server: str, experiment: str = "contained") -> Any:
    client = MlflowClient(tracking_uri=server)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])[0]


def test_an_image_runs_its_entry_point(image: Any, server: str, tmp_path: Path) -> None:
    ran = _run(image, MLFLOW_TRACKING_URI=server, FUSEML_MLFLOW_EXPERIMENT="from a container",
               mlflow_entrypoint_args="text='a, b',max-depth=5")
    assert ran.status == 0, ran.errors
    run = _latest(server, "from a container")
    assert ran.output.splitlines()[-2:] == ["a, b|5", f"{run.info.artifact_uri}/model"]
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"depth": 5.0})
    assert run.data.params == {"text": "a, b", "max-depth": "5"}


def test_a_result_file_on_a_volume(image: Any, server: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(0o777)
    container = _start(image, "run", "max-depth=4", environ={
        "MLFLOW_TRACKING_URI": server, "TASK_RESULT": "model-url"},
        volumes={str(results): {"bind": "/tekton/results", "mode": "rw"}})
    try:
        ran = Ran(container)
    finally:
        container.remove(force=True)
    assert ran.status == 0, ran.errors
    assert (results / "model-url").read_text() == f"{_latest(server).info.artifact_uri}/model"


def test_a_server_that_asks_for_a_password(
    image: Any, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    who = {"MLFLOW_TRACKING_URI": guarded, "MLFLOW_TRACKING_USERNAME": "trainer",
           "MLFLOW_TRACKING_PASSWORD": _PASSWORD}

    def run(*command: str, **environ: str) -> Ran:
        container = _start(image, "run", *command, environ={"TASK_RESULT": "url", **environ},
                           volumes={str(tmp_path): {"bind": "/tekton/results", "mode": "rw"}})
        try:
            return Ran(container)
        finally:
            container.remove(force=True)

    ran = run("verbose=true", "max-depth=6", **who)
    assert ran.status == 0, ran.errors
    assert _PASSWORD not in ran.output + ran.errors
    for name, value in who.items():
        monkeypatch.setenv(name, value)
    found = _latest(guarded)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"depth": 6.0})
    assert (tmp_path / "url").read_text() == f"{found.info.artifact_uri}/model"
    (tmp_path / "url").unlink()

    wrong = "not that password"
    nobody = {"MLFLOW_TRACKING_URI": guarded}
    for environ in ({**who, "MLFLOW_TRACKING_PASSWORD": wrong}, nobody):
        ran = run("verbose=true", **environ)
        assert ran.status == 1
        assert "MLFLOW_TRACKING_PASSWORD" in ran.errors.partition("  fix: ")[2], ran.errors
        assert guarded in ran.errors
        assert wrong not in ran.output + ran.errors
        assert list(tmp_path.iterdir()) == []
    assert _latest(guarded).info.run_id == found.info.run_id  # nothing was begun


def test_any_other_program_is_run_as_it_stands(image: Any) -> None:
    assert _run(image, "python", "-c", "import mlflow; print('here')").output == "here\n"
    assert _run(image, "sh", "-c", "echo $PPID; exit 3").status == 3
    ran = _run(image, "no-such-program")
    assert ran.status == 127
    assert "no program 'no-such-program' in this image" in ran.errors


def test_a_failure_keeps_its_status(image: Any, server: str) -> None:
    ran = _run(image, "--entrypoint=fails", MLFLOW_TRACKING_URI=server)
    assert ran.status == 7
    assert _latest(server).info.status == "FAILED"
    assert _run(image).status == 1


def test_a_stopped_container_leaves_a_killed_run(image: Any, server: str) -> None:
    container = _start(image, "--entrypoint=waits", environ={"MLFLOW_TRACKING_URI": server})
    try:
        deadline = time.monotonic() + 60
        while b"ready" not in container.logs():
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.1)
        started = time.monotonic()
        container.stop(timeout=30)
        assert time.monotonic() - started < 15
        assert Ran(container).status == 143
    finally:
        container.remove(force=True)
    assert _latest(server).info.status == "KILLED"


def test_process_one_reaps_what_others_leave(image: Any, server: str) -> None:
    ran = _run(image, "--entrypoint=orphans", MLFLOW_TRACKING_URI=server)
    assert "zombies 0 of /opt/toolchain\n" in ran.output


# Images that stand on an image which a Docker engine built and pushed

_GROUND = """\
FROM {ground}
USER 0
ENV GREETING=hello
RUN touch /of-the-base && python -m venv --without-pip /app/.venv && \
    echo WORDS=1 > /app/.venv/lib/python3.11/site-packages/words.py
"""
_STANDING = """\
import ctypes.util, importlib.util, os, sys
import yaml
found = ctypes.util.find_library("yaml-0")
print(sys.prefix, yaml.__file__, found, ctypes.CDLL(found).yaml_get_version_string != 0)
print(os.environ["GREETING"], os.getuid(), os.getcwd(), os.access("/project", os.W_OK),
      os.path.exists("/of-the-base"))
print([name for name in ("six", "words") if importlib.util.find_spec(name)])
"""


class Ground:
    """A workspace, and in a registry an image that our own is below. It has packages of its own in
    /opt/venv, and others in /app/.venv."""

    def __init__(self, clone: Clone, host: str) -> None:
        self._clone = clone
        self._host = host
        self._made: list[str] = []
        self._add("ground", requirements="six")
        ground = self._push("ground")
        client = docker_client()
        client.images.pull(ground)
        self.image = f"{host}/team/base:1"
        client.images.build(tag=self.image, rm=True, network_mode="none",
                            fileobj=io.BytesIO(_GROUND.format(ground=ground).encode()))
        self._made.append(self.image)
        client.images.push(f"{host}/team/base", tag="1")

    def run(self, name: str, *settings: str, mlproject: str = "", requirements: str = "") -> Ran:
        """What comes of a container of a project that prints what it sees."""
        self._add(name, mlproject=mlproject, requirements=requirements)
        return _run(docker_client().images.pull(self._push(name, *settings)))

    def _add(self, name: str, *, mlproject: str = "", requirements: str) -> None:
        project = self._clone.folder / "projects" / name
        project.mkdir()
        (project / "MLproject").write_text(
            f"name: {name}\n{mlproject}entry_points:\n  main: {{command: python train.py}}\n")
        (project / "requirements.txt").write_text(requirements)
        (project / "train.py").write_text(_STANDING)

    def _push(self, name: str, *settings: str) -> str:
        self._clone.doit("push", f"project={name}", f"registry={self._host}", *settings)
        reference = str(self._clone.receipt(name, "push")["reference"])
        self._made.append(reference)
        return reference

    def close(self) -> None:
        for name in reversed(self._made):
            with contextlib.suppress(docker.errors.ImageNotFound):
                docker_client().images.remove(name, force=True)
        shutil.rmtree(self._clone.folder)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    clone = Clone(tmp_path_factory.mktemp("ground") / "clone")
    with RegistryServer(tmp_path_factory.mktemp("registry")) as registry, \
            contextlib.closing(Ground(clone, registry.host)) as made:
        yield made


def test_an_image_on_another_has_the_locks_packages_and_debians(ground: Ground) -> None:
    ran = ground.run("standing", f"image.base={ground.image}", "apt=libyaml-0-2",
                     requirements="pyyaml")
    assert ran.status == 0, ran.errors
    assert ran.output.splitlines() == [
        "/opt/venv /opt/venv/lib/python3.11/site-packages/yaml/__init__.py libyaml-0.so.2 True",
        "hello 1000 /project True True", "[]"]


@pytest.mark.parametrize(("path", "seen"), [
    ("/opt/venv/bin:/usr/bin:/bin", "six"), ("/app/.venv/bin:/usr/bin:/bin", "words")])
def test_a_projects_own_image_shows_the_packages_of_its_environment(ground: Ground, path: str,
                                                                    seen: str) -> None:
    """The one that is first on its PATH. The example needs yaml, which is put into that image."""
    client = docker_client()
    name = f"toolchain-test/{seen}:1"
    client.images.build(tag=name, rm=True, network_mode="none", fileobj=io.BytesIO(
        f"FROM {ground.image}\nENV PATH={path}\nRUN for folder in /opt/venv /app/.venv; do "
        "echo > $folder/lib/python3.11/site-packages/yaml.py; done\n".encode()))
    try:
        ran = ground.run(seen, "apt=libyaml-0-2",
                         mlproject=f"docker_env: {{image: 'docker-daemon:{name}'}}\n")
    finally:
        client.images.remove(name, force=True)
    assert ran.status == 0, ran.errors
    place = path.partition("/bin")[0]
    assert ran.output.splitlines() == [
        f"/opt/venv {place}/lib/python3.11/site-packages/yaml.py libyaml-0.so.2 True",
        "hello 1000 /project True True", f"['{seen}']"]

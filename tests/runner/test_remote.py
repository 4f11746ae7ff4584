"""`path` parameters that are elsewhere: fetched by the container itself, as `mlflow run` does."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.runner.test_files import _pythons
from tests.support.files import Server
from tests.support.runner import Rootfs
from toolchain.spec import EntryPoint, Parameter, Spec

_SHOW = "find {data} -type f | sort | while read -r file; do echo \"$file: $(cat \"$file\")\"; done"


def project() -> Spec:
    parameters = {"data": Parameter(type="path"), "other": Parameter(type="path", default=".")}
    return Spec(name="one", environment="python_env", python="3.11", requirements=("mlflow",),
                constraints=(), hashes={}, files={"MLproject": "name: one\n"},
                entry_points={"main": EntryPoint(command=_SHOW, parameters=parameters)})


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    return Rootfs(tmp_path / "root", project())


@pytest.fixture
def server(web: Server) -> Server:
    (web.folder / "a b.csv").write_text("of the web")
    return web


def test_a_file_of_the_web_is_fetched_and_its_signature_is_no_record(
    rootfs: Rootfs, server: Server, uri: str, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    address = f"{server.url}/a%20b.csv?signature=SECRET"
    done = rootfs.run(f"data={address}", "--verbose", MLFLOW_TRACKING_URI=uri, TMPDIR=str(scratch))
    place, _, content = done.stdout.strip().partition(": ")
    assert (Path(place).name, content) == ("a_b.csv", "of the web")
    assert Path(place).is_relative_to(scratch)
    assert not list(scratch.iterdir()), "what was fetched is removed"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("one")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"data": f"{server.url}/a%20b.csv", "other": "."}
    assert "SECRET" not in done.stdout + done.stderr
    assert b"SECRET" not in (tmp_path / "mlflow.db").read_bytes()


def test_a_password_goes_to_its_own_server_only(
    rootfs: Rootfs, server: Server, uri: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.csv").write_text("moved")
    with Server(tmp_path / "elsewhere") as other:
        server.login, server.moved = "user:p@ss", {"/a.csv": f"{other.url}/x.csv"}
        address = server.url.replace("://", "://user:p%40ss@")
        done = rootfs.run(f"data={address}/a.csv", MLFLOW_TRACKING_URI=uri)
        assert done.stdout.endswith("a.csv: moved\n")
        assert (len(server.authorized), other.authorized) == (1, [])


def test_what_cannot_be_fetched_is_a_mistake_and_no_run(
    rootfs: Rootfs, server: Server, uri: str
) -> None:
    address = server.url.replace("://", "://user:SECRET@")
    done = rootfs.run(f"data={address}/none.csv?key=SECRET", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "an input cannot be fetched: the server answers 404" in done.stderr
    assert f"at {server.url}/none.csv\n  fix: " in done.stderr
    assert "SECRET" not in done.stderr
    server.cut = 3
    done = rootfs.run(f"data={server.url}/a%20b.csv", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "an input cannot be fetched: " in done.stderr
    done = rootfs.run("data=nosuch://bucket/key?s=SECRET", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "an input cannot be fetched: " in done.stderr
    assert "at nosuch://bucket/key\n  fix: " in done.stderr
    assert "SECRET" not in done.stderr
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = rootfs.run(f"data=http://127.0.0.1:{nobody.getsockname()[1]}/a",
                          MLFLOW_TRACKING_URI=uri, expect=1)
    assert "Connection refused" in done.stderr
    assert MlflowClient(tracking_uri=uri).get_experiment_by_name("one") is None


def test_mlflow_fetches_what_it_knows(rootfs: Rootfs, uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    experiment = client.create_experiment("data", f"file://{tmp_path}/artifacts")
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "one", "folder/a.csv")
    client.log_text(run_id, "two", "folder/b/c.csv")
    done = rootfs.run(f"data=runs:/{run_id}/folder", MLFLOW_TRACKING_URI=uri)
    assert [line.rpartition("/folder/")[2] for line in done.stdout.splitlines()] == [
        "a.csv: one", "b/c.csv: two"]
    done = rootfs.run(f"data=runs:/{run_id}/nothing", MLFLOW_TRACKING_URI=uri, expect=1)
    assert f"cannot be fetched: No such artifact: 'nothing'\n  at runs:/{run_id}/nothing" \
        in done.stderr or f"at runs:/{run_id}/nothing\n" in done.stderr


def test_a_file_url_is_a_path(rootfs: Rootfs, uri: str, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/c").write_text("near")
    done = rootfs.run(f"data=file://{tmp_path}/a%20b", MLFLOW_TRACKING_URI=uri)
    assert done.stdout == f"{tmp_path}/a b/c: near\n"
    done = rootfs.run(f"data=file://{tmp_path}/none", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "names a path that does not exist" in done.stderr


def test_a_signal_while_it_is_fetched_ends_it(
    rootfs: Rootfs, uri: str, tmp_path: Path
) -> None:
    with socket.socket() as silent:  # it takes the question, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = rootfs.start(f"data=http://127.0.0.1:{silent.getsockname()[1]}/a",
                               environ={"MLFLOW_TRACKING_URI": uri})
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors


@pytest.mark.parametrize("python", _pythons())
def test_without_mlflow_the_web_is_fetched_and_the_rest_is_a_mistake(
    python: str, server: Server, tmp_path: Path
) -> None:
    rootfs = Rootfs(tmp_path / "bare", project(), python)
    done = rootfs.run(f"data={server.url}/a%20b.csv")
    assert done.stdout.endswith("a_b.csv: of the web\n")
    done = rootfs.run("data=s3://bucket/key", expect=1)
    assert "the image has no mlflow, so an input cannot be fetched\n  at s3://bucket/key" \
        in done.stderr
    assert "fix: add mlflow or mlflow-skinny" in done.stderr

"""The runner with a real MLflow store: runs, statuses, artifacts, results, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.runner import Rootfs, spec
from tests.support.services import lacking, need_root
from toolchain.runner.tracker import model_url

# A model is what log_model makes of it; a classic artifact is a file of the run.
_MODEL = '''\
import sys, mlflow
class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return model_input * 2
with mlflow.start_run():
    mlflow.log_param("own", 1)
    for name in sys.argv[1:]:
        mlflow.pyfunc.log_model(name=name, python_model=Twice(), pip_requirements=[])
'''
# Without importing mlflow, which takes long: what `log_artifact` does to a local store.
_CLASSIC = '''\
import os, sqlite3, pathlib
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
run = os.environ["MLFLOW_RUN_ID"]
(root,) = sqlite3.connect(database).execute(
    "select artifact_uri from runs where run_uuid=?", (run,)).fetchone()
folder = pathlib.Path(root.removeprefix("file://"), "model")
folder.mkdir(parents=True)
(folder / "MLmodel").write_text("flavors: {}")
print("job", run, *[os.environ.get(name) for name in ("MLFLOW_EXPERIMENT_NAME", "OTHER")])
'''


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    made = Rootfs(tmp_path / "root", spec(
        main="python classic.py && echo {rate} {note} {batch-size}", nothing="true",
        fails="exit 5", model="python model.py other model second", killed="kill -9 $$",
        waits="trap 'echo cleaned; exit 9' TERM; echo ready; sleep 60 & wait",
        obeys="trap 'exit 0' TERM; echo ready; sleep 60 & wait",
        waits_for_usr1="trap 'echo heard; exit 0' USR1; echo ready; sleep 60 & wait",
        leaves="(trap '' TERM HUP; exec sleep 1000) & echo $!"))
    (made.project / "classic.py").write_text(_CLASSIC)
    (made.project / "model.py").write_text(_MODEL)
    return made


def _only_run(client: MlflowClient, experiment: str = "one") -> Any:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_a_run_is_made_ended_and_its_artifact_is_named(
    rootfs: Rootfs, client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    done = rootfs.run(
        MLFLOW_TRACKING_URI=uri, MLFLOW_EXPERIMENT_NAME="ignored once it is given",
        FUSEML_MLFLOW_EXPERIMENT="an experiment", OTHER="other",
        mlflow_entrypoint_args="rate=0.25,batch-size=4 note='a, b'")
    run = _only_run(client, "an experiment")
    run_id = run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rate": "0.25", "batch-size": "4", "note": "a, b", "epochs": "1"}
    tags = {name: run.data.tags[name] for name in run.data.tags if "project" in name}
    assert tags == {"mlflow.project.entryPoint": "main", "mlflow.project.env": "python_env",
                    "mlflow.project.backend": "local"}
    assert run.data.tags["mlflow.source.type"] == "PROJECT"
    assert run.data.tags["mlflow.source.name"] == "one"
    url = f"file://{tmp_path}/mlruns/{run_id}/artifacts/model"
    assert done.stdout == f"job {run_id} None other\n0.25 a, b 4\n{url}\n"
    assert Path(url.removeprefix("file://"), "MLmodel").exists()


def test_the_result_file_has_the_url_and_nothing_else(
    rootfs: Rootfs, client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    done = rootfs.run(MLFLOW_TRACKING_URI=uri, TASK_RESULT=str(tmp_path / "url"))
    run_id = _only_run(client).info.run_id
    url = f"file://{tmp_path}/mlruns/{run_id}/artifacts/model"
    assert (tmp_path / "url").read_text() == url
    assert url not in done.stdout
    results = tmp_path / "results"
    results.mkdir()
    rootfs.run("artifact-path=x", "--artifact-path", "model/MLmodel", MLFLOW_TRACKING_URI=uri,
               TASK_RESULT="model-url", TASK_RESULTS_DIR=str(results))
    assert (results / "model-url").read_text().endswith("/artifacts/model/MLmodel")


def test_a_logged_model_is_found_by_its_name(
    rootfs: Rootfs, client: MlflowClient, uri: str
) -> None:
    done = rootfs.run("--entrypoint=model", MLFLOW_TRACKING_URI=uri)
    run = _only_run(client)
    assert run.data.params["own"] == "1"
    names = {f"models:/{item.model_id}": client.get_logged_model(item.model_id).name
             for item in run.outputs.model_outputs}
    assert names[done.stdout.splitlines()[-1]] == "model"
    # Of other names the newest, unless one was asked for.
    (rootfs.project / "model.py").write_text(_MODEL.replace("sys.argv[1:]", "('a', 'b')"))
    done = rootfs.run("--entrypoint=model", MLFLOW_TRACKING_URI=uri, mlflow_experiment="two")
    models = client.search_logged_models([_only_run(client, "two").info.experiment_id])
    newest = max(models, key=lambda model: model.creation_timestamp)
    assert newest.name == "b"
    assert done.stdout.splitlines()[-1] == f"models:/{newest.model_id}"


def test_a_model_in_an_object_store_is_named_by_its_place(client: MlflowClient) -> None:
    for number, (root, is_place) in enumerate({
        "s3://bucket/x": True, "wasbs://container@account.blob.example/x": True,
        "mlflow-artifacts:/x": False, "file:///x": False,
    }.items()):
        experiment = client.create_experiment(f"e{number}", artifact_location=root)
        model = client.create_logged_model(experiment, name="model")
        expected = f"{root}/models/{model.model_id}/artifacts" if is_place else (
            f"models:/{model.model_id}")
        assert model_url(model) == expected


def test_an_artifact_that_is_not_there_is_an_error_where_it_was_asked_for(
    rootfs: Rootfs, client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    done = rootfs.run("--entrypoint=nothing", MLFLOW_TRACKING_URI=uri)
    assert done.stdout == ""
    assert "the run logged no artifact 'model'; it has: nothing" in done.stderr
    done = rootfs.run("--artifact-path=models", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "the run logged no artifact 'models'\n  at run " in done.stderr
    assert "it has: model\n" in done.stderr
    done = rootfs.run("--entrypoint=nothing", MLFLOW_TRACKING_URI=uri, expect=1,
                      TASK_RESULT=str(tmp_path / "url"))
    assert "the run logged no artifact" in done.stderr
    assert not (tmp_path / "url").exists()
    assert {run.info.status for run in client.search_runs(["1"])} == {"FINISHED"}


def test_a_run_that_is_given_is_joined(
    rootfs: Rootfs, client: MlflowClient, uri: str
) -> None:
    run = client.create_run(client.create_experiment("elsewhere"), tags={"own": "yes"})
    rootfs.run("run", MLFLOW_TRACKING_URI=uri, MLFLOW_RUN_ID=run.info.run_id,
               mlflow_experiment="ignored")
    joined = client.get_run(run.info.run_id)
    assert joined.info.status == "FINISHED"
    assert joined.data.params["rate"] == "0.5"
    assert client.get_experiment_by_name("ignored") is None
    done = rootfs.run(MLFLOW_TRACKING_URI=uri, MLFLOW_RUN_ID="0" * 32, expect=1)
    assert "fix: check MLFLOW_RUN_ID" in done.stderr
    client.delete_run(run.info.run_id)
    done = rootfs.run(MLFLOW_TRACKING_URI=uri, MLFLOW_RUN_ID=run.info.run_id, expect=1)
    assert "was deleted" in done.stderr


@pytest.mark.parametrize(("entry", "code", "words"), [
    ("fails", 5, "exited with status 5"), ("killed", 137, "was ended by signal 9")])
def test_a_failure_is_the_jobs_own_status_and_a_failed_run(
    rootfs: Rootfs, client: MlflowClient, uri: str, entry: str, code: int, words: str
) -> None:
    done = rootfs.run("--entrypoint", entry, MLFLOW_TRACKING_URI=uri, expect=code)
    assert f"entry point {entry!r} {words}" in done.stderr
    assert _only_run(client).info.status == "FAILED"


def _until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize(("entry", "number", "code"), [
    ("waits", signal.SIGTERM, 9), ("obeys", signal.SIGTERM, 143), ("waits", signal.SIGINT, 130),
    ("waits", signal.SIGHUP, 129)])
def test_a_signal_reaches_the_job_and_the_run_is_killed(
    rootfs: Rootfs, client: MlflowClient, uri: str, entry: str, number: int, code: int
) -> None:
    process = rootfs.start("--entrypoint", entry, environ={"MLFLOW_TRACKING_URI": uri})
    _until_ready(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert ("cleaned" in output) == (code == 9)
    assert _only_run(client).info.status == "KILLED"
    assert "Traceback" not in errors


def test_a_job_that_ends_late_is_killed_in_the_store_at_once(
    rootfs: Rootfs, client: MlflowClient, uri: str
) -> None:
    """A container may be ended for good a few seconds after it was asked to end."""
    deaf = Rootfs(rootfs.folder / "deaf", spec(main="trap '' TERM; echo $$; sleep 60"))
    process = deaf.start(environ={"MLFLOW_TRACKING_URI": uri})
    assert process.stdout is not None
    job = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 8
    while _only_run(client).info.status != "KILLED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert process.poll() is None
    os.killpg(job, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 137


def test_a_signal_before_the_job_ends_it_soon(rootfs: Rootfs, tmp_path: Path) -> None:
    """Nobody answers at that address, and MLflow would try for minutes."""
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        process = rootfs.start(environ={
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{deaf.getsockname()[1]}"})
        deaf.accept()
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        output, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 9
    assert process.returncode == 143, errors
    assert "ready" not in output
    assert "MLflow did not answer in time" in errors


def test_other_signals_are_passed_on(rootfs: Rootfs, client: MlflowClient, uri: str) -> None:
    process = rootfs.start("--entrypoint=waits_for_usr1", environ={"MLFLOW_TRACKING_URI": uri})
    _until_ready(process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "heard\n")
    assert _only_run(client).info.status == "FINISHED"


def test_nothing_of_the_job_stays_behind(rootfs: Rootfs, uri: str) -> None:
    done = rootfs.run("--entrypoint=leaves", MLFLOW_TRACKING_URI=uri)
    left = int(done.stdout)
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


MISTAKES: list[tuple[dict[str, str], str, str]] = [
    ({}, "no tracking server is given", "MLFLOW_TRACKING_URI"),
    ({"MLFLOW_TRACKING_URI": "localhost:5000"}, "not a URL", "write http://localhost:5000"),
    ({"MLFLOW_S3_ENDPOINT_URL": "minio:9000"}, "not a URL", "MLFLOW_S3_ENDPOINT_URL"),
    ({"AWS_ACCESS_KEY_ID": "hunter22"}, "AWS_SECRET_ACCESS_KEY is not", "set both"),
    ({"MLFLOW_TRACKING_USERNAME": "hunter22"}, "MLFLOW_TRACKING_PASSWORD is not", "set both"),
    ({"MLFLOW_TRACKING_URI": "http://me:hunter22@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES":
      "0"}, "MLflow:", "at http://127.0.0.1:9\n"),
    ({"MLFLOW_TRACKING_URI": "postgresql+nothing://me:hunter22@127.0.0.1:9/x"}, "MLflow:",
     "at postgresql+nothing://127.0.0.1:9/x"),
    ({"TASK_RESULT": "/proc/nowhere/url"}, "the folder of results does not exist", "/proc/nowhere"),
    ({"TASK_RESULT": "../url"}, "no file name", "TASK_RESULT"),
    ({"mlflow_entrypoint": "mian"}, "no entry point 'mian' (did you mean 'main'?)", "fix: "),
    ({"mlflow_entrypoint_args": "rate=fast"}, "parameter 'rate' is float, not 'fast'",
     'mlflow_entrypoint_args="rate=1"'),
]


@pytest.mark.parametrize(("environ", "what", "more"), MISTAKES)
def test_a_mistake_says_what_where_and_how_to_mend_it(
    rootfs: Rootfs, environ: dict[str, str], what: str, more: str
) -> None:
    for verbose in ("", "1"):
        done = rootfs.run(expect=1, verbose=verbose, **environ)
        assert what in done.stderr
        assert more in done.stderr
        assert "  fix: " in done.stderr
        assert "hunter22" not in done.stdout + done.stderr
        assert "job" not in done.stdout


def test_verbose_says_more_but_no_value(rootfs: Rootfs, uri: str) -> None:
    done = rootfs.run("note=hunter22", "--verbose", MLFLOW_TRACKING_URI=uri,
                      AWS_ACCESS_KEY_ID="hunter23", AWS_SECRET_ACCESS_KEY="hunter24")
    assert "TOOLCHAIN_PARAMETER_3: note" in done.stderr
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "hunter" not in done.stderr


def test_a_path_must_be_there(tmp_path: Path, uri: str) -> None:
    from toolchain.spec import EntryPoint, Parameter, Spec

    what = Spec(name="one", environment="", python="", requirements=(), constraints=(), hashes={},
                files={}, entry_points={"main": EntryPoint(command="cat {data}", parameters={
                    "data": Parameter(type="path")})})
    rootfs = Rootfs(tmp_path / "root", what)
    done = rootfs.run(MLFLOW_TRACKING_URI=uri, expect=1)
    assert "parameter 'data' has no value" in done.stderr
    assert 'mlflow_entrypoint_args="data=…"' in done.stderr
    done = rootfs.run("data=rows.csv", MLFLOW_TRACKING_URI=uri, expect=1)
    assert "names a path that does not exist: rows.csv" in done.stderr
    (rootfs.project / "rows.csv").write_text("1,2\n")
    assert rootfs.run("data=rows.csv", MLFLOW_TRACKING_URI=uri).stdout == "1,2\n"


def test_process_one_reaps_orphans(rootfs: Rootfs, tmp_path: Path, uri: str) -> None:
    """In a process namespace of its own, as in a container."""
    need_root("have a process namespace")
    what = spec(main="for i in 1 2 3 4 5; do (sh -c 'sleep 0.1 & exit' &); done; sleep 1; "
                     "cat /proc/[0-9]*/stat | cut -d' ' -f2,3,4 | grep -c ') Z' ; echo $PPID")
    one = Rootfs(tmp_path / "one", what)
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *one.command("run")],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=60)
    if "unshare failed" in done.stderr:
        lacking(f"no namespaces here: {done.stderr}")
    assert done.stdout == "0\n1\n", done.stderr

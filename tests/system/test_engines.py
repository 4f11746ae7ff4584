"""`doit train engine=…` with a real image: Debian's own packages, a real interpreter.

These need the network that `pip install` needs, for Debian's packages.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.access import let_in
from tests.support.ray_cluster import shared_cluster
from tests.support.services import docker_client, lacking
from tests.system.test_examples import Clone
from toolchain.digest import Digest

_MLPROJECT = """\
name: placed
python_env: python_env.yaml
entry_points:
  main:
    parameters:
      note: {type: string, default: none}
      rows: {type: path, default: data/rows.csv}
    command: python train.py {note} {rows}
  fails:
    command: python -c 'raise SystemExit(7)'
  measures:
    parameters:
      x: float
    command: python measure.py {x}
"""
# Logs a metric and a model without mlflow, as the database and the run's folder have them.
_TRAIN = '''\
import os, pathlib, sqlite3, sys
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
run = os.environ["MLFLOW_RUN_ID"]
with sqlite3.connect(database) as connection:
    connection.execute("insert into params (key, value, run_uuid) values ('own', '1', ?)", (run,))
model = pathlib.Path(database).parent / "mlruns" / run / "artifacts" / "model"
model.mkdir(parents=True)
(model / "MLmodel").write_text("flavors: {}\\n")
pathlib.Path("written").write_text("x")
system = next(line for line in open("/etc/os-release") if line.startswith("VERSION_CODENAME"))
print("said", repr(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text().strip(), sys.prefix,
      system.strip())
'''
# Logs a metric, as MLflow's client does into a database.
_MEASURE = '''\
import os, sqlite3, sys
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
with sqlite3.connect(database, timeout=60) as connection:
    for table in ("metrics", "latest_metrics"):
        connection.execute(f"insert into {table} (key, value, timestamp, run_uuid, step, is_nan) "
                           "values ('loss', ?, 1, ?, 0, false)",
                           (float(sys.argv[1]), os.environ["MLFLOW_RUN_ID"]))
'''


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("placed") / "clone")
    project = made.folder / "projects/placed"
    (project / "data").mkdir(parents=True)
    (project / "MLproject").write_text(_MLPROJECT)
    (project / "python_env.yaml").write_text('python: "3.11"\ndependencies: []\n')
    (project / "train.py").write_text(_TRAIN)
    (project / "measure.py").write_text(_MEASURE)
    (project / "data/rows.csv").write_text("1,2\n")
    let_in(made.folder)
    made.doit("push", "project=placed")
    return made


@pytest.fixture(params=["sandbox", "docker", "auto"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "docker":
        docker_client()
    elif not _sandbox_works(tmp_path):
        lacking("no sandbox on this machine")
    name: str = request.param
    return name


def _sandbox_works(folder: Path) -> bool:
    from tests.support.engines import Bench

    return not Bench(folder).sandbox().obstacle


def test_a_run_is_made_and_found_again(clone: Clone, engine: str, tmp_path: Path) -> None:
    let_in(tmp_path)
    rows = tmp_path / f"rows of {engine}.csv"
    rows.write_text(f"{engine}\n")
    params = f"params=note=\"it's $(id)\" rows='{rows}'"
    output = clone.doit("train", "project=placed", f"engine={engine}", params)
    assert f'said "it\'s $(id)" {engine} /opt/venv VERSION_CODENAME=bookworm' in output
    run = clone.receipt("placed", "train")
    assert run["status"] == "FINISHED"
    assert run["params"]["own"] == "1"
    assert run["model_uri"] == f"runs:/{run['run_id']}/model"
    backend = "docker" if engine == "docker" else "sandbox"
    assert _tag(clone, run["run_id"], "mlflow.project.backend") == backend
    model = clone.folder / "mlruns" / run["run_id"] / "artifacts/model"
    assert model.stat().st_uid == os.getuid()
    assert list((clone.folder / "cache/work").iterdir()) == []
    # The key does not hold the engine.
    again = clone.doit("train", "project=placed", "engine=local", params)
    assert "train placed  up to date" in again or f"reused run {run['run_id']}" in again
    assert not (clone.folder / "projects/placed/written").exists()


def test_a_run_is_made_on_a_ray_cluster(clone: Clone) -> None:
    cluster = shared_cluster()
    output = clone.doit("train", "project=placed", "engine=ray", f"address={cluster.address}",
                        "params=note=far", "force=1")
    environment = next((cluster.nodes[0].cache / "envs").iterdir()).parent
    assert f"said 'far' 1,2 {environment}" in output
    run = clone.receipt("placed", "train")
    assert (run["status"], run["params"]["own"]) == ("FINISHED", "1")
    assert _tag(clone, run["run_id"], "mlflow.project.backend") == "ray"


@pytest.mark.parametrize(("engine", "first"), [("sandbox", 10), ("docker", 20), ("ray", 30)])
def test_a_sweep_runs_its_trials_there(
    clone: Clone, tmp_path: Path, engine: str, first: int
) -> None:
    address = []
    if engine == "docker":
        docker_client()
    elif engine == "ray":
        address = [f"address={shared_cluster().address}"]
    elif not _sandbox_works(tmp_path):
        lacking("no sandbox on this machine")
    (clone.folder / "projects/placed/sweep.yaml").write_text(
        "method: grid\nmetric: {name: loss}\nparallel: 2\nentry_point: measures\nparameters:\n"
        f"  x: {{values: [{first}, {first + 1}, {first + 2}]}}\n")
    output = clone.doit("sweep", "project=placed", f"engine={engine}", *address)
    assert re.search(r"^placed +\d+ +\d+ +0 +0 +0 ", output, re.MULTILINE), output
    with sqlite3.connect(clone.folder / "mlflow.db") as connection:
        found = connection.execute(
            "select count(*) from runs r join tags t on t.run_uuid = r.run_uuid join "
            "latest_metrics m on m.run_uuid = r.run_uuid where t.key='mlflow.project.backend' "
            "and t.value=? and r.status='FINISHED' and m.value between ? and ?",
            (engine, first, first + 2)).fetchone()
    assert found == (3,)


def test_a_failure_says_what_it_was(clone: Clone, engine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doit", "train", "project=placed", f"engine={engine}",
         "entry_point=fails", "force=1"], cwd=clone.folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1", "CI": "1"})
    assert done.returncode
    assert "entry point 'fails' exited with status 7" in done.stdout
    assert "Traceback" not in done.stdout


def test_layers_of_a_registry_alone_are_fetched(clone: Clone, tmp_path: Path) -> None:
    """What the store has lost comes from where the image was pushed."""
    if not _sandbox_works(tmp_path):
        lacking("no sandbox on this machine")
    for layer in clone.receipt("placed", "base")["layers"]:
        (clone.folder / "cache/blobs/sha256" / Digest.parse(layer["digest"]).hex).unlink()
    subprocess.run(["rm", "-rf", "cache/roots", "cache/layers"], cwd=clone.folder, check=True)
    output = clone.doit("train", "project=placed", "engine=sandbox", "force=1")
    assert "said 'none' 1,2" in output


def _tag(clone: Clone, run_id: str, name: str) -> str:
    with sqlite3.connect(clone.folder / "mlflow.db") as connection:
        rows = connection.execute("select value from tags where run_uuid=? and key=?",
                                  (run_id, name)).fetchall()
    value: str = rows[0][0]
    return value

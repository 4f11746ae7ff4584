"""A project whose trials cost almost nothing: its script logs by sqlite alone, without mlflow."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from tests.support.monorepo import Monorepo

MLPROJECT = """\
name: {name}
entry_points:
  main:
    parameters:
      x: {{type: float, default: 1}}
      kind: {{type: string, default: plain}}
      wait: {{type: float, default: 0}}
    command: python train.py {{x}} {{kind}} {{wait}}
  reads:
    parameters:
      x: {{type: float, default: 1}}
      rows: path
    command: python train.py {{x}} {{rows}} 0
"""
# What `mlflow.log_metric` writes, without a second of importing it.
TRAIN = '''\
import os, sqlite3, sys, time
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
run = os.environ["MLFLOW_RUN_ID"]
x, kind, wait = float(sys.argv[1]), sys.argv[2], float(sys.argv[3])


def log(name, value, step=0):
    connection = sqlite3.connect(database, timeout=60)
    with connection:
        now = int(time.time() * 1000)
        nan = value != value
        row = (name, 0.0 if nan else value, now, run, step, nan)
        connection.execute("insert or replace into metrics (key, value, timestamp, run_uuid, step,"
                           " is_nan) values (?,?,?,?,?,?)", row)
        connection.execute("insert or replace into latest_metrics (key, value, timestamp, "
                           "run_uuid, step, is_nan) values (?,?,?,?,?,?)", row)
    connection.close()


print("trial of", x, kind, flush=True)
with open(os.path.join(os.path.dirname(database), "begun.txt"), "a") as witness:
    witness.write(f"{x} {kind}\\n")
if kind.endswith("edited.csv"):
    with open(kind, "a") as rows:
        rows.write("more")
if kind == "fails":
    print("the reason is in the log", flush=True)
    sys.exit(3)
if kind == "steps":
    for step in range(int(wait)):
        log("loss", (x - 2) ** 2 + 1 / (step + 1), step)
        time.sleep(0.25)
else:
    time.sleep(wait)
    infinite = 1.7976931348623157e308  # as MLflow writes it
    log("loss", {"nan": float("nan"), "inf": infinite}.get(kind, (x - 2) ** 2))
with open(os.path.join(os.path.dirname(database), "ended.txt"), "a") as witness:
    witness.write(f"{x} {kind}\\n")
'''


def add(repo: Monorepo, name: str, sweep: str, *, train: str = TRAIN) -> Path:
    """A project with that sweep.yaml."""
    return repo.add(name, requirements="", mlproject=MLPROJECT.format(name=name),
                    files={"train.py": train, "sweep.yaml": sweep})


def lines(repo: Monorepo, name: str) -> list[str]:
    """What trials have written to a witness: `begun` or `ended`."""
    path = repo.folder / f"{name}.txt"
    return path.read_text().splitlines() if path.exists() else []


def rows(repo: Monorepo, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(repo.database, timeout=60)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def tags(repo: Monorepo, run_id: str) -> dict[str, str]:
    return dict(rows(repo, "select key, value from tags where run_uuid=?", run_id))


def parents(repo: Monorepo) -> list[tuple[str, str]]:
    """(run id, status) of every sweep's parent run."""
    return [(run_id, status) for run_id, status in rows(
        repo, "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
              "where t.key = 'toolchain.sweep' order by r.start_time")]


def children(repo: Monorepo, parent: str) -> dict[str, str]:
    """run id -> status of a parent's trials, in order."""
    return dict(rows(
        repo, "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
              "where t.key = 'mlflow.parentRunId' and t.value = ? order by r.start_time", parent))

"""The engine `ray` beside bare Ray tasks: the same script, the same cluster, in turns.

    python -m benchmarks.ray_tasks [--trials N] [--write]

Needs `ray`. A bare task runs the script by bash in an
environment that is there; the engine's trial is all that the engine does: environment and project
layer looked up, private copy, output, supervision.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import options, table, timing
from benchmarks.timing import Times, say
from tests.support.engines import Bench
from tests.support.ray_cluster import Nodes, running_cluster
from toolchain.layer.archive import Entry

ROUNDS = 5
_AT_ONCE = 4
# Three metrics, as an entry point logs them: a few writes into the tracking database.
_SCRIPT = b'''
import os, sqlite3
with sqlite3.connect(os.environ["DATABASE"], timeout=60) as connection:
    for step in range(3):
        connection.execute("insert into metrics values (?, ?, ?)", ("loss", 1 / (step + 1), step))
print("logged")
'''


def measure(folder: Path, cluster: Nodes, trials: int) -> list[table.Row]:
    import ray

    bench = Bench(folder)
    project = bench.layer("trial", Entry(path="project/train.py", mode=0o644, data=_SCRIPT))
    bench.project = project
    engine = bench.ray(cluster.address)
    database = folder / "metrics.db"
    environment = {"DATABASE": str(database)}
    with sqlite3.connect(database) as connection:
        connection.execute("create table metrics (key text, value real, step int)")
    jobs = [bench.job("python train.py", project=project, environment=environment)
            for _ in range(trials)]
    engine.prepare(jobs[0])
    copy = folder / "project"
    copy.mkdir()
    (copy / "train.py").write_bytes(_SCRIPT)
    python = next(cluster.nodes[0].cache.glob("envs/*/bin"))

    def task() -> str:
        done = subprocess.run(
            ["bash", "-c", "python train.py"], cwd=copy, check=True, capture_output=True, text=True,
            env={**os.environ, **environment, "PATH": f"{python}:{os.environ['PATH']}"})
        return done.stdout

    remote = ray.remote(max_retries=0)(task)

    def bare() -> None:
        waiting: list[Any] = [remote.remote() for _ in jobs]
        assert ray.get(waiting) == ["logged\n"] * trials

    def ours() -> None:
        with contextlib.redirect_stdout(io.StringIO()), ThreadPoolExecutor(2 * _AT_ONCE) as pool:
            assert [done.code for done in pool.map(engine.execute, jobs)] == [0] * trials

    times = [Times(), Times()]
    for round_number in range(ROUNDS + 1):
        say(f"round {round_number} of {ROUNDS}")
        for work, taken in zip((bare, ours), times, strict=True):
            seconds = _timed(work) / trials
            if round_number:  # the first one starts Ray's workers
                taken.seconds.append(seconds)
    what = f"{trials} trials, {_AT_ONCE} at once: time per trial"
    return [table.Row(what=f"bare Ray tasks, {what}", times=times[0], baseline=times[0]),
            table.Row(what=f"`engine=ray`, {what}", times=times[1], baseline=times[0],
                      most_times=2)]


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--trials", type=int, default=40, help="in each round (default 40)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_cluster(_AT_ONCE) as cluster:
        rows = measure(Path(name), cluster, given.trials)
    facts = f"{timing.machine()}, ray {version('ray')}"
    text = table.markdown(rows, "its baseline", facts)
    options.finish(given, "ray", text)


if __name__ == "__main__":
    main()

"""What a trial costs beyond its training script, and whether that grows with a thousand trials, as
may what it costs to look at them.

    python -m benchmarks.sweep [--trials 100] [--long 1000] [--write]

Needs a Debian mirror for the image. Everything is done in a temporary folder. The script under
test logs three metrics into the sqlite store, without importing mlflow, which would drown what is
measured. Its own time is taken around it in the same trial, by the shell of the entry point.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.timing import Times, doit, expect, say
from benchmarks.workspace import copy_settings

PROJECT = "trials"
_FEW = 10  # trials of a short sweep
_MLPROJECT = """\
name: trials
python_env: python_env.yaml
entry_points:
  main:
    parameters:
      x: {type: float, default: 1}
    command: |
      S=$EPOCHREALTIME; python train.py {x}; E=$?; echo "script $S $EPOCHREALTIME"; exit $E
"""
_TRAIN = '''\
import os, sqlite3, sys, time
connection = sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"),
                             timeout=60)
x, now = float(sys.argv[1]), int(time.time() * 1000)
with connection:
    for name, value in (("loss", (x - 2) ** 2), ("mae", abs(x - 2)), ("r2", 1 - abs(x - 2))):
        row = (name, value, now, os.environ["MLFLOW_RUN_ID"], 0, False)
        for place in ("metrics", "latest_metrics"):
            connection.execute(f"insert into {place} (key, value, timestamp, run_uuid, step, "
                               "is_nan) values (?,?,?,?,?,?)", row)
'''
_SWEEP = "method: {}\nmetric: {{name: loss}}\nparameters:\n  x: {{min: 0.0, max: 4.0}}\n"


@dataclass(slots=True)
class Trials:
    """One sweep: each trial's time beyond its script, the script's own, and the memory of doit."""

    beyond: Times = field(default_factory=Times)
    script: Times = field(default_factory=Times)
    memory: list[int] = field(default_factory=list)  # bytes, after each trial


def workspace(folder: Path) -> Path:
    """A workspace with one project, whose image is pushed."""
    project = folder / "projects" / PROJECT
    project.mkdir(parents=True)
    copy_settings(folder)
    (project / "MLproject").write_text(_MLPROJECT)
    (project / "python_env.yaml").write_text('python: "3.11"\ndependencies: []\n')
    (project / "train.py").write_text(_TRAIN)
    doit(folder, "push", f"project={PROJECT}").run()
    return folder


def sweep(folder: Path, engine: str, method: str, count: int) -> Trials:
    """Run so many new trials, one at a time, and read what is said as it comes."""
    say(f"{count} trials, {method}, engine {engine}")
    (folder / "projects" / PROJECT / "sweep.yaml").write_text(_SWEEP.format(method))
    command = doit(folder, "sweep", f"project={PROJECT}", f"trials={count}", f"engine={engine}")
    process = subprocess.Popen(
        command.arguments, cwd=folder, text=True, env=timing.clean_environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    found, lines, before, own = Trials(), [], 0.0, 0.0
    for line in process.stdout:
        lines.append(line)
        if told := re.search(r" \| script ([\d.]+) ([\d.]+)$", line):
            own = float(told[2]) - float(told[1])
        elif line.startswith(f"sweep {PROJECT}  trial"):
            now = time.time()
            if before:  # the first pays for imports and the environment
                found.beyond.seconds.append(now - before - own)
                found.script.seconds.append(own)
            found.memory.append(_memory(process.pid))
            before = now
    output = "".join(lines)
    if process.wait():
        raise SystemExit(f"exit {process.returncode}\n{output}")
    expect(output, f"({count} of {count})")
    return found


def _memory(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, count: int, long: int) -> tuple[list[table.Row], str]:
    rows = []
    for engine in ("local", "sandbox"):
        for method in ("random", "bayes"):
            with tempfile.TemporaryDirectory(dir=folder) as name:
                done = sweep(workspace(Path(name)), engine, method, count)
            rows.append(_row(f"{engine}, `{method}`, {count} trials", done, slice(None)))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        done = sweep(workspace(Path(name)), "local", "random", long)
        with tempfile.TemporaryDirectory(dir=folder) as short:
            sweep(workspace(Path(short)), "local", "random", _FEW)
            listed = listing(Path(name), Path(short), long)
    rows += [_row(f"local, `random`, the first 100 of {long:,}", done, slice(100)),
             _row(f"local, `random`, the last 100 of {long:,}", done, slice(-100, None))]
    at = [done.memory[number] / 2**20 for number in (99, -1)]
    memory = (f"Memory of `doit sweep` after 100 trials: {at[0]:.0f} MiB, after {long:,}: "
              f"{at[1]:.0f} MiB.")
    return rows, f"{memory}\n\n{table.markdown(listed, f'{_FEW} trials', '').rstrip()}\n\n"


def listing(folder: Path, short: Path, count: int) -> list[table.Row]:
    """What it costs to look at so many finished trials, to that of a few: whole calls."""
    say(f"{count} finished trials, looked at")
    rows = []
    for what, words in (("`doit sweep`, nothing to do", ("sweep", f"project={PROJECT}")),
                        ("`doit best`", ("best", f"project={PROJECT}"))):
        few, many = timing.in_turns(
            [doit(place, *words, "engine=local", *([f"trials={trials}"] * (words[0] == "sweep")))
             for place, trials in ((short, _FEW), (folder, count))], 3)
        rows.append(table.Row(what=f"{what}, {count:,} trials", times=many, baseline=few,
                              most_times=1.5))
    return rows


def _row(what: str, done: Trials, part: slice) -> table.Row:
    return table.Row(what=what, times=Times(done.beyond.seconds[part]),
                     baseline=Times(done.script.seconds[part]), most_seconds=0.05)


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--trials", type=int, default=100, help="of each sweep (default 100)")
    parser.add_argument("--long", type=int, default=1000, help="of the long one (default 1000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        rows, memory = measure(Path(name), given.trials, given.long)
    text = table.markdown(rows, "the script", timing.machine())
    head, _, facts = text.rpartition("\n\n")
    text = f"{head}\n\n{memory}{facts}"
    options.finish(given, "sweep", text)


if __name__ == "__main__":
    main()

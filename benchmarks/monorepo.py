"""A monorepo's speed: nothing to do for a thousand projects, and for one among them.

    python -m benchmarks.monorepo [--projects N] [--keep FOLDER] [--write]

Every stage of every project is really brought up to date first (images in an OCI layout, runs and
model versions in MLflow), which takes minutes; `--keep` leaves the trees for the next time. The
projects need no packages and train with a shell script, so that only a Debian mirror and an index
that has doit are needed. Beside it stand a plain doit file and a Makefile of the same shape: a
chain of seven tasks from a source file, each with the target before it as its input.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.timing import GRAIN, Command, doit, expect, say
from benchmarks.workspace import copy_settings, python_with_doit_alone

STAGES = ("parse", "resolve", "base", "layer", "push", "train", "register")
RUNS = 9

_MLPROJECT = """\
name: {name}
entry_points:
  main:
    parameters:
      rate: {{type: float, default: 0.5}}
    command: sh train.sh {{rate}}
"""
# Leaves a model where MLflow looks for the run's artifacts.
_TRAIN = """\
root=${MLFLOW_TRACKING_URI#sqlite:///}
model=${root%/*}/mlruns/$MLFLOW_RUN_ID/artifacts/model
mkdir -p "$model" && echo 'flavors: {}' > "$model/MLmodel"
"""
_DODO = """\
from shutil import copyfile

STAGES = {stages!r}
PROJECTS = {names!r}


def tasks(stage):
    before = STAGES.index(stage) - 1
    for name in PROJECTS:
        source = f'out/{{name}}.{{STAGES[before]}}' if before >= 0 else f'sources/{{name}}'
        target = f'out/{{name}}.{{stage}}'
        yield {{'name': name, 'actions': [(copyfile, [source, target])],
               'file_dep': [source], 'targets': [target]}}


"""


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def write_monorepo(folder: Path, projects: Sequence[str]) -> None:
    """A workspace with those projects; what is there already is left alone."""
    for name in projects:
        project = folder / "projects" / name
        if not project.exists():
            project.mkdir(parents=True)
            (project / "MLproject").write_text(_MLPROJECT.format(name=name))
            (project / "requirements.txt").write_text("")
            (project / "train.sh").write_text(f"# {name}\n{_TRAIN}")
    copy_settings(folder)


def write_plain(folder: Path, projects: Sequence[str]) -> None:
    """A dodo.py and a Makefile of the same shape, and their source files."""
    for sub in ("sources", "out", "made"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for name in projects:
        if not (folder / "sources" / name).exists():
            (folder / "sources" / name).write_text(f"{name}\n")
    (folder / "dodo.py").write_text(
        _DODO.format(stages=STAGES, names=list(projects))
        + "\n\n".join(f"def task_{stage}():\n    yield from tasks('{stage}')\n"
                      for stage in STAGES))
    rules = [".PHONY: register", f"register: {' '.join(f'made/{n}.register' for n in projects)}"]
    for name in projects:
        source = f"sources/{name}"
        for stage in STAGES:
            rules.append(f"made/{name}.{stage}: {source}\n\t@cp $< $@")
            source = f"made/{name}.{stage}"
    (folder / "Makefile").write_text("\n".join(rules) + "\n")


def settle(command: Command, lines: Mapping[str, int]) -> None:
    """Bring everything up to date, then see that nothing is left to do."""
    command.run()
    time.sleep(GRAIN)
    command.run()
    _, output = command.run()
    for text, count in lines.items():
        if output.count(text) != count:
            expect(output, f"{count} times {text!r}")


def measure(folder: Path, count: int) -> list[table.Row]:
    projects = names(count)
    chosen = projects[len(projects) // 2]
    many, one, plain = folder / "many", folder / "one", folder / "plain"
    write_monorepo(many, projects)
    write_monorepo(one, [chosen])
    write_plain(plain, projects)
    bare = doit(plain, "register", python=python_with_doit_alone(folder / "doit"))
    ours = doit(many, "register")
    say(f"bringing {7 * count} tasks up to date (minutes, if not kept from an earlier run)")
    settle(bare, {"-- ": 7 * count})
    settle(ours, {"  up to date\n": 7 * count})
    settle(doit(one, "register"), {"  up to date\n": 7})
    rows = _all(bare, ours, plain, f"{7 * count:,} tasks")
    among, alone = (doit(where, "train", f"project={chosen}") for where in (many, one))
    settle(among, {"  up to date\n": 6})
    settle(alone, {"  up to date\n": 6})
    say("one project")
    one_alone, one_among = timing.in_turns((alone, among), 2 * RUNS + 3)
    return [
        *rows,
        table.Row(what="`doit train` of one project in a monorepo of one", times=one_alone,
                  baseline=one_alone),
        table.Row(what=f"`doit train` of one project in a monorepo of {count:,}",
                  times=one_among, baseline=one_alone),
    ]


def _all(bare: Command, ours: Command, plain: Path, size: str) -> list[table.Row]:
    """Nothing to do for all projects: a plain doit file (the baseline), this package, make."""
    make = Command(arguments=("make", "register"), folder=plain)
    has_make = shutil.which("make") is not None
    if has_make:
        make.run()
        expect(make.run()[1], "Nothing to be done")
    say(f"every project, {RUNS} times each")
    baseline, all_ours, *rest = timing.in_turns([bare, ours, *([make] if has_make else [])], RUNS)
    return [
        table.Row(what=f"plain doit file, {size}", times=baseline, baseline=baseline),
        table.Row(what=f"`doit register` of every project, {size}", times=all_ours,
                  baseline=baseline, most_times=1.5),
        *(table.Row(what=f"make, {size}", times=times, baseline=baseline) for times in rest),
    ]


def main() -> None:
    parser = options.parser(__doc__, keeps=True)
    parser.add_argument("--projects", type=int, default=1000, help="how many (default 1000)")
    given = parser.parse_args()
    with options.folders(given) as (_, kept):
        folder = kept / f"monorepo-{given.projects}"
        folder.mkdir(parents=True, exist_ok=True)
        text = table.markdown(measure(folder, given.projects), "its baseline", timing.machine())
    options.finish(given, "monorepo", text)


if __name__ == "__main__":
    main()

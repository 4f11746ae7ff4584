"""How long it takes to find the projects of a monorepo, and to read what they are.

    python -m benchmarks.scan [--projects 1000] [--write]

Whole processes are timed, from Python's start on. Cold: with no record of the projects. Again: with
the record that the run before left.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.timing import GRAIN, Command, Times, say

RUNS = 9
_MLPROJECT = """\
name: project-{number}
python_env: python_env.yaml
entry_points:
  main:
    description: trains a model
    parameters:
      alpha: {{type: float, default: 0.5, description: mixing weight}}
      l1_ratio: {{type: float, default: 0.1}}
      epochs: {{type: int, default: 10}}
      data: {{type: path, default: data.csv}}
    command: python train.py {{alpha}} {{l1_ratio}} --epochs {{epochs}} --data {{data}}
  validate:
    parameters: {{model: uri}}
    command: python validate.py {{model}}
"""
_ENVIRONMENT = "python: '3.11'\ndependencies: [mlflow, scikit-learn==1.5.2, pandas>=2, -r r.txt]\n"


def make(root: Path, number: int) -> None:
    """Projects in folders of a hundred, with a few files each."""
    for index in range(number):
        folder = root / f"projects/team-{index // 100}/project-{index}"
        (folder / "package").mkdir(parents=True)
        (folder / "MLproject").write_text(_MLPROJECT.format(number=index))
        (folder / "python_env.yaml").write_text(_ENVIRONMENT)
        (folder / "r.txt").write_text("numpy<3\n")
        for name in ("train.py", "validate.py", "package/__init__.py", "data.csv"):
            (folder / name).write_text("# nothing\n")


def load(root: Path) -> int:
    """The same files read by PyYAML alone."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    paths = [*root.glob("projects/*/*/MLproject"), *root.glob("projects/*/*/python_env.yaml")]
    for path in paths:
        yaml.load(path.read_bytes(), loader)
    return len(paths) // 2


def find(root: Path) -> int:
    """Find the projects."""
    from toolchain.journal import Journal
    from toolchain.scan import scan

    return len(scan(root, "projects", "cache", Journal(root / "cache")).projects)


def read(root: Path) -> int:
    """Find the projects, and parse each."""
    from toolchain.journal import Journal
    from toolchain.scan import scan
    from toolchain.spec.mlproject import parse
    from toolchain.spec.reader import TreeReader
    from toolchain.tree import Tree

    journal = Journal(root / "cache")
    found = scan(root, "projects", "cache", journal).projects
    for project in found.values():
        tree = Tree(root / project.folder, journal)
        parse(project.mlproject, project.name, TreeReader(tree, root), "3.11", lambda _: None)
    return len(found)


_PARTS: dict[str, Callable[[Path], int]] = {"load": load, "find": find, "read": read}


def measure(root: Path, number: int) -> list[table.Row]:
    """Each in turn; what is cold begins without the cache, and `again` with what `find` left."""
    times = {name: Times() for name in ("load", "read", "find", "again")}
    for run in range(RUNS + 1):
        for name, taken in times.items():
            if name in ("read", "find"):
                shutil.rmtree(root / "cache", ignore_errors=True)
            seconds, said = Command(
                arguments=(sys.executable, "-m", "benchmarks.scan", "--part",
                           "find" if name == "again" else name, "--folder", str(root)),
                folder=Path.cwd()).run()
            timing.expect(said, f"{number} projects")
            if run:
                taken.seconds.append(seconds)
        say(f"run {run} of {RUNS}")
    rows = (("load", f"PyYAML alone, the same {2 * number:,} files", None),
            ("read", f"{number:,} projects found and parsed, cold", 2.0),
            ("find", "of that: found", None),
            ("again", "found again, with the record of the last time", 0.2))
    return [table.Row(what=what, times=times[name], baseline=times["load"], most_seconds=most)
            for name, what, most in rows]


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--part", choices=_PARTS, help="one part alone, to be timed from outside")
    parser.add_argument("--folder", type=Path, help="the monorepo of that part")
    given = parser.parse_args()
    if given.part:
        print(f"{_PARTS[given.part](given.folder)} projects")
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        say(f"preparing: {given.projects} projects")
        make(folder, given.projects)
        time.sleep(GRAIN)  # times of files are not believed before that, and nothing is recorded
        rows = measure(folder, given.projects)
    options.finish(given, "scan", table.markdown(rows, "PyYAML", timing.machine()))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.scan [N]`: how long it takes to find and read N projects (1,000).

cold: found and parsed with no record of them; cached: found with a record. Each is the best of
several, in this process; starting Python and doit is measured by benchmarks.spine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from toolchain.journal import Journal
from toolchain.scan import scan
from toolchain.spec.mlproject import parse
from toolchain.spec.reader import TreeReader
from toolchain.tree import Tree

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
_BEST_OF = 3


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


def cold(root: Path) -> tuple[float, float]:
    """Seconds for finding all, and for parsing all after that."""
    shutil.rmtree(root / "cache", ignore_errors=True)
    started = time.perf_counter()
    journal = Journal(root / "cache")
    found = scan(root, "projects", "cache", journal).projects
    between = time.perf_counter()
    for project in found.values():
        tree = Tree(root / project.folder, journal)
        parse(project.mlproject, project.name, TreeReader(tree, root), "3.11", lambda _: None)
    return between - started, time.perf_counter() - between


def cached(root: Path) -> float:
    """Seconds for finding all again."""
    started = time.perf_counter()
    scan(root, "projects", "cache", Journal(root / "cache"))
    return time.perf_counter() - started


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, number)
        time.sleep(2.1)  # beyond the grain of file times (toolchain.tree), or nothing is recorded
        find, read = min((cold(root) for _ in range(_BEST_OF)), key=sum)
        again = min(cached(root) for _ in range(_BEST_OF))
    print(f"{number} projects: found in {find:.2f} s and parsed in {read:.2f} s, cold; "
          f"found again in {again:.3f} s")


if __name__ == "__main__":
    main()

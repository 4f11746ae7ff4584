"""The runner needs nothing but Python's standard library, and is quick to start."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runner import Rootfs, environment, spec
from toolchain.layer import runner

# mlflow is imported by the process that talks to it, and only if the image has it.
_OTHERS = {"toolchain", "mlflow"}


def test_only_the_standard_library_is_imported() -> None:
    for name, data in runner.files().items():
        for node in ast.walk(ast.parse(data)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            for module in modules:
                top = module.split(".")[0]
                assert top in sys.stdlib_module_names | _OTHERS, f"{name}: {module}"
                if top == "toolchain":
                    path = module.replace(".", "/")
                    assert {f"{path}.py", f"{path}/__init__.py"} & set(runner.files()), module
                assert top != "mlflow" or name.endswith("tracker.py")


def _modules(rootfs: Rootfs, *arguments: str) -> set[str]:
    """What is imported for a call, by the interpreter's own account."""
    command = rootfs.command(*arguments)
    done = subprocess.run([command[0], "-X", "importtime", *command[1:]], capture_output=True,
                          text=True, env=environment({}), stdin=subprocess.DEVNULL)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
            if line.startswith("import time:")}


def test_nothing_large_is_imported(tmp_path: Path) -> None:
    rootfs = Rootfs(tmp_path / "root", spec(main="true"))
    imported = _modules(rootfs, "--help")
    assert "toolchain.spec.command" in imported
    assert not imported & {"subprocess", "argparse", "threading", "asyncio", "urllib.request",
                           "mlflow", "site", "tempfile", "logging", "difflib"}
    plain = _modules(rootfs, "true")
    assert "toolchain.runner.plain" in plain
    assert not plain & {"re", "json", "typing", "dataclasses", "toolchain.spec",
                        "toolchain.errors"}


def _best(command: list[str]) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_starting_costs_little_more_than_python(tmp_path: Path) -> None:
    rootfs = Rootfs(tmp_path / "root", spec(main="true"))
    bare = _best([sys.executable, "-IS", "-c", "pass"])
    # Other work on the machine makes all of them slower.
    assert _best(rootfs.command("--help")) < 10 * bare
    assert _best(rootfs.command("true")) < 4 * bare


def _pythons() -> list[str]:
    """Interpreters of other versions that are on this machine."""
    import shutil

    versions = Path.home() / ".pyenv/versions"
    found = []
    for minor in range(9, 14):
        folders = sorted(versions.glob(f"3.{minor}.*/bin/python3"))
        path = str(folders[-1]) if folders else shutil.which(f"python3.{minor}")
        if path:
            found.append(path)
    return found


@pytest.mark.parametrize("python", _pythons())
def test_every_python_runs_it(python: str, tmp_path: Path) -> None:
    what = spec(main="printf '%s|' {rate} {note} {batch-size} \"$MLFLOW_RUN_ID\"; exit 7")
    rootfs = Rootfs(tmp_path / "root", what, python)
    # Bare interpreters have no mlflow: then there is no run, and the job is run all the same.
    done = rootfs.run("run", "note=two  words", expect=7,
                      mlflow_entrypoint_args="rate=1e-1,batch-size=4")
    assert done.stdout == "1e-1|two  words|4||"
    assert "the image has no mlflow" in done.stderr
    assert "exited with status 7" in done.stderr
    assert rootfs.run("sh", "-c", "echo plain; exit 3", expect=3).stdout == "plain\n"

"""The example with one requirement more, each in a copy with its own lock."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.timing import doit
from benchmarks.workspace import copy_example, wheels


def prepare(workspace: Path, example: str, requirements: Mapping[str, str], cache: Path) -> None:
    """Pin the variants: name -> the requirement that the example gets besides.

    Each has exactly one package that the example has not, be it new or of another version.
    """
    original = copy_example(workspace, example)
    for name, requirement in requirements.items():
        target = workspace / "projects" / name
        if not target.exists():
            shutil.copytree(original, target)
            mlproject = target / "MLproject"
            mlproject.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}",
                                        mlproject.read_text()))
            with (target / "requirements.txt").open("a") as file:
                file.write(f"{requirement}\n")
    doit(workspace, "resolve", f"cache={cache}").run()
    for name in requirements:
        changed = len(wheels(workspace / "projects" / name) - wheels(original))
        if changed != 1:
            raise SystemExit(f"{name} changes {changed} packages of the lock, not one")


def fetch(workspace: Path, names: Sequence[str], cache: Path) -> None:
    """Download every wheel of those projects."""
    doit(workspace, "base", f"cache={cache}", f"project={','.join(names)}").run()

"""The other versions of the official client that are said to work, against the same API double.

These need the network that `pip install` needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TESTS = ("tests/test_kubernetes.py", "tests/adapters/test_cluster_faults.py")


@pytest.mark.parametrize("version", ["35.0.0", "36.0.3"])
def test_an_older_client_does_as_well(version: str, tmp_path: Path) -> None:
    client = tmp_path / "client"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
                    client, f"kubernetes=={version}"], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(client), str(_ROOT)))}
    found = subprocess.run(
        [sys.executable, "-c", "import kubernetes; print(kubernetes.__version__)"],
        env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == f"{version}\n"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp",
         tmp_path / "tests", "-m", "not kubernetes", *_TESTS], cwd=_ROOT, env=environment,
        capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]

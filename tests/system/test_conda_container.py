"""A conda environment in a real container, on the real base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import conda
from tests.support.conda import PLACEHOLDER, File
from tests.support.services import docker_client
from tests.system.test_examples import Clone

_TRAIN = '''\
import os, subprocess, sys
import alpha, ssl, ctypes
print(sys.prefix, alpha.__file__, alpha.VERSION, os.environ["COLOUR"], os.environ["CONDA_PREFIX"])
print(subprocess.run(["alpha-say"], capture_output=True, text=True, check=True).stdout.strip())
print(subprocess.run(["tool"], capture_output=True, text=True, check=True).stdout.rstrip("\\0"))
'''


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    client = docker_client()
    clone = Clone(tmp_path_factory.mktemp("conda-container") / "clone")
    channel = clone.folder / "channel"
    conda.python(channel)
    conda.package(channel, "alpha", noarch="python", depends=["python"],
                  entry_points=["alpha-say = alpha:main"],
                  files={"site-packages/alpha.py":
                         b"VERSION = 1\ndef main():\n    print('alpha says')\n"})
    conda.package(channel, "tool", suffix=".tar.bz2", files={
        "bin/tool": File(f'#!/bin/sh\ncat "{PLACEHOLDER}/share/tool.bin"\n'.encode(),
                         executable=True, mode="text"),
        "share/tool.bin": File(PLACEHOLDER.encode() + b"\0", mode="binary")})
    conda.index(channel)
    folder = clone.folder / "projects/contained"
    folder.mkdir()
    (folder / "MLproject").write_text(
        "name: contained\nconda_env: conda.yaml\nentry_points:\n  main:\n"
        "    command: python train.py\n")
    (folder / "conda.yaml").write_text(
        "channels: [../../channel]\ndependencies: [alpha, tool]\nvariables: {COLOUR: green}\n")
    (folder / "train.py").write_text(_TRAIN)
    clone.doit("load", "project=contained")
    config = clone.receipt("contained", "push")["config"]
    yield client.images.get(config)
    client.images.remove(config, force=True)
    shutil.rmtree(clone.folder)


def _output(image: Any, *command: str) -> str:
    output: bytes = docker_client().containers.run(
        image, list(command) or None, network_mode="none", remove=True)
    return output.decode()


def test_the_entry_point_runs_with_condas_python(image: Any) -> None:
    assert _output(image).splitlines()[:3] == [
        "/opt/venv /opt/venv/lib/python3.11/site-packages/alpha.py 1 green /opt/venv",
        "alpha says", "/opt/venv"]


def test_there_is_no_other_python(image: Any) -> None:
    assert _output(image, "sh", "-c", "ls /usr/bin/python*; readlink -f $(which python)"
                   ).splitlines()[-1] == "/opt/venv/bin/python"


def test_the_modules_are_compiled(image: Any) -> None:
    """By the pinned interpreter of the same minor version, and conda's takes them."""
    said = _output(image, "sh", "-c", "python -v -c 'import alpha' 2>&1")
    assert ("code object from '/opt/venv/lib/python3.11/site-packages/__pycache__/"
            "alpha.cpython-311.pyc'") in said

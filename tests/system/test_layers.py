"""How layers are made, as a user sets it: compression, byte-code, what history says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.debs import Mirror, deb, default_packages, member
from tests.support.monorepo import Monorepo, ran
from tests.support.services import lacking

_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def _layout(repo: Monorepo) -> Path:
    return repo.folder / "cache/registry/mlflow/trainer"


def _json(repo: Monorepo, digest: str) -> Any:
    return json.loads((_layout(repo) / "blobs/sha256" / digest.removeprefix("sha256:"))
                      .read_bytes())


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        lacking(f"no {name} on this machine")
    return found


@pytest.fixture
def built(monorepo: Monorepo) -> Monorepo:
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.doit("push", "image.compression=zstd")
    return monorepo


def test_zstd_layers_are_pushed_as_such(built: Monorepo) -> None:
    pushed = built.receipt("one", "push")
    manifest = _json(built, pushed["digest"])
    assert {item["mediaType"] for item in manifest["layers"]} == {_ZSTD}


def test_skopeo_reads_and_unpacks_zstd_layers(built: Monorepo, tmp_path: Path) -> None:
    pushed = built.receipt("one", "push")
    source = f"oci:{_layout(built)}:{pushed['tag']}"
    shown = subprocess.run([_program("skopeo"), "inspect", source], capture_output=True, text=True)
    assert json.loads(shown.stdout)["Digest"] == pushed["digest"], shown.stderr
    folder = tmp_path / "plain"
    done = subprocess.run([_program("skopeo"), "--insecure-policy", "copy", "--dest-decompress",
                           source, f"dir:{folder}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = _json(built, _json(built, pushed["digest"])["config"]["digest"])
    diff_ids = config["rootfs"]["diff_ids"]
    assert len(diff_ids) >= 5
    for diff_id in diff_ids:
        name = diff_id.removeprefix("sha256:")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == name


def test_umoci_unpacks_gzip_layers(built: Monorepo, tmp_path: Path) -> None:
    built.doit("push")
    tag = built.receipt("one", "push")["tag"]
    done = subprocess.run([_program("umoci"), "unpack", "--rootless", "--image",
                           f"{_layout(built)}:{tag}", tmp_path / "bundle"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle/rootfs/opt/venv/lib/python3.11/site-packages/alpha.py").exists()


def test_training_unpacks_a_zstd_layer(built: Monorepo) -> None:
    assert "trained with" in built.doit("train", "image.compression=zstd")


def test_another_compression_makes_other_layers_and_the_first_are_found_again(
    built: Monorepo
) -> None:
    first = built.receipt("one", "push")
    stages = ran(built.doit("push"), "one")
    assert [stages[name] for name in ("parse", "resolve", "base", "layer", "push")] == [
        "fresh", "fresh", "made", "made", "made"]
    second = built.receipt("one", "push")
    assert (second["tag"] != first["tag"], second["digest"] != first["digest"]) == (True, True)
    assert ran(built.doit("push", "image.compression=zstd"), "one")["push"] == "reused"
    assert built.receipt("one", "push") == first


def test_an_unknown_compression(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "image.compression=gzpi", expect=1)
    assert "unknown compression 'gzpi' (did you mean 'gzip'?)" in output
    assert "at image.compression" in output


def test_history_names_every_package_with_its_version(built: Monorepo) -> None:
    manifest = _json(built, built.receipt("one", "push")["digest"])
    steps = [step["created_by"] for step in _json(built, manifest["config"]["digest"])["history"]]
    assert steps[-2:] == ["runner", "project files"]
    assert steps[0].startswith("debian bookworm: base-files 1.0-1, ")
    packages = sorted(word for step in steps[2:-2] for word in step.split(", "))
    assert packages == ["alpha 1.1", "beta 1.0", "gamma 1.0"]
    labels = [item["label"] for item in built.receipt("one", "base")["layers"]]
    assert labels == steps[:-1]


def test_a_base_without_a_compiler_says_so(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "image.bytecode=yes", expect=1)
    assert "the base has no python3.11-minimal to compile byte-code with" in output
    assert "image.bytecode=no" in output


@pytest.fixture
def foreign(tmp_path: Path, wheels: Path) -> Callable[[], Monorepo]:
    """A workspace whose base is pinned for arm64 and has, in name, an interpreter to compile."""
    def make() -> Monorepo:
        minimal = ("python3.11-minimal", "libpython3.11-minimal", "libexpat1", "zlib1g")
        mirror = Mirror(tmp_path / "mirror")
        mirror.publish({**default_packages(), **{name: deb(name) for name in minimal},
                        "python3": deb("python3", "3.11.2-1", depends=", ".join(minimal), members=[
                            member("./usr/bin/python3.11", b"#!/bin/sh\n", mode=0o755)])})
        repo = Monorepo(tmp_path / "workspace", mirror, wheels)
        repo.add("one")
        repo.doit("resolve")
        lock = repo.folder / "base.lock"
        lock.write_text(lock.read_text().replace("linux/amd64", "linux/arm64"))
        return repo

    return make


def _platforms(repo: Monorepo) -> list[str]:
    return [line.split('"')[1] for line in (repo.folder / "base.lock").read_text().splitlines()
            if line.startswith("platform = ")]


def test_for_another_platform_this_machines_interpreter_is_pinned_too(
    foreign: Callable[[], Monorepo]
) -> None:
    repo = foreign()
    if os.uname().machine != "x86_64":
        lacking("this machine is not one that arm64 is foreign to")
    repo.doit("resolve", "image.platform=linux/arm64")
    assert _platforms(repo) == ["linux/arm64"]
    repo.doit("resolve", "image.platform=linux/arm64", "image.bytecode=yes")
    assert _platforms(repo) == ["linux/amd64", "linux/arm64"]
    lock = repo.folder / "base.lock"
    lock.write_text(lock.read_text().replace(
        'name = "python3.11-minimal", version = "1.0-1"',
        'name = "python3.11-minimal", version = "1.0-2"', 1))
    output = repo.doit("push", "image.platform=linux/arm64", "image.bytecode=yes", expect=1)
    assert "byte-code of cpython 1.0-1" in output
    assert "linux/amd64, base.lock pins cpython 1.0-2" in output
    assert "image.bytecode=no" in output
    assert "push one  sent" in repo.doit("push", "image.platform=linux/arm64")

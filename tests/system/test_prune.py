"""`doit prune` as a user runs it: what is needed stays, what is not goes, whenever it is killed."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.monorepo import Monorepo, ran
from toolchain.digest import Digest

_FRESH = {"fresh"}


@pytest.fixture
def repo(monorepo: Monorepo) -> Monorepo:
    """Two projects with results of an earlier state beside those of now."""
    monorepo.add("one", requirements="alpha\nbeta\n")
    monorepo.add("two", requirements="alpha\n")
    monorepo.doit("register")
    with (monorepo.folder / "projects/one/train.py").open("a") as stream:
        stream.write("# another state\n")
    monorepo.doit("register")
    return monorepo


def _blobs(repo: Monorepo) -> set[str]:
    return {path.name for path in (repo.folder / "cache/blobs/sha256").iterdir()}


def _layout(repo: Monorepo) -> Path:
    return repo.folder / "cache/registry/mlflow/trainer"


def _entries(repo: Monorepo) -> list[Any]:
    entries: list[Any] = json.loads((_layout(repo) / "index.json").read_bytes())["manifests"]
    return entries


def _check_whole(repo: Monorepo) -> None:
    """Every blob that the layout names is there and right."""
    left = [item["digest"] for item in _entries(repo)]
    while left:
        digest = Digest.parse(left.pop())
        data = (_layout(repo) / "blobs/sha256" / digest.hex).read_bytes()
        assert Digest.of(data) == digest
        if data.startswith(b"{"):
            named = json.loads(data)
            left += [item["digest"] for item in (*named.get("manifests", ()),
                                                 *named.get("layers", ()))]
            left += [named["config"]["digest"]] if "schemaVersion" in named \
                and "config" in named else []


def _check_fresh(repo: Monorepo, *names: str) -> None:
    output = repo.doit("register")
    for name in names:
        assert set(ran(output, name).values()) == _FRESH


def test_what_is_needed_stays_and_the_rest_goes(repo: Monorepo) -> None:
    before, entries = _blobs(repo), _entries(repo)
    (old,) = [item for item in entries if not item["annotations"][
        "org.opencontainers.image.ref.name"].startswith("sha256-") and item["digest"] not in
        {repo.receipt(name, "push")["digest"] for name in ("one", "two")}]
    (repo.folder / "cache/blobs/sha256/tmp-begun").write_bytes(b"half")
    output = repo.doit("prune", "keep=0")
    assert "removed" in output
    after = _blobs(repo)
    assert after < before
    assert {layer["digest"].removeprefix("sha256:") for name in ("one", "two")
            for stage in ("base", "layer")
            for layer in repo.receipt(name, stage)["layers"]} <= after
    assert {package["sha256"] for name in ("one", "two")
            for package in repo.receipt(name, "resolve")["packages"]} <= after
    assert len(_entries(repo)) == 4  # two images, each with a list of what is attached to it
    assert not (_layout(repo) / "blobs/sha256" / old["digest"].removeprefix("sha256:")).exists()
    _check_whole(repo)
    _check_fresh(repo, "one", "two")
    assert "removed 0 files and folders" in repo.doit("prune")
    # The earlier state is made again, and its training is not.
    (repo.folder / "projects/one/train.py").write_text(
        (repo.folder / "projects/one/train.py").read_text().replace("# another state\n", ""))
    done = ran(repo.doit("register", "project=one"), "one")
    assert done["layer"] == "made"
    assert done["push"] == "made"
    assert done["train"] == "reused"


def test_what_was_used_lately_stays(repo: Monorepo) -> None:
    before, entries = _blobs(repo), _entries(repo)
    assert "removed 0 files and folders" in repo.doit("prune", "keep=1h")
    assert (_blobs(repo), _entries(repo)) == (before, entries)


def test_what_a_project_needed_goes_with_the_project(repo: Monorepo) -> None:
    layers = {layer["digest"].removeprefix("sha256:")
              for layer in repo.receipt("two", "layer")["layers"]}
    shutil.rmtree(repo.folder / "projects/two")
    repo.doit("prune", "keep=0")
    assert not layers & _blobs(repo)
    assert len(_entries(repo)) == 2
    _check_fresh(repo, "one")


def test_killed_at_any_moment_it_leaves_a_good_cache(repo: Monorepo) -> None:
    moments = random.Random(7)
    for _ in range(8):
        process = repo.start("prune", "keep=0")
        time.sleep(moments.uniform(0.1, 0.5))
        process.kill()
        process.communicate()
        _check_whole(repo)
    repo.doit("prune", "keep=0")
    _check_whole(repo)
    _check_fresh(repo, "one", "two")


def test_it_does_nothing_while_another_call_works(repo: Monorepo) -> None:
    folder = repo.add("long")
    (folder / "train.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    training = repo.start("train", "project=long")
    assert training.stdout is not None
    for line in training.stdout:
        if "begun" in line:
            break
    before = _blobs(repo)
    output = repo.doit("prune", "keep=0", expect=1)
    assert "another call works in this cache" in output
    assert "fix: " in output
    assert _blobs(repo) == before
    training.terminate()
    training.communicate()
    repo.doit("prune", "keep=0")


@pytest.mark.parametrize(("words", "said"), [
    (("prune", "push"), "prune removes things while nothing else is done"),
    (("prune", "keep=soon"), "seconds, or a time such as"),
])
def test_what_cannot_be_is_said(monorepo: Monorepo, words: tuple[str, ...], said: str) -> None:
    monorepo.add("one")
    output = monorepo.doit(*words, expect=3)
    assert said in output
    assert "fix: " in output

"""A user's mistakes: what, where, fix; a non-zero exit; no traceback; nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.debs import Mirror
from tests.support.monorepo import Monorepo, ran
from tests.support.services import lacking, need_root
from tests.support.wheels import wheel


def test_an_unknown_project_names_the_near_one(monorepo: Monorepo) -> None:
    monorepo.add("elasticnet")
    output = monorepo.doit("train", "project=elasticnat", expect=3)
    assert "no project named 'elasticnat' (did you mean 'elasticnet'?)" in output
    assert "fix:" in output


def test_an_unknown_setting_names_the_near_one(monorepo: Monorepo) -> None:
    monorepo.add("one")
    assert "did you mean 'registry'?" in monorepo.doit("registri=localhost:5000", expect=3)
    monorepo.settings('image.platfrom = "linux/amd64"')
    output = monorepo.doit("push", expect=3)
    assert "unknown setting 'image.platfrom' (did you mean 'image.platform'?)" in output
    assert "at pyproject.toml, [tool.toolchain]" in output


def test_two_projects_of_one_name_are_both_named(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.add("other", mlproject="name: one\nentry_points: {main: {command: 'true'}}\n")
    monorepo.add("third")
    output = monorepo.doit("push", expect=2)
    assert ran(output, "third")["push"] == "made"
    assert "two projects are named 'one'" in output
    assert "projects/one/MLproject and projects/other/MLproject" in output


def test_a_broken_project_stops_no_other(monorepo: Monorepo) -> None:
    """Neither bad YAML, nor a name that is no text, nor bad settings, nor a template."""
    monorepo.add("good")
    monorepo.add("yaml", mlproject="name: [\n")
    monorepo.add("settings", files={"pyproject.toml": "[tool.toolchain\n"})
    monorepo.add("{{cookiecutter.name}}", mlproject="name: {{cookiecutter.name}}\n")
    latin = monorepo.folder / "projects" / os.fsdecode(b"caf\xe9")
    latin.mkdir()
    (latin / "MLproject").write_text("name: latin\n")
    listed = monorepo.doit("list", "--all")
    for name in ("good", "yaml", "settings", "caf_xe9"):
        assert f"parse:{name}" in listed
    assert "note: projects/{{cookiecutter.name}} is a template" in listed
    output = monorepo.doit("push", expect=2)
    assert ran(output, "good")["push"] == "made"
    assert "not valid YAML" in output
    assert "projects/yaml/MLproject:2:1" in output
    assert "not UTF-8" in output
    assert "projects/caf\\xe9" in output
    assert "projects/settings/pyproject.toml" in output
    assert ran(monorepo.doit("push", "project=good"), "good")["push"] == "fresh"
    assert "not valid YAML" in monorepo.doit("parse", "project=yaml", expect=1)


def test_no_projects_folder(monorepo: Monorepo) -> None:
    shutil.rmtree(monorepo.folder / "projects")
    assert "the projects folder does not exist" in monorepo.doit("push", expect=3)


def test_a_layout_whose_index_is_damaged_or_gone(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    index = monorepo.folder / "cache/registry/mlflow/trainer/index.json"
    before = json.loads(index.read_bytes())
    index.write_text("{")
    # Something is to be written there.
    monorepo.add("two")
    output = monorepo.doit("push", expect=2)
    assert "not an image layout" in output
    index.unlink()
    monorepo.doit("push")
    names = [{item["digest"] for item in known["manifests"]}
             for known in (before, json.loads(index.read_bytes()))]
    assert names[0] <= names[1]


@pytest.mark.parametrize(("mlproject", "what", "where"), [
    ("", "the file is empty", "projects/one/MLproject"),
    ("name: [\n", "not valid YAML", "projects/one/MLproject:2:1"),
    ("- a\n", "MLproject is not a mapping", "projects/one/MLproject:1"),
    ("entry_points:\n  main: {parameters: {}}\n", "an entry point has no command",
     "projects/one/MLproject:2, entry_points.main"),
    ("entry_points:\n  main: {command: x, parameters: {a: {type: int, default: hello}}}\n",
     "parameter 'a' is int, not 'hello'", "entry_points.main.parameters.a"),
    ("docker_env: {volumes: []}\n", "docker_env names no image", "projects/one/MLproject:1"),
])
def test_a_wrong_mlproject(monorepo: Monorepo, mlproject: str, what: str, where: str) -> None:
    folder = monorepo.add("one", mlproject="x")
    (folder / "MLproject").write_text(mlproject)
    output = monorepo.doit("push", "project=one", expect=1)
    assert what in output
    assert where in output
    # Mended, it works.
    (folder / "MLproject").write_text("entry_points: {main: {command: 'true'}}\n")
    assert ran(monorepo.doit("push", "project=one"), "one")["push"] == "made"


def test_parameters_are_checked_before_anything_is_built(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("train", "project=one", "params=rate=fast", expect=1)
    assert "parameter 'rate' is float, not 'fast'" in output
    assert not (monorepo.folder / "cache/blobs").exists()
    output = monorepo.doit("train", "project=one", "entry_point=mian", expect=1)
    assert "no entry point 'mian' (did you mean 'main'?)" in output
    assert not (monorepo.folder / "cache/blobs").exists()
    output = monorepo.doit("push", "repository=Not/One", expect=1)
    assert "not a repository name: 'Not/One'" in output
    assert not (monorepo.folder / "cache/blobs").exists()
    output = monorepo.doit("train", "project=one", "params=rates=1")
    assert "declares no parameter 'rates' (did you mean 'rate'?)" in output


def test_a_path_that_no_file_system_could_have_is_none(monorepo: Monorepo) -> None:
    monorepo.add("one", mlproject="name: one\nentry_points:\n  main:\n    parameters:\n"
                                  "      rows: path\n    command: cat {rows}\n")
    output = monorepo.doit("train", "project=one", f"params=rows={'x' * 300}", expect=1)
    assert "parameter 'rows' names a path that does not exist" in output


def test_a_job_that_could_not_log_is_warned_of(monorepo: Monorepo, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("mlflow-skinny", "sqlalchemy", "alembic"):
        wheel(tmp_path / "more", name)
    monorepo.environment["UV_FIND_LINKS"] += f",{tmp_path}/more"
    folder = monorepo.add("one", requirements="mlflow-skinny\n")
    said = "warning: one: its mlflow-skinny cannot log to sqlite:, where runs go"
    assert said in monorepo.doit("train", "project=one")
    (folder / "requirements.txt").write_text("mlflow-skinny\nsqlalchemy\nalembic\n")
    assert said not in monorepo.doit("train", "project=one")


def test_a_requirement_that_cannot_be_met(monorepo: Monorepo) -> None:
    folder = monorepo.add("one", requirements="# needed\nbeta\n-r more.txt\n",
                          files={"more.txt": "\nalpha>=9\n"})
    output = monorepo.doit("push", expect=1)
    assert "the requirements cannot be met" in output
    assert "\n  at projects/one/more.txt:2 (requirements for Python " in output
    assert not (folder / "requirements.lock").exists()
    (folder / "requirements.txt").write_text("alpha\n")
    monorepo.doit("push")


def test_a_hash_mismatch_is_refused(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    monorepo.doit("resolve")
    lock = folder / "requirements.lock"
    text = lock.read_text()
    digest = text.split("--hash=sha256:")[1][:64]
    lock.write_text(text.replace(digest, "0" * 64))
    output = monorepo.doit("push", expect=1)
    assert "alpha" in output
    assert "fix:" in output
    lock.write_text(text)
    monorepo.doit("push")


def test_a_changed_wheel_is_refused(monorepo: Monorepo, tmp_path: Path) -> None:
    copy = tmp_path / "index"
    shutil.copytree(monorepo.wheels, copy)
    monorepo.environment["UV_FIND_LINKS"] = str(copy)
    monorepo.add("one")
    monorepo.doit("resolve")
    (copy / "alpha-1.1-py3-none-any.whl").write_bytes(b"something else")
    output = monorepo.doit("push", expect=1)
    assert "hash mismatch: alpha 1.1" in output


def test_no_network_and_no_mirror(monorepo: Monorepo) -> None:
    monorepo.add("one")
    settings = (monorepo.folder / "pyproject.toml").read_text()
    monorepo.settings('image.mirror = "http://127.0.0.1:9/debian"')
    output = monorepo.doit("push", expect=1)
    assert "cannot be fetched" in output
    assert "GET http://127.0.0.1:9/debian/dists/bookworm/InRelease" in output
    (monorepo.folder / "pyproject.toml").write_text(settings)
    del monorepo.environment["UV_NO_INDEX"], monorepo.environment["UV_OFFLINE"]
    monorepo.environment["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"
    (monorepo.folder / "projects/one/requirements.txt").write_text("epsilon\n")
    output = monorepo.doit("resolve", expect=1)
    assert "the package index cannot be reached" in output


def test_a_python_that_no_base_has(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "python=3.7", "image.hub=localhost:1", expect=1)
    assert "no embedded base has Python 3.7; it stands on python:3.7-slim" in output
    assert "Python 3.7 comes with the image python:3.7-slim, and the registry cannot be " in output
    assert "fix: ask for Python 3.11 or 3.13, which need no image; or check " in output


def test_a_pinned_package_that_the_mirror_lost(
    monorepo: Monorepo, tmp_path: Path
) -> None:
    own = Mirror(tmp_path / "own")
    own.publish()
    monorepo.settings(f'image.mirror = "{own.url}"', f'image.keyring = "{own.keyring}"')
    monorepo.add("one")
    monorepo.doit("resolve")
    shutil.rmtree(own.folder / "debian/pool")
    output = monorepo.doit("push", expect=1)
    assert "cannot be read" in output
    assert "upgrade=1" in output
    own.publish()
    monorepo.doit("push")
    # Once the layer is there, the mirror is not asked.
    shutil.rmtree(own.folder / "debian/pool")
    (monorepo.folder / "projects/one/train.py").write_text("print()\n")
    monorepo.doit("push")


def test_an_entry_point_that_fails(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    (folder / "train.py").write_text("print('before the end')\nraise SystemExit(7)\n")
    output = monorepo.doit("train", expect=1)
    assert "before the end" in output
    assert "entry point 'main' exited with status 7" in output
    assert not (monorepo.folder / "cache/out/one/train.json").exists()
    # Not remembered as done.
    assert "exited with status 7" in monorepo.doit("train", expect=1)


def test_a_model_that_was_never_logged(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    (folder / "train.py").write_text("print('no model')\n")
    output = monorepo.doit("register", expect=1)
    assert "the run logged no model" in output
    assert "log_model" in output


def test_an_unwritable_cache(monorepo: Monorepo) -> None:
    monorepo.add("one")
    (monorepo.folder / "cache").write_text("a file where a folder must be")
    output = monorepo.doit("push", expect=3)
    assert "the cache's journal" in output
    assert "make the cache folder writable" in output


def test_a_full_disk(monorepo: Monorepo) -> None:
    """A cache on a disk of 2 MiB: the layer does not fit; on a larger one the same call works."""
    need_root("mount a small disk")
    folder = monorepo.add("one", files={"big.bin": os.urandom(3 << 20).hex()})
    cache = monorepo.folder / "cache"
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", cache],
                             capture_output=True, text=True)
    if mounted.returncode:
        lacking(f"no mount here: {mounted.stderr.strip()}")
    try:
        output = monorepo.doit("push", expect=1)
        assert "No space left on device" in output
        assert "free some space" in output
        assert not (cache / "out/one/layer.json").exists()
        assert not list(cache.rglob("tmp-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", cache], check=True)
        assert ran(monorepo.doit("push"), "one")["push"] == "made"
    finally:
        subprocess.run(["umount", "-l", cache], check=True)
    assert (folder / "MLproject").exists()


def test_a_damaged_lock_and_a_damaged_journal(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    monorepo.doit("push")
    lock = folder / "requirements.lock"
    text = lock.read_text()
    lock.write_text(text.replace("alpha==1.1", "alpha 1.1"))
    output = monorepo.doit("push", expect=1)
    assert "not a pinned package" in output
    assert "projects/one/requirements.lock" in output
    lock.write_text(text)
    for path in (monorepo.folder / "cache").glob("state.db*"):
        path.unlink()
    (monorepo.folder / "cache/state.db").write_bytes(b"this is no database" * 100)
    output = monorepo.doit("push", expect=3)
    assert "delete it" in output
    (monorepo.folder / "cache/state.db").unlink()
    monorepo.doit("push")
    # The image was in the registry; now the wheels are needed, which are in the store.
    (monorepo.folder / "cache/state.db").unlink()
    assert ran(monorepo.doit("push", "image.compression=zstd"), "one")["base"] == "made"


def test_a_registry_that_is_not_there(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "registry=127.0.0.1:9", expect=1)
    assert "the registry cannot be reached" in output
    assert "at http://127.0.0.1:9" in output
    output = monorepo.doit("push", "registry=http://user:secret@host", expect=1)
    assert "secret" not in output
    assert ran(monorepo.doit("push"), "one")["push"] == "made"


def test_an_unknown_engine(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("train", "engine=lokal", expect=1)
    assert "unknown engine 'lokal' (did you mean 'local'?)" in output
    assert not (monorepo.folder / "cache/blobs").exists()


def test_a_base_image_that_cannot_be_reached(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "image.base=python:3.11-slim", "image.hub=localhost:1",
                           expect=1)
    assert "the registry cannot be reached" in output
    assert "fix: " in output
    assert ran(monorepo.doit("push"), "one")["push"] == "made"


def test_a_platform_that_this_machine_is_not(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("push", "image.platform=linux/riscv64", expect=1)
    assert "unknown platform 'linux/riscv64'" in output
    assert "fix: known: linux/amd64, linux/arm64" in output

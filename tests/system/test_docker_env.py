"""docker_env: the project's own image under it, its Python, and what is set for the run."""

from __future__ import annotations

import shutil
import tarfile

from tests.support.debs import Mirror, member
from tests.support.images import ImageLayout, debian, tar
from tests.support.monorepo import Monorepo, ran
from tests.support.pushed import Pushed
from tests.system.test_bases import base, set_base

__all__ = ["base"]

MLPROJECT = """\
name: one
docker_env:
  image: oci:base
  volumes: ["/data:/data"]
  environment: [["MODE", "a b && c"], "COPIED"]
entry_points:
  main: {command: 'python train.py "$MODE" "$COPIED"'}
"""


def test_the_image_is_the_base_and_its_packages_are_seen(
    monorepo: Monorepo, mirror: Mirror, base: ImageLayout
) -> None:
    folder = monorepo.add("one", mlproject=MLPROJECT, requirements="nothing-like-it\n")
    monorepo.doit("push")
    image, pinned = Pushed.of(monorepo, "one"), monorepo.receipt("one", "resolve")
    assert (pinned["base"]["image"], pinned["python"]) == ("oci:base", "3.11")
    assert pinned["packages"] == []
    files = image.files()
    assert files["opt/venv/bin/python"].linkname == "/usr/local/bin/python3.11"
    assert b"include-system-site-packages = true" in image.read("opt/venv/pyvenv.cfg")
    assert set(ran(monorepo.doit("push"), "one").values()) == {"fresh"}
    (folder / "MLproject").write_text(f"# a comment\n{MLPROJECT}")
    assert ran(monorepo.doit("push"), "one") == {
        "parse": "made", "resolve": "fresh", "base": "fresh", "layer": "fresh", "push": "fresh"}


def test_packages_of_an_environment_in_the_image_are_seen(
    monorepo: Monorepo, mirror: Mirror, base: ImageLayout
) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    for folder, link in (("app/.venv", "opt/venv/lib/python3.11/site-packages/_base_image.pth"),
                         ("opt/venv", "")):
        base.tag(base.manifest([*debian(), tar([
            member(f"{folder}/pyvenv.cfg", b"home = /usr/local/bin\n"),
            member(f"{folder}/bin/python3.11", kind=tarfile.SYMTYPE, link="python"),
        ])], environment=(f"PATH=/{folder}/bin:/usr/local/bin",)))
        monorepo.doit("push", "upgrade=1")
        image = Pushed.of(monorepo, "one")
        files = image.files()
        assert files["opt/venv/bin/python3.11"].linkname == "/usr/local/bin/python3.11"
        assert [path for path in files if path.endswith(".pth")] == [link] * bool(link)
        assert "opt/venv/.wh..wh..opq" not in files


def test_the_call_may_name_another_base(monorepo: Monorepo, mirror: Mirror,
                                        base: ImageLayout) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    set_base(monorepo, mirror, 'image.base = "oci:nowhere"')  # for all; docker_env is closer
    monorepo.doit("resolve")
    assert monorepo.receipt("one", "resolve")["base"]["image"] == "oci:base"
    monorepo.doit("resolve", "image.base=auto")
    assert monorepo.receipt("one", "resolve")["base"]["suite"] == "bookworm"


def test_the_first_python_on_the_path_is_the_images_own(monorepo: Monorepo, mirror: Mirror,
                                                        base: ImageLayout) -> None:
    base.tag(base.manifest(debian("3.10")[1:] + debian("3.10"), environment=(
        "PATH=/usr/local/bin:/usr/bin",)))
    monorepo.add("one", mlproject=MLPROJECT)
    monorepo.doit("base")
    assert monorepo.receipt("one", "resolve")["python"] == "3.10"
    base.tag(base.manifest(debian("3.8")))
    output = monorepo.doit("base", "upgrade=1", expect=1)
    assert "the image oci:base has Python 3.8 first on its PATH" in output
    assert "fix: " in output


def test_an_image_of_alpine_is_refused_by_its_place_in_mlproject(
    monorepo: Monorepo, mirror: Mirror, base: ImageLayout
) -> None:
    base.tag(base.manifest([tar([member("lib/ld-musl-x86_64.so.1", b"musl", mode=0o755),
                                 member("etc/os-release", b"ID=alpine\nVERSION_ID=3.20\n")])]))
    monorepo.add("one", mlproject=MLPROJECT)
    output = monorepo.doit("resolve", expect=1)
    assert "the base image has musl (Alpine), and wheels for Linux need glibc" in output
    assert "  at one: docker_env.image = oci:base\n" in output
    assert "  fix: name one that is based on Debian" in output
    assert "Traceback" not in output


def test_variables_are_set_for_the_run_and_copied_ones_are_on_no_record(
    monorepo: Monorepo, mirror: Mirror, base: ImageLayout
) -> None:
    monorepo.add("one", mlproject=MLPROJECT)
    monorepo.environment["COPIED"] = "a secret value"
    output = monorepo.doit("train")
    assert "trained with a b && c a secret value" in output
    assert "engine local mounts no volume: /data:/data" in output
    assert "engine local runs without the image oci:base" in output
    cache = monorepo.folder / "cache"
    shutil.rmtree(cache / "envs")
    held = [path for path in cache.rglob("*") if path.is_file()
            and b"a secret value" in path.read_bytes()]
    assert held == []
    assert monorepo.receipt("one", "parse")["docker"]["copied"] == ["COPIED"]
    del monorepo.environment["COPIED"]
    assert ran(monorepo.doit("train"), "one")["train"] == "fresh"

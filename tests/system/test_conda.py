"""doit on projects with conda packages, from a channel in the workspace."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import conda
from tests.support.conda import PLACEHOLDER, File
from tests.support.debs import Mirror, member
from tests.support.files import Server
from tests.support.images import ImageLayout, debian, tar
from tests.support.loopback import Loopback
from tests.support.monorepo import Monorepo, ran
from tests.support.pushed import Pushed
from tests.support.wheels import wheel
from tests.system.test_bases import set_base

TRAIN = '''\
import json, os, pathlib, subprocess, sys
import alpha, from_pip
root = pathlib.Path(os.environ["CONDA_PREFIX"])
assert pathlib.Path(alpha.__file__).is_relative_to(root), alpha.__file__
assert pathlib.Path(sys.prefix) == root, sys.prefix
said = subprocess.run(["alpha-say"], capture_output=True, text=True, check=True).stdout
tool = subprocess.run(["tool"], capture_output=True, text=True, check=True).stdout
pip = subprocess.run(["from-pip"], capture_output=True, text=True, check=True).stdout
print("CONDA", json.dumps([alpha.VERSION, said, tool, pip, os.environ["COLOUR"],
                           os.readlink(root / "lib/tool-link.txt")]))
'''
CONDA = """\
channels:
- ./channel
dependencies:
- python
- alpha >=1
- tool=2.0
- pip
- pip:
  - from-pip
  - alpha
  - delta
variables:
  COLOUR: green
"""


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """python, pip, alpha (noarch), tool (.tar.bz2 with prefixes and links), beta."""
    folder = tmp_path_factory.mktemp("conda") / "channel"
    conda.python(folder)
    conda.package(folder, "pip", "23.0", noarch="python", depends=["python"],
                  files={"site-packages/pip/__init__.py": b""})
    for version in ("1.0", "1.1"):
        alpha(folder, version)
    conda.package(folder, "tool", "2.0", suffix=".tar.bz2", depends=["__glibc >=2.17"], files={
        "bin/tool": File(f'#!/bin/sh\ncat "{PLACEHOLDER}/share/tool.bin"\n'.encode(),
                         executable=True, mode="text"),
        "share/tool.bin": File(b"at " + PLACEHOLDER.encode() + b"/x\0end", mode="binary"),
        "lib/tool.txt": File(b"tool\n"), "lib/tool-link.txt": File(link="tool.txt"),
        "bin/.tool-post-link.sh": File(b"exit 1\n", executable=True),
    })
    conda.package(folder, "beta", "1.0", depends=["alpha"], files={"lib/beta.txt": b"beta\n"})
    conda.package(folder, "newer", "1.0", depends=["__glibc >=2.99"])
    conda.index(folder)
    return folder


def alpha(folder: Path, version: str) -> None:
    conda.package(
        folder, "alpha", version, noarch="python", depends=["python >=3"],
        entry_points=["alpha-say = alpha:main"], files={
            "site-packages/alpha.py":
                f"VERSION = {version!r}\ndef main():\n    print('alpha', VERSION)\n".encode(),
            f"site-packages/alpha-{version}.dist-info/METADATA":
                f"Metadata-Version: 2.1\nName: alpha\nVersion: {version}\n".encode()})


@pytest.fixture
def repo(tmp_path: Path, mirror: Mirror, wheels: Path, channel: Path) -> Monorepo:
    shutil.copytree(wheels, tmp_path / "wheels")
    wheel(tmp_path / "wheels", "from-pip", requires=("alpha",),
          files={"from_pip.py": b"def main():\n    print('from pip')\n"},
          scripts={"from-pip": "from_pip:main"})
    return Monorepo(tmp_path / "repo", mirror, tmp_path / "wheels")


def project(repo: Monorepo, channel: Path, name: str = "one", text: str = CONDA) -> Path:
    folder = repo.add(name, files={"conda.yaml": text})
    (folder / "requirements.txt").unlink()
    (folder / "train.py").write_text(TRAIN)
    shutil.copytree(channel, repo.folder / "channel", dirs_exist_ok=True)
    return folder


IN_ROOT = CONDA.replace("./channel", "../../channel")


def test_a_project_trains_in_its_conda_environment(repo: Monorepo, channel: Path) -> None:
    folder = project(repo, channel, text=IN_ROOT)
    output = repo.doit("train", "project=one")
    said = json.loads(output.split("CONDA ")[1].splitlines()[0])
    environment = next((repo.folder / "cache/envs").iterdir())
    assert said[:2] == ["1.1", "alpha 1.1\n"]
    assert said[2] == f"at {environment}/x" + "\0" * (
        len(PLACEHOLDER) - len(str(environment)) + 1) + "end"
    assert said[3:] == ["from pip\n", "green", "tool.txt"]
    assert "tool 2.0 has a script that conda would run after linking" in output
    pinned = (folder / "requirements.lock").read_text()
    assert "from-pip==" in pinned
    assert "alpha==" not in pinned
    lock = (folder / "conda.lock").read_text()
    assert "\n- conda: ../../channel/noarch/alpha-1.1-0.conda\n" in lock
    assert str(repo.folder) not in lock
    for _ in range(2):  # the second time by the shortcut
        assert set(ran(repo.doit("train", "project=one"), "one").values()) == {"fresh"}
    (folder / "conda.lock").unlink()
    made = ran(repo.doit("train", "project=one"), "one")
    assert made.pop("resolve") == "made"
    assert set(made.values()) == {"fresh"}
    assert (folder / "conda.lock").read_text() == lock


def test_packages_are_layers_that_projects_share(repo: Monorepo, channel: Path) -> None:
    project(repo, channel, text=IN_ROOT)
    project(repo, channel, "two", IN_ROOT.replace("- tool=2.0", "- beta"))
    repo.add("plain", requirements="delta\n")
    repo.doit("push")
    image, other, plain = (Pushed.of(repo, name) for name in ("one", "two", "plain"))
    labels = {name: {item["label"]: item["digest"] for item in
                     repo.receipt(name, "base")["layers"]} for name in ("one", "two", "plain")}
    python = next(label for label in labels["one"] if label.startswith("python "))
    for label in (python, "alpha 1.1", "delta 1.0", "runner", "conda environment"):
        assert labels["one"][label] == labels["two"][label]
    # What pip brings is in the very layer of a project without conda, and so is the system.
    assert labels["one"]["delta 1.0"] == labels["plain"]["delta 1.0"]
    assert image.layers[0] == plain.layers[0] == other.layers[0]
    files = image.files()
    assert "opt/venv/pyvenv.cfg" not in files
    assert files["opt/venv/bin/alpha-say"].mode == 0o755
    assert files["opt/venv/lib/tool-link.txt"].linkname == "tool.txt"
    assert "opt/venv/conda-meta/history" in files
    assert "opt/venv/conda-meta/alpha-1.1-0.json" in files
    assert not any(path.startswith("usr/bin/python") for path in files)
    assert image.environment["COLOUR"] == "green"
    assert image.environment["CONDA_PREFIX"] == "/opt/venv"
    assert "COLOUR" not in plain.environment
    parts = json.loads(repo.doit("sbom", "project=one"))["components"]
    assert any(part["purl"].startswith("pkg:conda/alpha@1.1?") for part in parts)


def test_an_image_of_somebody_else_may_be_below(repo: Monorepo, channel: Path,
                                                mirror: Mirror) -> None:
    """As with continuumio/miniconda3: its own Python, of whatever version, is left alone."""
    layout = ImageLayout(repo.folder / "base")
    layout.tag(layout.manifest(debian("3.9")))
    project(repo, channel, text=IN_ROOT)
    set_base(repo, mirror, 'image.base = "oci:base"')
    repo.doit("push", "project=one")
    image = Pushed.of(repo, "one")
    assert "opt/venv/lib/python3.11/site-packages/alpha.py" in image.files()
    assert image.environment["PATH"].startswith("/opt/venv/bin:")
    assert repo.receipt("one", "resolve")["base"]["image"] == "oci:base"


def test_what_it_has_where_packages_go_is_hidden(repo: Monorepo, channel: Path,
                                                mirror: Mirror) -> None:
    """As with an image that this tool made."""
    layout = ImageLayout(repo.folder / "base")
    layout.tag(layout.manifest([*debian(), tar([
        member("opt/venv/bin/python3.12", b"", mode=0o755)])], environment=(
            "PATH=/opt/venv/bin:/usr/bin",)))
    project(repo, channel, text=IN_ROOT)
    set_base(repo, mirror, 'image.base = "oci:base"')
    repo.doit("push", "project=one")
    files = Pushed.of(repo, "one").files()
    assert {"opt/venv/.wh..wh..opq", "opt/venv/bin/python3.11"} <= files.keys()


def test_what_is_pinned_stays_until_upgrade(repo: Monorepo, channel: Path) -> None:
    folder = project(repo, channel, text=IN_ROOT)
    repo.doit("resolve", "project=one")
    before = (folder / "conda.lock").read_text()
    alpha(repo.folder / "channel", "1.2")
    conda.index(repo.folder / "channel")
    (folder / "conda.yaml").write_text(IN_ROOT.replace("- tool=2.0", "- tool=2.0\n- beta"))
    repo.doit("resolve", "project=one")
    after = (folder / "conda.lock").read_text()
    assert "\n- conda: ../../channel/linux-64/beta-1.0-0.conda\n" in after
    entry = before.partition("\n- conda: ../../channel/noarch/alpha-1.1")[2].partition("\n- ")[0]
    assert entry in after
    assert "sha256: " in entry
    repo.doit("resolve", "project=one", "upgrade=1")
    assert "/alpha-1.2-0.conda" in (folder / "conda.lock").read_text()


def test_the_shortcut_sees_what_cuda_the_environment_names(repo: Monorepo, channel: Path) -> None:
    project(repo, channel, text=IN_ROOT)
    repo.doit("resolve")
    time.sleep(2.1)
    for _ in range(2):
        assert ran(repo.doit("resolve"), "one")["resolve"] == "fresh"
    repo.environment["CONDA_OVERRIDE_CUDA"] = "12.4"
    assert ran(repo.doit("resolve"), "one")["resolve"] == "made"


def test_with_a_lock_and_its_packages_no_channel_is_needed(repo: Monorepo,
                                                           channel: Path) -> None:
    folder = project(repo, channel, text=IN_ROOT)
    repo.doit("push", "project=one")
    shutil.rmtree(repo.folder / "channel")
    lines = (folder / "conda.yaml").read_text().splitlines()
    lines[2:] = ["# a comment", *(lines[i] for i in (2, 5, 4, 3, 6)), *lines[7:]]
    (folder / "conda.yaml").write_text("\n".join(lines) + "\n")
    output = repo.doit("train", "project=one")
    assert ran(output, "one")["resolve"] == "fresh"
    assert ran(output, "one")["base"] == "fresh"


def test_a_cache_that_is_gone_is_filled_from_the_lock(repo: Monorepo, channel: Path) -> None:
    project(repo, channel, text=IN_ROOT)
    repo.doit("push", "project=one")
    first = repo.receipt("one", "push")["digest"]
    shutil.rmtree(repo.folder / "cache")
    assert "conda lock is current" in repo.doit("push", "project=one")
    assert repo.receipt("one", "push")["digest"] == first


def test_a_file_that_is_not_what_the_lock_says(repo: Monorepo, channel: Path) -> None:
    project(repo, channel, text=IN_ROOT)
    repo.doit("resolve", "project=one")
    shutil.rmtree(repo.folder / "cache")
    alpha_file = repo.folder / "channel/noarch/alpha-1.1-0.conda"
    alpha_file.write_bytes(alpha_file.read_bytes() + b"x")
    assert "hash mismatch: alpha 1.1 should be sha256:" in repo.doit(
        "base", "project=one", expect=1)


@pytest.mark.parametrize(("change", "into", "said"), [
    ("alpha >=1", "alpha >=9", "conda cannot meet what is asked for"),
    ("alpha >=1", "alpha >=9",
     "\n  at projects/one/conda.yaml:5, projects/one/conda.yaml:10 (channels "),
    ("alpha >=1", "newer", "__glibc"),
    ("  - alpha\n", "  - alpha<1.1\n", "the requirements cannot be met"),
    ("../../channel", "../../nowhere", "there is no conda channel\n"),
    ("../../channel", "../../../outside", "a channel leaves the workspace"),
    ("../../channel", "https://user:secret@host.invalid/c", "holds a password or token"),
    ("../../channel", "https://${NOT_SET}@host.invalid/c", "the variable NOT_SET is not set"),
    ("../../channel", "http://127.0.0.1:9/c", "a conda channel cannot be used"),
    ("alpha >=1", "alpha >=1 ;", "not a conda package"),
])
def test_mistakes_are_explained(repo: Monorepo, channel: Path, change: str, into: str,
                                said: str) -> None:
    assert change in IN_ROOT
    project(repo, channel, text=IN_ROOT.replace(change, into))
    output = repo.doit("resolve", "project=one", expect=1)
    assert said in output
    assert "\n  fix: " in output
    assert "secret" not in output


def test_a_file_with_python_and_pip_alone_asks_no_channel(repo: Monorepo) -> None:
    """Whatever conda.pip says; it says so where it resolves, and then no more."""
    folder = repo.add("one", files={"conda.yaml": (
        "channels: [http://127.0.0.1:9/c]\n"
        "dependencies: [python=3.11, pip, pip: [beta==1.0]]\n")})
    (folder / "requirements.txt").unlink()
    note = "one: its conda environment asks for python and pip alone, so no channel is asked"
    assert repo.doit("resolve", "project=one").count(note) == 1
    assert "beta==1.0" in (folder / "requirements.lock").read_text()
    assert not (folder / "conda.lock").exists()
    assert note not in repo.doit("resolve", "project=one")
    (folder / "conda.yaml").write_text((folder / "conda.yaml").read_text() + "# a comment\n")
    assert note not in repo.doit("resolve", "project=one")


def test_the_package_index_may_take_the_place_of_a_channel(repo: Monorepo, mirror: Mirror) -> None:
    folder = repo.add("one", files={"conda.yaml": (
        "channels: [http://127.0.0.1:9/c]\ndependencies: [python=3.11, beta=1.0, pip]\n")})
    (folder / "requirements.txt").unlink()
    output = repo.doit("resolve", "project=one", expect=1)
    assert "conda.pip=yes" in output
    set_base(repo, mirror, "conda.pip = true")
    output = repo.doit("resolve", "project=one")
    assert "its packages are taken from the package index instead" in output
    assert "beta==1.0" in (folder / "requirements.lock").read_text()
    assert not (folder / "conda.lock").exists()
    started = time.monotonic()
    shutil.rmtree(repo.folder / "cache")
    assert "from the package index, as pinned" in repo.doit("resolve", "project=one")
    assert time.monotonic() - started < 20  # no channel was asked
    (folder / "conda.yaml").write_text(
        "channels: [http://127.0.0.1:9/c]\ndependencies: [python=3.11, beta=1.0=py311h1_0]\n")
    assert "only conda can tell what this is: beta=1.0=py311h1_0" in repo.doit(
        "resolve", "project=one", expect=1)


def test_what_somebody_did_to_the_lock_is_named(repo: Monorepo, channel: Path) -> None:
    folder = project(repo, channel, text=IN_ROOT)
    (folder / "conda.lock").write_text('platform = "linux/amd64"\npackages = [\n]\n')
    output = repo.doit("resolve", "project=one", expect=1)
    assert "not a lock of conda packages by this tool" in output
    assert "at projects/one/conda.lock\n  fix: " in output
    (folder / "conda.lock").unlink()
    repo.doit("resolve", "project=one")
    text = (folder / "conda.lock").read_text()
    (folder / "conda.lock").write_text(text.replace("../../channel/noarch/alpha", "file:///x/alpha"))
    output = repo.doit("resolve", "project=one", expect=1)
    assert "projects/one/conda.lock:" in output
    assert "Traceback" not in output


_INSTALL = """\
import asyncio, os, sys, rattler
environment = rattler.LockFile.from_path(sys.argv[1]).default_environment()
records = environment.conda_repodata_records()["linux-64"]
asyncio.run(rattler.install(records, sys.argv[2], cache_dir=sys.argv[3], show_progress=False))
os._exit(0)
"""


def test_rattler_installs_from_the_lock_what_the_image_has(repo: Monorepo, channel: Path,
                                                           tmp_path: Path) -> None:
    """A lock is rattler's own: channels, files and their hashes, and what noarch asks for."""
    place = tmp_path / "sous-sol é/channel"
    shutil.copytree(channel, place)
    folder = project(repo, channel, text=CONDA.replace("./channel", place.as_uri()))
    repo.doit("push", "project=one")
    subprocess.run([sys.executable, "-c", _INSTALL, folder / "conda.lock", tmp_path / "prefix",
                    tmp_path / "packages"], check=True, timeout=120)
    theirs = {path.name for path in (tmp_path / "prefix/conda-meta").glob("*.json")}
    files = Pushed.of(repo, "one").files()
    assert theirs == {Path(path).name for path in files if "/conda-meta/" in path} - {"history"}
    left_out = {"CACHEDIR.TAG", "conda-meta", "__pycache__"}  # what rattler adds of its own
    for path in (tmp_path / "prefix").rglob("*"):
        inside = path.relative_to(tmp_path / "prefix")
        if path.is_file() and not left_out & {*inside.parts}:
            assert f"opt/venv/{inside}" in files


def test_without_rattler_it_is_said_what_to_install(repo: Monorepo, channel: Path) -> None:
    project(repo, channel, text=IN_ROOT)
    hidden = repo.folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['rattler'] = None\n")
    repo.environment["PYTHONPATH"] = f"{hidden}:{repo.environment.get('PYTHONPATH', '')}"
    assert "pip install 'mlproject-toolchain[conda]'" in repo.doit(
        "resolve", "project=one", expect=1)


def test_a_private_channel(repo: Monorepo, channel: Path) -> None:
    """The password comes from the environment, and is nowhere afterwards."""
    with private_channel(channel.parent, "somebody", "hunter2%word") as url:
        folder = project(repo, channel, text=CONDA.replace(
            "./channel", url.replace("://", "://${CHANNEL_USER}:${CHANNEL_WORD}@")))
        repo.environment |= {"CHANNEL_USER": "somebody", "CHANNEL_WORD": "wrong"}
        output = repo.doit("resolve", "project=one", expect=1)
        assert "a channel refused with HTTP status 401" in output
        repo.environment["CHANNEL_WORD"] = "hunter2%word"
        output += repo.doit("train", "project=one")
        (folder / "conda.yaml").write_text(CONDA.replace("./channel", url))
        auth = repo.folder / "auth.json"
        auth.write_text(json.dumps({"127.0.0.1": {"BasicHTTP": {
            "username": "somebody", "password": "hunter2%word"}}}))
        del repo.environment["CHANNEL_WORD"]
        repo.environment["RATTLER_AUTH_FILE"] = str(auth)
        output += repo.doit("resolve", "project=one", "upgrade=1")
        auth.unlink()
    encoded = base64.b64encode(b"somebody:hunter2%word")
    assert "hunter2" not in output
    for path in repo.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"hunter2" not in data, path
            assert encoded not in data, path


def test_a_lock_of_one_mirror_is_that_of_another(repo: Monorepo, mirror: Mirror, channel: Path,
                                                 tmp_path: Path) -> None:
    """A channel with a name: what is pinned from here is fetched from there."""
    text = CONDA.replace("./channel", "channel")
    with Server(channel.parent) as here, Server(tmp_path / "there") as there:
        folder = project(repo, channel, text=text)
        shutil.rmtree(repo.folder / "channel")
        set_base(repo, mirror, f'conda.alias = "{here.url}/"')
        repo.doit("push", "project=one")
        lock = (folder / "conda.lock").read_text()
        assert "    - url: https://conda.anaconda.org/channel/\n" in lock
        assert "127.0.0.1" not in lock
        digest = repo.receipt("one", "push")["digest"]
        shutil.rmtree(repo.folder / "cache")
        shutil.copytree(channel, tmp_path / "there/channel")
        set_base(repo, mirror, f'conda.alias = "{there.url}"')
        here.asked.clear()
        assert "conda lock is current" in repo.doit("push", "project=one")
        assert repo.receipt("one", "push")["digest"] == digest
        # Nor does one that is made anew.
        repo.doit("resolve", "project=one", "upgrade=1")
        assert (folder / "conda.lock").read_text() == lock
        assert not here.asked
        assert any(path.endswith("/alpha-1.1-0.conda") for path in there.asked)


def chosen(repo: Monorepo) -> dict[str, tuple[str, str, str]]:
    """What project one has: name -> version, build, channel."""
    return {item["name"]: (item["version"], item["build"], item["channel"])
            for item in repo.receipt("one", "resolve")["conda"]["packages"]}


@pytest.mark.parametrize("write", [
    Path.as_uri, lambda place: f"{place.as_uri()}/".replace("%C3%A9", "é"), str,
    lambda place: f"FILE://{place.parent.as_uri()[7:]}/./channel"])
def test_a_channels_url_may_be_written_in_several_ways(
    repo: Monorepo, channel: Path, tmp_path: Path, write: Callable[[Path], str]
) -> None:
    place = tmp_path / "sous-sol é 1/channel"
    shutil.copytree(channel, place)
    text = CONDA.replace("./channel", write(place))
    folder = project(repo, channel, text=text)
    repo.doit("resolve", "project=one")
    assert {channel for _, _, channel in chosen(repo).values()} == {
        write(place).rstrip("/") if "://" in write(place) else f"file://{place}"}
    # Named once more, in another way, it is the same channel.
    (folder / "conda.yaml").write_text(text.replace("- tool=2.0", f"- {place.as_uri()}::tool=2.0"))
    repo.doit("resolve", "project=one")
    assert chosen(repo)["tool"][0] == "2.0"


def test_channels_packages_and_builds_are_those_that_are_asked_for(
    repo: Monorepo, channel: Path, tmp_path: Path
) -> None:
    """Each package is in both channels; what would be chosen otherwise is always another one."""
    strong, weak = repo.folder / "channel", tmp_path / "weak"
    folder = project(repo, channel, text=f"""\
channels: [../../channel, {weak.as_uri()}]
dependencies:
- python
- everywhere
- {weak.as_uri()}::aside
- built=1.0=h_1
- both 1.* h_1
- needs
""")
    for place, newest in ((strong, "1.0"), (weak, "2.0")):
        for name in ("everywhere", "indirect"):
            conda.package(place, name, newest)
        conda.package(place, "aside", "1.0" if place == weak else "3.0")
    for number in range(3):
        for name in ("built", "both"):
            conda.package(strong, name, "1.0", f"h_{number}")
    conda.package(weak, "built", "1.0", "h_1")
    conda.package(weak, "needs", "1.0", depends=["indirect"])
    conda.index(strong)
    conda.index(weak)
    repo.doit("push", "project=one")
    found = chosen(repo)
    found.pop("python")
    here = "./channel"  # from the root of the workspace
    assert found == {
        "everywhere": ("1.0", "0", here), "aside": ("1.0", "0", weak.as_uri()),
        "built": ("1.0", "h_1", here), "both": ("1.0", "h_1", here),
        "needs": ("1.0", "0", weak.as_uri()), "indirect": ("1.0", "0", here)}
    # The order of channels is part of what is asked for.
    text = (folder / "conda.yaml").read_text()
    (folder / "conda.yaml").write_text(text.replace(
        f"[../../channel, {weak.as_uri()}]", f"[{weak.as_uri()}, ../../channel]"))
    repo.doit("push", "project=one", "upgrade=1")
    found = chosen(repo)
    assert found["everywhere"] == found["indirect"] == ("2.0", "0", weak.as_uri())
    assert found["built"] == ("1.0", "h_1", weak.as_uri())
    assert found["both"] == ("1.0", "h_1", here)


@contextlib.contextmanager
def private_channel(folder: Path, user: str, password: str) -> Iterator[str]:
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            if self.headers.get("Authorization") == wanted:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with Loopback(Handler) as server:
        yield f"{server.url}/channel"

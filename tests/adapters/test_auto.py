"""`auto` takes the sandbox where the kernel lets it, else local, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engines import Bench
from tests.support.services import lacking
from toolchain.adapters.auto import AutoEngine
from toolchain.errors import EngineError
from toolchain.layer.archive import Entry

_ROOT = Path(__file__).parents[2]
# In a user namespace that may have no further ones, as where an administrator forbids them.
_FORBIDDEN = """\
import sys
from pathlib import Path
from tests.support.engines import Bench
from toolchain.adapters.auto import AutoEngine
from toolchain.errors import EngineError
Path("/proc/sys/user/max_user_namespaces").write_text("0")
bench = Bench(Path(sys.argv[1]))
job = bench.job("echo it ran")
auto = AutoEngine(bench.sandbox(), bench.local(), print, gpus=())
auto.prepare(job)
print(auto.name, auto.execute(job).code)
try:
    bench.sandbox().prepare(job)
except EngineError as error:
    print(error)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_sandbox_is_taken_where_it_works(bench: Bench) -> None:
    said: list[str] = []
    sandbox = bench.sandbox()
    if sandbox.obstacle:
        lacking(f"no sandbox on this machine: {sandbox.obstacle}")
    auto = AutoEngine(sandbox, bench.local(), said.append, gpus=())
    auto.prepare(bench.job("true"))
    assert (auto.name, auto.execute(bench.job("exit 3")).code, said) == ("sandbox", 3, [])


@pytest.mark.skipif(os.getuid() != 0, reason="files are given to another user")
def test_where_the_image_is_another_users_it_is_local(bench: Bench, tmp_path: Path) -> None:
    sandbox, job = bench.sandbox(), bench.job("echo it ran")
    if sandbox.obstacle:
        lacking(f"no sandbox on this machine: {sandbox.obstacle}")
    sandbox.prepare(job)
    (root,) = (path for path in tmp_path.rglob("roots/*") if len(path.name) == 64)
    for path in (root, *root.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    said: list[str] = []
    auto = AutoEngine(bench.sandbox(), bench.local(), said.append, gpus=())
    auto.prepare(job)
    assert (auto.name, auto.execute(job).code) == ("local", 0)
    assert said == ["engine local, not sandbox: the image's files in this cache belong to another "
                    "user (uid 12345)"]
    with pytest.raises(EngineError, match="belong to another user") as caught:
        bench.sandbox().prepare(job)
    assert "engine=local" in caught.value.fix


def test_where_there_is_a_gpu_it_is_local(bench: Bench, tmp_path: Path) -> None:
    said: list[str] = []
    auto = AutoEngine(bench.sandbox(), bench.local(), said.append, gpus=(tmp_path,))
    assert auto.name == "local"
    assert said == ["engine local, not sandbox: this machine has a GPU, which a sandbox does not "
                    "pass on"]


def test_where_the_database_is_at_a_path_of_the_images_it_is_local(bench: Bench) -> None:
    said: list[str] = []
    auto = AutoEngine(bench.sandbox(), bench.local(), said.append, gpus=(),
                      paths=(Path("/home/me/repository"), Path("/usr/src/app")))
    assert auto.name == "local"
    assert said == ["engine local, not sandbox: /usr/src/app is where the image has files of its "
                    "own"]


def test_where_the_image_has_no_bash_it_is_local(bench: Bench) -> None:
    said: list[str] = []
    sandbox = bench.sandbox()
    if sandbox.obstacle:
        lacking(f"no sandbox on this machine: {sandbox.obstacle}")
    bare = bench.assembled(bench.layer("bare", Entry(path="etc/x", mode=0o644, data=b"x")))
    auto, job = AutoEngine(sandbox, bench.local(), said.append, gpus=()), bench.job(
        "exit 3", image=bare)
    auto.prepare(job)
    assert (auto.name, auto.execute(job).code) == ("local", 3)
    assert said == ["engine local, not sandbox: the image has no bash"]


def test_where_namespaces_are_forbidden_it_is_local(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", _FORBIDDEN, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    if "unshare" in done.stderr and not done.stdout:
        lacking(f"no user namespaces on this machine: {done.stderr}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("engine local, not sandbox: bwrap: ")
    assert lines[1:3] == ["it ran", "local 0"]
    assert "does not let an ordinary user make a sandbox: bwrap: " in lines[3]
    assert lines[-1].startswith("  fix: engine=local needs nothing")

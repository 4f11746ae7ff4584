"""uv chooses versions as the project and its lock want them, for the image's platform."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.adapters.machine import PLATFORM, PYTHON, Machine, package, simple_index
from tests.support.wheels import sdist, wheel
from toolchain import lock
from toolchain.adapters.indexes import uv_environment
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import Package


def _pins(packages: tuple[Package, ...]) -> dict[str, str]:
    return {item.name: item.version for item in packages}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "machine", tmp_path / "index")
    for version in ("1.0", "1.1", "2.0"):
        wheel(made.index, "alpha", version)
    wheel(made.index, "beta", "1.0", requires=("gamma>=1", "alpha<2"))
    wheel(made.index, "gamma", "1.0")
    return made


def test_everything_that_is_needed_is_pinned_by_its_hash(machine: Machine) -> None:
    found = machine.resolve("Beta")
    assert _pins(found) == {"alpha": "1.1", "beta": "1.0", "gamma": "1.0"}
    assert list(found) == sorted(found)
    for item in found:
        path = machine.index / f"{item.name}-{item.version}-py3-none-any.whl"
        assert item.sha256 == Digest.of(path.read_bytes())


def test_versions_that_are_preferred_are_kept_where_they_may_be(machine: Machine) -> None:
    old = machine.resolve("alpha==1.0")
    assert _pins(machine.resolve("alpha", preferred=old)) == {"alpha": "1.0"}
    assert _pins(machine.resolve("alpha>=1.1", preferred=old)) == {"alpha": "2.0"}
    assert _pins(machine.resolve("beta", preferred=old))["alpha"] == "1.0"


def test_without_preferences_the_pins_move(machine: Machine) -> None:
    assert _pins(machine.resolve("alpha==1.0")) == {"alpha": "1.0"}
    assert _pins(machine.resolve("alpha")) == {"alpha": "2.0"}
    wheel(machine.index, "alpha", "3.0")
    assert _pins(machine.resolve("alpha")) == {"alpha": "3.0"}


def test_constraints_hold_and_pin_nothing_of_their_own(machine: Machine) -> None:
    found = machine.resolve("alpha", constraints=("alpha<2", "gamma==1.0"))
    assert _pins(found) == {"alpha": "1.1"}


def test_a_prerelease_is_taken_only_where_it_is_asked_for(machine: Machine) -> None:
    wheel(machine.index, "alpha", "3.0rc1")
    assert _pins(machine.resolve("alpha")) == {"alpha": "2.0"}
    assert _pins(machine.resolve("alpha>=3.0rc1")) == {"alpha": "3.0rc1"}


@pytest.mark.parametrize(("platform", "version"), [("linux/amd64", "1.0"), ("linux/arm64", "1.1")])
def test_markers_and_platforms_are_those_of_the_image(
    machine: Machine, platform: str, version: str
) -> None:
    for number, tag in enumerate(("manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "win_amd64",
                                  "manylinux_2_99_x86_64", "macosx_11_0_arm64")):
        wheel(machine.index, "native", f"1.{number}", tag=f"py3-none-{tag}")
    found = machine.resolve("native", "gamma; sys_platform == 'win32'", platform=platform)
    assert _pins(found) == {"native": version}


def test_a_platform_that_is_not_known_is_named(machine: Machine) -> None:
    with pytest.raises(ResolveError, match="unknown platform 'linux/vax'") as caught:
        machine.resolve("alpha", platform="linux/vax")
    assert caught.value.where == "image.platform"
    assert "linux/amd64" in caught.value.fix


def test_of_a_versions_files_the_best_for_the_image_is_pinned(machine: Machine) -> None:
    sdist(machine.index, "native", "1.0")
    wheel(machine.index, "native", "1.0")
    wheel(machine.index, "native", "1.0", tag="py3-none-manylinux_2_5_x86_64")
    best = wheel(machine.index, "native", "1.0", tag="py3-none-manylinux_2_28_x86_64")
    wheel(machine.index, "native", "1.0", tag="py3-none-manylinux_2_38_x86_64")
    assert machine.resolve("native", platform="linux/amd64") == (package(best, "native", "1.0"),)


def test_hashes_that_are_given_are_insisted_on(machine: Machine) -> None:
    plain = machine.index / "alpha-1.0-py3-none-any.whl"
    better = wheel(machine.index, "alpha", "1.0", tag=f"cp{PYTHON.replace('.', '')}-none-any")
    hashes = (("alpha", (Digest.of(plain.read_bytes()).hex,)),)
    assert machine.resolve("alpha==1.0") == (package(better, "alpha", "1.0"),)
    assert machine.resolve("alpha==1.0", hashes=hashes) == (package(plain, "alpha", "1.0"),)
    with pytest.raises(ResolveError, match=r"no file of alpha 1\.0 .* with the hashes") as caught:
        machine.resolve("alpha==1.0", hashes=(("alpha", ("0" * 64,)),))
    assert caught.value.fix


@pytest.mark.parametrize(("requirement", "named"), [
    ("alpha>=9", "alpha"), ("absent", "absent"), ("beta==1.0,<1", "beta"),
    ("delta", "missing-piece"), ("alpha==1.0\nalpha==1.1", "alpha")])
def test_what_cannot_be_met_is_named(machine: Machine, requirement: str, named: str) -> None:
    wheel(machine.index, "delta", "1.0", requires=("missing-piece>=3",))
    with pytest.raises(ResolveError, match="cannot be met") as caught:
        machine.resolve("gamma", *requirement.split("\n"))
    assert named in caught.value.what
    assert PYTHON in caught.value.where
    assert caught.value.fix
    assert "\x1b" not in str(caught.value)


def test_a_release_for_other_machines_alone_is_refused(machine: Machine) -> None:
    wheel(machine.index, "native", "1.0", tag="py3-none-win_amd64")
    with pytest.raises(ResolveError, match="native"):
        machine.resolve("native")


def test_an_index_that_is_not_there_is_said_to_be_unreachable(tmp_path: Path, nobody: str) -> None:
    url = f"http://me:hunter2@{nobody}"
    machine = Machine(tmp_path / "machine", tmp_path / "index", url)
    with pytest.raises(ResolveError, match="index cannot be reached") as caught:
        machine.resolve("alpha")
    assert "hunter2" not in str(caught.value)
    assert "network" in caught.value.fix


def test_pips_no_index_is_obeyed(tmp_path: Path, serve: Callable[..., Double]) -> None:
    """Who says so may not want the names of their packages to leave the machine."""
    index = tmp_path / "index"
    double = serve(simple_index(tmp_path / "elsewhere"))
    machine = Machine(tmp_path / "machine", index, environ=uv_environment({
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{double.url}/simple",
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "HOME": str(tmp_path)}))
    wheel(index, "alpha", "1.0")
    wheel(tmp_path / "elsewhere", "alpha", "2.0")
    assert _pins(machine.resolve("alpha")) == {"alpha": "1.0"}
    assert double.requests == []


class Served:
    """A machine whose index is a server; `asked` counts what the server was asked."""

    def __init__(self, folder: Path, serve: Callable[..., Double]) -> None:
        self.refuses = False
        answer = simple_index(folder / "index")

        def unless_refused(request: Request) -> Answer:
            return Answer(status=503) if self.refuses else answer(request)

        self._double = serve(unless_refused)
        self.machine = Machine(folder / "machine", folder / "index", self._double.url)
        for version in ("1.0", "2.0"):
            wheel(self.machine.index, "alpha", version)
        wheel(self.machine.index, "beta", "1.0", requires=("alpha",))

    @property
    def asked(self) -> int:
        return len(self._double.requests)


@pytest.fixture
def served(tmp_path: Path, serve: Callable[..., Double]) -> Served:
    return Served(tmp_path, serve)


def test_what_was_pinned_before_is_answered_without_the_network(served: Served) -> None:
    found = served.machine.resolve("alpha<2")
    asked = served.asked
    assert asked > 0
    served.refuses = True
    assert served.machine.resolve("alpha<2", "alpha>=1") == found
    assert served.asked == asked


def test_uvs_memory_alone_is_no_answer(served: Served) -> None:
    """uv remembers beta's metadata from a compilation that pinned another version of alpha."""
    served.machine.resolve("beta")
    asked = served.asked
    assert _pins(served.machine.resolve("alpha<2")) == {"alpha": "1.0"}
    assert served.asked > asked


def test_a_page_that_uv_remembers_is_no_last_word(served: Served) -> None:
    """The project insists on a file that came to the index after uv had read its page."""
    machine = served.machine
    assert _pins(machine.resolve("alpha==1.0")) == {"alpha": "1.0"}
    newer = wheel(machine.index, "alpha", "1.0", tag=f"cp{PYTHON.replace('.', '')}-none-any")
    hashes = (("alpha", (Digest.of(newer.read_bytes()).hex,)),)
    assert machine.resolve("alpha==1.0", hashes=hashes) == (package(newer, "alpha", "1.0"),)


def test_what_was_pinned_for_another_platform_does_not_count(served: Served) -> None:
    served.machine.resolve("alpha<2", platform="linux/amd64")
    asked = served.asked
    served.machine.resolve("alpha<2", platform="linux/arm64")
    assert served.asked > asked


def test_an_index_in_trouble_is_an_error_where_nothing_is_known(served: Served) -> None:
    served.refuses = True
    with pytest.raises(ResolveError) as caught:
        served.machine.resolve("alpha")
    assert caught.value.fix


def _beside_conda(machine: Machine, project: Path, *options: str,
                  requirements: tuple[str, ...] = ("epsilon",)) -> dict[str, str]:
    """What is pinned where conda has alpha 1.1."""
    return _pins(machine.resolver.resolve(lock.Request(
        python=PYTHON, platform=PLATFORM, glibc="2.36", requirements=requirements,
        constraints=(), hashes=(), options=options, provided=(("alpha", "1.1"),),
        place=lock.Place(folder=project, root=project, skipped=())), ()))


def test_what_conda_has_is_kept_beside_the_projects_own_links(
    machine: Machine, tmp_path: Path
) -> None:
    wheel(tmp_path / "project/links", "epsilon", "1.0", requires=("gamma", "alpha>=1.1"))
    assert _beside_conda(machine, tmp_path / "project", "--find-links links") == {
        "epsilon": "1.0", "gamma": "1.0"}


def test_what_conda_has_is_kept_beside_a_workspaces_uv_toml(tmp_path: Path) -> None:
    """The index has that version too, with needs that only conda can meet."""
    own = tmp_path / "workspace/uv.toml"
    index = tmp_path / "workspace/index"
    own.parent.mkdir()
    own.write_text('find-links = ["./index"]\nno-index = true\n'
                   'dependency-metadata = [{ name = "zeta", requires-dist = [] }]\n')
    wheel(index, "alpha", "1.1", requires=("only-conda-has-it",))
    wheel(index, "epsilon", "1.0", requires=("alpha",))
    machine = Machine(tmp_path / "machine", index, environ={"UV_CONFIG_FILE": str(own)})
    assert _beside_conda(machine, own.parent) == {"epsilon": "1.0"}


def test_what_conda_has_is_not_changed_by_pip(machine: Machine, tmp_path: Path) -> None:
    wheel(machine.index, "epsilon", "1.0", requires=("alpha>=2",))
    with pytest.raises(ResolveError, match="alpha") as caught:
        _beside_conda(machine, tmp_path)
    assert "ask conda for another version" in caught.value.fix
    assert "tmp" not in caught.value.what, "where the empty wheel was is of no use to anybody"


def test_threads_may_ask_for_uv_at_once() -> None:
    """In a fresh process, where Python's sysconfig has nothing collected yet."""
    code = """
import sys, threading, uv
from concurrent.futures import ThreadPoolExecutor
from toolchain.adapters.uv import uv_program
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
with ThreadPoolExecutor(8) as pool:
    found = [pool.submit(lambda: together.wait() >= 0 and uv_program()) for _ in range(8)]
    print(len({each.result() for each in found}))
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                              text=True)
        assert done.stdout == "1\n"

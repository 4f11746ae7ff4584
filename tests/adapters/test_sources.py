"""Folders, repositories and files become wheels by what is in them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.adapters.machine import PLATFORM, PYTHON, Machine, locked
from tests.support.files import Server
from tests.support.wheels import package_folder, sdist, wheel
from toolchain import lock
from toolchain.digest import Digest
from toolchain.errors import ResolveError, SpecError
from toolchain.layer.wheel import Wheel
from toolchain.lock import Package, Settled, requirements
from toolchain.spec import source as sources


class Workshop:
    """A workspace with a project, and a machine that makes wheels for it."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder / "machine", folder / "index")
        self.root = folder / "workspace"
        self.project = self.root / "projects/one"
        self.project.mkdir(parents=True)
        wheel(self.machine.index, "gamma", "1.0")

    def request(self, *lines: str, options: tuple[str, ...] = ()) -> lock.Request:
        return lock.Request(
            python=PYTHON, platform=PLATFORM, glibc="2.36", requirements=(), constraints=(),
            hashes=(), options=options, sources=tuple(
                sources.read(line, (), "requirements.txt:1") for line in lines),
            place=lock.Place(folder=self.project, root=self.root,
                             skipped=(self.root / "cache", self.root / "projects")))

    def settle(self, line: str, preferred: tuple[Package, ...] = ()) -> Settled:
        request = self.request(line)
        return self.machine.sources.settle(request.sources[0], request, preferred)


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(folder),
         *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """A repository with one commit of what is in the folder; the commit."""
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return git(folder, "rev-parse", "HEAD")


def test_a_folder_is_built_and_pinned_by_what_its_wheel_holds(shop: Workshop) -> None:
    package_folder(shop.root / "lib", "alpha", "1.5", requires=("gamma",))
    first = shop.settle("../../lib")
    assert (first.package.name, first.package.version) == ("alpha", "1.5")
    assert first.package.source == "../../lib"
    (shop.root / "lib/tests").mkdir()
    (shop.root / "lib/tests/test_it.py").write_text("")
    assert shop.settle("../../lib") == first  # another file, the same wheel
    (shop.root / "lib/alpha.py").write_text("CHANGED = 1\n")
    assert shop.settle("../../lib").package.sha256 != first.package.sha256


def test_only_what_decides_the_wheel_is_looked_at(shop: Workshop) -> None:
    package_folder(shop.root, "alpha")
    request = shop.request("../..")
    assert request.place is not None
    before = shop.machine.sources.look(request.sources[0], request.place)
    for name in ("cache/blob", "projects/two/x", "build/lib/x", "alpha.egg-info/PKG-INFO",
                 "base.lock", ".git/HEAD"):
        (shop.root / name).parent.mkdir(parents=True, exist_ok=True)
        (shop.root / name).write_text("x")
    assert shop.machine.sources.look(request.sources[0], request.place) == before
    (shop.root / "new.py").write_text("")
    assert shop.machine.sources.look(request.sources[0], request.place) != before


def test_its_dependencies_are_resolved_with_the_others(shop: Workshop) -> None:
    package_folder(shop.root / "lib", "alpha", "1.5", requires=("gamma",), extra="more: delta")
    wheel(shop.machine.index, "delta", "3.0")
    for line, names in (("../../lib", ["alpha", "gamma"]),
                        ("../../lib[more]", ["alpha", "delta", "gamma"]),
                        ("../../lib ; sys_platform == 'win32'", [])):
        request = shop.request(line)
        settled = tuple(shop.machine.sources.settle(item, request, ()) for item in request.sources)
        import dataclasses

        request = dataclasses.replace(request, settled=settled)
        found = shop.machine.resolver.resolve(request, ())
        assert [item.name for item in found] == names
        if names:
            assert found[0] == settled[0].package


def test_a_folder_outside_the_workspace_is_refused(shop: Workshop) -> None:
    package_folder(shop.root.parent / "outside", "alpha")
    with pytest.raises(SpecError, match="leaves the workspace"):
        shop.settle("../../../outside")
    os.symlink(shop.root.parent / "outside", shop.root / "link")
    with pytest.raises(SpecError, match="leaves the workspace"):
        shop.settle("../../link")


def test_a_name_that_the_folder_has_not_is_refused(shop: Workshop) -> None:
    package_folder(shop.root / "lib", "alpha")
    with pytest.raises(ResolveError, match="is alpha, not beta"):
        shop.settle("beta @ ../../lib")


def test_a_folder_that_does_not_build_says_why(shop: Workshop) -> None:
    package_folder(shop.root / "lib", "alpha")
    (shop.root / "lib/backend.py").write_text("raise SystemExit('no compiler here')\n")
    with pytest.raises(ResolveError, match="no compiler here"):
        shop.settle("../../lib")


def test_a_branch_is_pinned_to_its_commit_and_kept(shop: Workshop) -> None:
    upstream = shop.root.parent / "upstream"
    package_folder(upstream, "alpha", "1.0")
    commit = repository(upstream)
    line = f"alpha @ git+file://{upstream}@main"
    first = shop.settle(line)
    assert first.package.source == f"git+file://{upstream}@{commit}#rev=main"
    (upstream / "alpha.py").write_text("TWO = 2\n")
    git(upstream, "commit", "-qam", "two")
    assert shop.settle(line, (first.package,)).package == first.package
    moved = shop.settle(line)
    assert moved.package.source != first.package.source
    assert moved.package.sha256 != first.package.sha256


def test_a_repository_by_http_is_pinned_to_its_commit_and_its_files(
    shop: Workshop, tmp_path: Path
) -> None:
    upstream = shop.root.parent / "upstream"
    package_folder(upstream, "alpha", "1.0")
    commit = repository(upstream)
    git(upstream, "update-server-info")
    with Server(upstream.parent) as server:
        place = f"git+{server.url}/upstream/.git"
        package = shop.settle(f"alpha @ {place}@main").package
        assert package.source == f"{place}@{commit}#rev=main"
        # Anyone on the way may answer otherwise: what the lock says is what is taken.
        wrong = Package(name="alpha", version="1.0", sha256=Digest.of(b"x"), source=package.source)
        with pytest.raises(ResolveError, match="are others"):
            Machine(tmp_path / "other", tmp_path / "index").wheels.wheel(wrong, PYTHON, PLATFORM)


def test_a_pinned_commit_is_built_on_another_machine(shop: Workshop, tmp_path: Path) -> None:
    upstream = shop.root.parent / "upstream"
    package_folder(upstream / "part", "alpha", "1.0")
    repository(upstream)
    package = shop.settle(f"git+file://{upstream}#subdirectory=part").package
    other = Machine(tmp_path / "other", tmp_path / "index")
    assert other.wheels.here(package, PYTHON, PLATFORM) is None
    (made,) = other.wheels.stored(locked(package))
    assert other.store.has(made.digest)
    assert other.wheels.here(package, PYTHON, PLATFORM) == made


def test_a_commit_with_other_files_than_the_lock_says_is_refused(
    shop: Workshop, tmp_path: Path
) -> None:
    upstream = shop.root.parent / "upstream"
    package_folder(upstream, "alpha", "1.0")
    repository(upstream)
    package = shop.settle(f"git+file://{upstream}").package
    wrong = Package(name="alpha", version="1.0", sha256=Digest.of(b"x"), source=package.source)
    with pytest.raises(ResolveError, match="are others"):
        Machine(tmp_path / "other", tmp_path / "index").wheels.wheel(wrong, PYTHON, PLATFORM)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_file_of_the_workspace_is_pinned_by_its_hash(shop: Workshop, kind: str) -> None:
    path = (wheel if kind == "wheel" else sdist)(shop.project / "files", "alpha", "1.0")
    made = shop.settle(f"./files/{path.name}")
    assert made.package == Package(name="alpha", version="1.0", source=f"./files/{path.name}",
                                   sha256=Digest.of(path.read_bytes()))
    found = shop.machine.wheels.wheel(made.package, PYTHON, PLATFORM)
    assert (found.digest, found.filename) == (made.wheel, made.filename)
    text = requirements.to_text(locked(made.package))
    assert f"./files/{path.name} \\\n    --hash=sha256:" in text


@pytest.fixture
def served(shop: Workshop) -> Iterator[Server]:
    """What forges and file servers offer of the package alpha 1.0."""
    files = shop.root.parent / "served"
    wheel(files, "alpha", "1.0")
    sdist(files, "alpha", "1.0")
    package_folder(files / "repository-1.0", "alpha", "1.0")
    for name, form in (("archive/refs/tags/v1.0", "zip"), ("archive/main", "gztar")):
        shutil.make_archive(str(files / name), form, files, "repository-1.0")
    with Server(files) as server:
        yield server


@pytest.mark.parametrize("name", [
    "archive/refs/tags/v1.0.zip", "archive/main.tar.gz", "alpha-1.0.tar.gz",
    "alpha-1.0-py3-none-any.whl", "alpha-1.0-py3-none-any.whl?download=1"])
def test_a_url_is_brought_from_the_lock_alone(
    shop: Workshop, served: Server, tmp_path: Path, name: str
) -> None:
    settled = shop.settle(f"{served.url}/{name}")
    assert (settled.package.name, settled.package.version) == ("alpha", "1.0")
    lock = requirements.from_text(requirements.to_text(locked(settled.package)), "x")
    assert lock.packages == (settled.package,)
    other = Machine(tmp_path / "other", tmp_path / "index")
    for machine in (shop.machine, other):
        for digest in (settled.wheel, settled.package.sha256):  # pruned here, never there
            machine.store.path(digest).unlink(missing_ok=True)
        assert machine.wheels.here(settled.package, PYTHON, PLATFORM) is None
        (made,) = machine.wheels.stored(lock)
        assert made == Wheel(digest=settled.wheel, filename=settled.filename)
        assert machine.wheels.here(settled.package, PYTHON, PLATFORM) == made


def test_a_url_that_is_built_for_any_platform_is_built_so_everywhere(
    shop: Workshop, served: Server, tmp_path: Path
) -> None:
    platform = "linux/arm64" if PLATFORM == "linux/amd64" else "linux/amd64"
    package = shop.settle(f"{served.url}/archive/main.tar.gz").package
    other = Machine(tmp_path / "other", tmp_path / "index")
    assert other.wheels.wheel(package, PYTHON, platform).filename == "alpha-1.0-py3-none-any.whl"


def test_a_file_without_a_version_in_its_name_is_no_folder(
    shop: Workshop, served: Server
) -> None:
    shutil.copy(served.folder / "archive/main.tar.gz", shop.project)
    package = shop.settle("./main.tar.gz").package
    assert package.sha256 == Digest.of((shop.project / "main.tar.gz").read_bytes())
    lock = requirements.from_text(requirements.to_text(locked(package)), "x")
    assert lock.packages == (package,)
    assert shop.machine.wheels.wheel(package, PYTHON, PLATFORM).filename.startswith("alpha-1.0")


def test_a_file_that_is_another_one_than_the_lock_pins_is_named(shop: Workshop) -> None:
    wheel(shop.project, "alpha", "1.0")
    package = Package(name="alpha", version="1.0", sha256=Digest.of(b"on another machine"),
                      source="./alpha-1.0-py3-none-any.whl")
    with pytest.raises(ResolveError, match="another file than the lock pins") as caught:
        shop.machine.wheels.wheel(package, PYTHON, PLATFORM)
    assert "upgrade=1" in caught.value.fix


def test_a_value_in_a_url_is_not_put_on_record(
    shop: Workshop, served: Server, tmp_path: Path
) -> None:
    other = Machine(tmp_path / "other", tmp_path / "index")
    shop.machine.uv.environ["TOKEN"] = other.uv.environ["TOKEN"] = "hunter2"
    for name in ("alpha-1.0-py3-none-any.whl", "archive/main.tar.gz"):
        package = shop.settle(f"{served.url}/{name}?token=${{TOKEN}}").package
        assert "hunter2" not in requirements.to_text(locked(package))
        assert other.wheels.stored(locked(package))
        assert served.asked == [f"/{name}?token=hunter2"] * 2
        served.asked.clear()
    for path in (*shop.machine.folder.rglob("*"), *other.folder.rglob("*")):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_two_logins_of_one_host_do_not_meet(
    shop: Workshop, tmp_path: Path, serve: Callable[..., Double]
) -> None:
    """The first is told to ask again, and by then the second has asked."""
    files = {path.name: path.read_bytes() for name in ("alpha", "beta")
             for path in [wheel(tmp_path / "served", name, "1.0")]}
    asked = {"alpha": threading.Event(), "beta": threading.Event()}

    def answer(request: Request) -> Answer:
        name = request.path.strip("/")
        user = name.partition("-")[0]
        if user == "alpha" and not asked["alpha"].is_set():
            asked["alpha"].set()
            assert asked["beta"].wait(30)
            return Answer(status=503)
        asked[user].set()
        wanted = base64.b64encode(f"{user}:p-{user}".encode()).decode()
        allowed = request.headers.get("authorization") == f"Basic {wanted}"
        return Answer(body=files[name]) if allowed else Answer(status=401)

    host = serve(answer).host
    shop.machine.uv.environ |= {"ALPHA": "p-alpha", "BETA": "p-beta"}
    alpha, beta = (
        Package(name=user, version="1.0", sha256=Digest.of(data),
                source=f"http://{user}:${{{user.upper()}}}@{host}/{name}")
        for name, data in files.items() for user in [name.partition("-")[0]])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shop.machine.wheels.wheel, alpha, PYTHON, PLATFORM)
        assert asked["alpha"].wait(30)
        second = shop.machine.wheels.wheel(beta, PYTHON, PLATFORM)
    assert [first.result().filename, second.filename] == list(files)


def test_a_hash_that_the_file_has_not_is_refused(shop: Workshop) -> None:
    path = wheel(shop.project, "alpha", "1.0")
    request = shop.request("gamma")
    source = sources.read(f"./{path.name}", ("0" * 64,), "x")
    with pytest.raises(ResolveError, match="another file"):
        shop.machine.sources.settle(source, request, ())

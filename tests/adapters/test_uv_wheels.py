"""The bytes of a lock's packages: found, checked, built where there is no wheel, installed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.adapters.machine import PLATFORM, PYTHON, Machine, locked, package, simple_index
from tests.support.wheels import sdist, wheel
from toolchain import lock
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.layer.wheel import Wheel
from toolchain.lock import Package
from toolchain.lock.requirements import to_text


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    wheel(folder, "alpha", "1.0", scripts={"alpha-say": "alpha:main"},
          files={"alpha.py": b"def main():\n    print('alpha runs')\n"})
    wheel(folder, "beta", "1.0", requires=("alpha",))
    sdist(folder, "source", "1.0")
    return folder


@pytest.fixture
def machine(tmp_path: Path, index: Path) -> Machine:
    return Machine(tmp_path / "machine", index)


@pytest.fixture
def elsewhere(tmp_path: Path, index: Path) -> Machine:
    """Another machine, which makes locks."""
    return Machine(tmp_path / "elsewhere", index)


def _wheel(machine: Machine, wanted: Package) -> Wheel:
    return machine.wheels.wheel(wanted, PYTHON, PLATFORM)


def test_the_wheel_of_a_pin_is_the_file_that_was_pinned(machine: Machine, index: Path) -> None:
    for item in machine.resolve("beta"):
        path = index / f"{item.name}-1.0-py3-none-any.whl"
        for _ in range(2):
            found = _wheel(machine, item)
            assert found == Wheel(digest=item.sha256, filename=path.name)
            assert machine.store.read(found.digest) == path.read_bytes()


def test_a_wheel_that_changed_in_the_index_is_refused_by_name(
    machine: Machine, index: Path
) -> None:
    (item,) = machine.resolve("alpha")
    path = index / "alpha-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(ResolveError, match=r"hash mismatch: alpha 1\.0") as caught:
        _wheel(machine, item)
    assert str(path) in caught.value.where
    assert not machine.store.has(item.sha256)


def test_a_wheel_that_is_gone_from_the_index_is_explained(machine: Machine, index: Path) -> None:
    (item,) = machine.resolve("alpha")
    (index / "alpha-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ResolveError, match=r"alpha 1\.0 cannot be read") as caught:
        _wheel(machine, item)
    assert caught.value.fix


def test_the_files_of_a_lock_made_elsewhere_are_located(
    machine: Machine, elsewhere: Machine
) -> None:
    packages = elsewhere.resolve("beta", "source")
    with pytest.raises(ResolveError, match="in no package index that this machine knows"):
        _wheel(machine, packages[0])
    machine.wheels.locate(packages, PYTHON, PLATFORM)
    for item in packages:
        assert machine.store.has(_wheel(machine, item).digest)


def test_files_are_located_where_the_project_says(machine: Machine, tmp_path: Path) -> None:
    """What is told of wheels and sdists counts no more: the lock's hash decides."""
    path = wheel(tmp_path / "pypi-binary", "delta", "1.0")
    options = (f"--find-links {path.parent}", "--no-binary delta")
    wanted = package(path, "delta", "1.0")
    machine.wheels.locate((wanted,), PYTHON, PLATFORM, options)
    assert machine.store.has(_wheel(machine, wanted).digest)


def test_a_lock_whose_file_is_nowhere_is_refused_by_name(machine: Machine) -> None:
    other = Package(name="alpha", version="1.0", sha256=Digest.of(b"another build of it"))
    with pytest.raises(ResolveError, match=r"alpha 1\.0") as caught:
        machine.wheels.locate((other,), PYTHON, PLATFORM)
    assert caught.value.fix
    gone = Package(name="never", version="1.0", sha256=Digest.of(b"x"))
    with pytest.raises(ResolveError, match="never"):
        machine.wheels.locate((gone,), PYTHON, PLATFORM)


def test_nothing_is_asked_for_what_is_known(
    tmp_path: Path, index: Path, serve: Callable[..., Double]
) -> None:
    double = serve(simple_index(index))
    machine = Machine(tmp_path / "machine", index, double.url)
    packages = machine.resolve("beta")
    asked = len(double.requests)
    machine.wheels.locate(packages, PYTHON, PLATFORM)
    assert len(double.requests) == asked
    for item in packages:
        _wheel(machine, item)
    files = [request.path for request in double.requests[asked:]]
    assert sorted(files) == ["/files/alpha-1.0-py3-none-any.whl",
                             "/files/beta-1.0-py3-none-any.whl"]


def test_a_password_of_an_index_is_not_put_on_record(
    tmp_path: Path, index: Path, serve: Callable[..., Double]
) -> None:
    double = serve(simple_index(index))
    machine = Machine(tmp_path / "machine", index, double.url.replace("://", "://me:hunter2@"))
    (item,) = machine.resolve("alpha")
    assert "authorization" in double.requests[-1].headers
    machine.resolve("alpha")
    for path in (tmp_path / "machine/cache").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()
    assert machine.store.has(_wheel(machine, item).digest)


def test_a_value_in_an_indexs_address_is_not_put_on_record(
    tmp_path: Path, index: Path, serve: Callable[..., Double]
) -> None:
    """Its pages name files below that address, and one asks for a variable of its own."""
    there, status = simple_index(index), [200]

    def answer(request: Request) -> Answer:
        path = request.path.removeprefix("/hunter2%2Fx").partition("?")[0]
        if path == request.path or status[0] != 200:
            return Answer(status=status[0] if status[0] != 200 else 404)
        given = there(replace(request, path=path))
        page = given.body.replace(b'href="/files', b'href="../../files')
        return replace(given, body=page.replace(b".whl#", b".whl?${PATH}#"))

    double = serve(answer)
    options = (f"--index-url {double.url}/${{TOKEN}}/simple",)
    first, second = (Machine(tmp_path / name, index, environ={"TOKEN": "hunter2/x"})
                     for name in ("machine", "other"))
    (item,) = first.resolver.resolve(lock.Request(
        python=PYTHON, platform=PLATFORM, requirements=("alpha",), constraints=(), hashes=(),
        options=options), ())
    second.wheels.locate((item,), PYTHON, PLATFORM, options)
    for machine in (first, second):
        assert machine.store.has(machine.wheels.wheel(item, PYTHON, PLATFORM, options).digest)
    files = [request.path for request in double.requests if "/files/" in request.path]
    assert len(files) >= 2
    assert not any("/bin" in path for path in files)
    status[0] = 500
    with pytest.raises(ResolveError) as caught:
        second.wheels.locate((Package(name="beta", version="1.0", sha256=Digest.of(b"x")),),
                             PYTHON, PLATFORM, options)
    assert "hunter2" not in str(caught.value)
    for path in (*tmp_path.glob("machine/cache/**/*"), *tmp_path.glob("other/cache/**/*")):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_an_sdist_is_built_once(machine: Machine) -> None:
    (item,) = machine.resolve("source")
    built = _wheel(machine, item)
    assert built.filename == "source-1.0-py3-none-any.whl"
    assert built.digest != item.sha256
    assert machine.store.read(built.digest).startswith(b"PK")
    machine.uv.environ["UV_CACHE_DIR"] = "/dev/null/no-uv-can-run-with-this"
    assert _wheel(machine, item) == built


def test_an_sdist_is_built_once_by_many_at_once(machine: Machine) -> None:
    (item,) = machine.resolve("source")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _wheel(machine, item), range(4)))
    assert len(set(found)) == 1
    assert len(machine.trace.values("wheel")) == 1


def test_an_sdist_whose_wheel_was_lost_is_built_again_alike(machine: Machine) -> None:
    (item,) = machine.resolve("source")
    built = _wheel(machine, item)
    machine.store.path(built.digest).unlink()
    assert _wheel(machine, item) == built
    assert machine.store.has(built.digest)


def test_an_sdist_that_does_not_build_says_why(machine: Machine, index: Path) -> None:
    import io
    import tarfile

    with tarfile.open(index / "broken-1.0.tar.gz", "w:gz") as archive:
        for name, text in {
            "PKG-INFO": "Metadata-Version: 2.2\nName: broken\nVersion: 1.0\n",
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
                              'backend-path = ["."]\n[project]\nname = "broken"\n'
                              'version = "1.0"\n',
            "backend.py": "def build_wheel(*arguments, **named):\n"
                          "    raise SystemExit('no compiler here')\n",
        }.items():
            info = tarfile.TarInfo(f"broken-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    (item,) = machine.resolve("broken")
    with pytest.raises(ResolveError, match="no compiler here") as caught:
        _wheel(machine, item)
    assert "broken 1.0" in caught.value.what
    assert caught.value.where == "broken 1.0"
    assert caught.value.fix


def test_an_sdist_is_not_built_for_another_platform(machine: Machine) -> None:
    (item,) = machine.resolve("source")
    other = "linux/arm64" if PLATFORM == "linux/amd64" else "linux/amd64"
    with pytest.raises(ResolveError, match=f"no wheel for {other}"):
        machine.wheels.wheel(item, PYTHON, other)


def _say(environment: Path, *code: str) -> str:
    return subprocess.run([environment / "bin/python", "-c", *code], capture_output=True,
                          text=True, check=True).stdout.strip()


_LIST = ("import importlib.metadata as m; "
         "print(sorted((d.name, d.version) for d in m.distributions()))")


def test_an_environment_holds_the_locked_packages_and_nothing_else(
    machine: Machine, tmp_path: Path
) -> None:
    lock = locked(*machine.resolve("beta"))
    for item in lock.packages:
        _wheel(machine, item)
    stored = machine.wheels.stored(lock)
    assert len(stored) == 2
    for number, wheels in enumerate((stored, ())):
        folder = tmp_path / f"environment{number}"
        machine.environments.make(folder, to_text(lock), wheels, PYTHON)
        assert _say(folder, _LIST) == "[('alpha', '1.0'), ('beta', '1.0')]"
        assert subprocess.run([folder / "bin/alpha-say"], capture_output=True,
                              text=True).stdout == "alpha runs\n"


def test_an_environment_can_be_empty(machine: Machine, tmp_path: Path) -> None:
    machine.environments.make(tmp_path / "environment", "", (), PYTHON)
    assert _say(tmp_path / "environment", _LIST) == "[]"


def test_wheels_are_stored_only_if_all_of_them_are(machine: Machine) -> None:
    lock = locked(*machine.resolve("beta"))
    assert machine.wheels.stored(lock) == ()
    _wheel(machine, lock.packages[0])
    assert machine.wheels.stored(lock) == ()
    with_source = locked(*machine.resolve("source"))
    _wheel(machine, with_source.packages[0])
    assert machine.wheels.stored(with_source) == ()


def test_an_environment_insists_on_the_hashes_of_the_lock(
    machine: Machine, tmp_path: Path
) -> None:
    wrong = Package(name="alpha", version="1.0", sha256=Digest.of(b"wrong"))
    with pytest.raises(ResolveError, match="cannot be installed") as caught:
        machine.environments.make(tmp_path / "environment", to_text(locked(wrong)), (), PYTHON)
    assert "alpha" in str(caught.value)
    assert caught.value.fix


def test_a_pinned_file_that_the_index_took_away_is_explained(
    tmp_path: Path, index: Path, serve: Callable[..., Double]
) -> None:
    there = simple_index(index)
    status = [200]

    def answer(request: Request) -> Answer:
        if request.path.startswith("/files/") and status[0] != 200:
            return Answer(status=status[0])
        return there(request)

    machine = Machine(tmp_path / "machine", index, serve(answer).url)
    (item,) = machine.resolve("alpha")
    assert item == package(index / "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    for status[0], fix in ((404, "pin again"), (401, "credentials")):
        with pytest.raises(ResolveError, match=rf"alpha 1\.0 .*{status[0]}") as caught:
            _wheel(machine, item)
        assert fix in caught.value.fix

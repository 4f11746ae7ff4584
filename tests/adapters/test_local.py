"""A job runs in its locked environment and a private copy of its files, and leaves nothing.

What holds for every engine, such as output and stdin, is in test_engines.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.adapters.machine import PLATFORM, Machine, locked
from tests.support.wheels import wheel
from toolchain.adapters.local import LocalEngine
from toolchain.digest import Digest
from toolchain.errors import EngineError, StoreError
from toolchain.image import Image
from toolchain.layer import Layer
from toolchain.layer.archive import Entry, LayerWriter
from toolchain.layer.conda import CondaSource
from toolchain.lock import Lock
from toolchain.push import Pushed
from toolchain.run import Job

_FILES = [
    Entry(path="project/train.py", mode=0o644, data=b"print('training')\n"),
    Entry(path="project/run.sh", mode=0o755, data=b"#!/bin/sh\necho a script\n"),
    Entry(path="project/data/rows.csv", mode=0o644, data=b"1,2\n"),
    Entry(path="project/latest.csv", mode=0o777, kind=tarfile.SYMTYPE, link="data/rows.csv"),
]
Run = Callable[..., tuple[int, list[str]]]


def _no_conda() -> CondaSource:
    raise AssertionError("no project here has conda packages")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "machine", tmp_path / "index")
    wheel(made.index, "alpha", "1.0")
    return made


@pytest.fixture
def cache(machine: Machine) -> Path:
    return machine.folder / "cache"


def _engine(machine: Machine, **environ: str) -> LocalEngine:
    return LocalEngine(cache=machine.folder / "cache", store=machine.store, trace=machine.trace,
                       wheels=machine.wheels, environments=machine.environments,
                       conda=_no_conda,
                       environ={"PATH": os.environ["PATH"], **environ})


def _layer(machine: Machine, *entries: Entry) -> Layer:
    with ThreadPoolExecutor(2) as pool, LayerWriter(machine.store, "project", pool) as writer:
        for entry in entries:
            writer.add(entry)
    assert writer.layer is not None
    return writer.layer


def _job(machine: Machine, command: str, *entries: Entry, lock: Lock | None = None,
         environment: Mapping[str, str] | None = None) -> Job:
    project = _layer(machine, *(entries or _FILES))
    return Job(name="one", command=command, lock=lock or locked(), project=project,
               image=Image(layers=(project,), config=b"{}", manifest=b"{}"),
               pushed=Pushed(reference="r", tag="t", digest=Digest.of(b""),
                             config=Digest.of(b"")), environment=environment or {})


@pytest.fixture
def run(machine: Machine, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit status and the lines that reached sys.stdout."""
    def execute(command: str, *entries: Entry, lock: Lock | None = None,
                environment: Mapping[str, str] | None = None, **environ: str
                ) -> tuple[int, list[str]]:
        status = _engine(machine, **environ).execute(
            _job(machine, command, *entries, lock=lock, environment=environment)).code
        return status, capsys.readouterr().out.splitlines()

    return execute


@pytest.mark.parametrize(("command", "status"), [
    ("kill -9 $$", -9), ("python -c 'raise SystemExit(7)'", 7)])
def test_the_exit_status_is_the_jobs(run: Run, command: str, status: int) -> None:
    assert run(command)[0] == status


def test_the_files_of_the_project_are_where_the_job_begins(run: Run) -> None:
    assert run("python train.py; ./run.sh; cat latest.csv; basename $PWD; ls -A") == (0, [
        "training", "a script", "1,2", "project", "data", "latest.csv", "run.sh", "train.py"])


def test_what_a_job_writes_is_seen_by_no_other(run: Run) -> None:
    assert run("echo changed > train.py; touch new; rm data/rows.csv")[0] == 0
    assert run("cat train.py; ls -A") == (0, [
        "print('training')", "data", "latest.csv", "run.sh", "train.py"])


@pytest.mark.parametrize("command", ["pwd", "pwd; exit 1", "pwd; mkdir -p a/b; chmod 0 a",
                                     "pwd; kill -9 $$"])
def test_the_working_folder_is_gone_afterwards(run: Run, cache: Path, command: str) -> None:
    _, (folder,) = run(command)
    assert Path(folder).is_relative_to(cache)
    assert not Path(folder).exists()
    assert list((cache / "work").iterdir()) == []


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_has_stays(
    run: Run, cache: Path
) -> None:
    for name in ("4999999-dead", f"{os.getpid()}-alive", "another"):
        (cache / "work" / name).mkdir(parents=True)
    run("true")
    assert sorted(path.name for path in (cache / "work").iterdir()) == sorted(
        [f"{os.getpid()}-alive", "another"])


def test_the_job_has_its_own_environment_and_what_the_run_gives_it(run: Run) -> None:
    status, lines = run(
        "python -c 'import os, sys; print(sys.prefix); print(os.environ[\"VIRTUAL_ENV\"]);"
        "print(*sorted(k for k in os.environ if k.startswith((\"MLFLOW\", \"PYTHON\", "
        "\"CONDA\", \"OWN\"))))'; echo $MLFLOW_RUN_ID $OWN; command -v python",
        environment={"MLFLOW_RUN_ID": "r1", "MLFLOW_TRACKING_URI": "sqlite:///x"},
        OWN="kept", PYTHONPATH="/evil", PYTHONHOME="/evil", CONDA_PREFIX="/evil",
        MLFLOW_RUN_ID="old", MLFLOW_EXPERIMENT_NAME="old")
    assert status == 0
    prefix, virtual, names, values, python = lines
    assert prefix == virtual
    assert names.split() == ["MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "OWN", "PYTHONUNBUFFERED"]
    assert values == "r1 kept"
    assert Path(python).parent == Path(virtual) / "bin"


def test_the_locked_packages_are_there(run: Run, machine: Machine) -> None:
    lock = locked(*machine.resolve("alpha"))
    assert run("python -c 'import alpha; print(alpha.VERSION)'", lock=lock) == (0, ["1.0"])
    assert run("python -c 'import alpha'")[0] == 1


def test_one_environment_serves_every_job_of_a_lock(run: Run, cache: Path) -> None:
    run("true")
    (folder,) = (cache / "envs").iterdir()
    before = (folder / "pyvenv.cfg").stat()
    assert run("echo again", environment={"OTHER": "1"}) == (0, ["again"])
    assert (folder / "pyvenv.cfg").stat() == before


def test_an_environment_that_was_half_made_is_made_anew(
    run: Run, machine: Machine, cache: Path
) -> None:
    lock = locked(*machine.resolve("alpha"))
    run("true", lock=lock)
    (folder,) = (cache / "envs").iterdir()
    for path in folder.rglob("alpha.py"):
        path.unlink()
    (folder / "leftover").write_text("of a crash")
    (folder / "toolchain.json").unlink()
    assert run("python -c 'import alpha'", lock=lock)[0] == 0
    assert not (folder / "leftover").exists()


def test_an_environment_whose_interpreter_has_gone_is_made_anew(run: Run, cache: Path) -> None:
    """As when pyenv's version was removed. bash would take the next `python` on PATH."""
    run("true")
    (folder,) = (cache / "envs").iterdir()
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(cache / "versions/3.11.1/bin/python")
    assert run("python -c 'import sys; print(sys.prefix)'") == (0, [str(folder)])


def test_jobs_of_one_lock_can_start_at_once(machine: Machine) -> None:
    lock = locked(*machine.resolve("alpha"))
    jobs = [_job(machine, f"python -c 'import alpha' && exit {number}", lock=lock)
            for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(_engine(machine).execute, jobs))
    assert [outcome.code for outcome in outcomes] == [0, 1, 2, 3]


def test_packages_for_another_platform_are_not_tried(machine: Machine) -> None:
    other = "linux/arm64" if PLATFORM == "linux/amd64" else "linux/amd64"
    lock = Lock(python="3.11", platform=other, packages=(), input=Digest.of(b""))
    with pytest.raises(EngineError, match=f"packages for {other}") as caught:
        _engine(machine).execute(_job(machine, "true", lock=lock))
    assert caught.value.fix


@pytest.mark.parametrize("evil", [
    [Entry(path="project/../../evil", mode=0o644, data=b"x")],
    [Entry(path="/tmp/evil", mode=0o644, data=b"x")],
    [Entry(path="project/out", mode=0o777, kind=tarfile.SYMTYPE, link="../../../.."),
     Entry(path="project/out/evil", mode=0o644, data=b"x")],
    [Entry(path="project/out", mode=0o777, kind=tarfile.SYMTYPE, link="/etc"),
     Entry(path="project/other", mode=0o644)],
], ids=["dots", "absolute", "through a link", "absolute link"])
def test_a_layer_that_reaches_outside_is_not_unpacked(
    machine: Machine, tmp_path: Path, evil: list[Entry]
) -> None:
    with pytest.raises(EngineError, match="leaves its folder") as caught:
        _engine(machine).execute(_job(machine, "true", *evil))
    assert caught.value.fix
    assert not list(tmp_path.rglob("evil"))


def test_a_layer_that_is_damaged_is_not_unpacked(machine: Machine) -> None:
    job = _job(machine, "true")
    path = machine.store.path(job.project.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="missing or damaged"):
        _engine(machine).execute(job)


def test_a_cache_that_cannot_be_written_is_explained(machine: Machine, cache: Path) -> None:
    cache.mkdir(exist_ok=True)
    (cache / "work").write_text("a file")
    with pytest.raises(EngineError, match="cannot be started") as caught:
        _engine(machine).execute(_job(machine, "true"))
    assert str(cache / "work") in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("entry", ["prepare", "execute"])
def test_environments_that_cannot_be_written_are_explained(
    machine: Machine, cache: Path, entry: str
) -> None:
    cache.mkdir(exist_ok=True)
    (cache / "envs").write_text("a file")
    engine = _engine(machine)
    with pytest.raises(StoreError, match="the environment cannot be made") as caught:
        getattr(engine, entry)(_job(machine, "true"))
    assert caught.value.where == str(cache / "envs")
    assert "free some space" in caught.value.fix

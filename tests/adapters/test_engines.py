"""One contract for every engine: how jobs run, what they get, how they end, what they leave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from docker.errors import NotFound

from tests.support.access import let_in
from tests.support.engines import ENGINES, Bench
from tests.support.ray_cluster import shared_cluster
from tests.support.services import docker_client
from toolchain.adapters.docker_engine import DockerEngine
from toolchain.adapters.handed_on import binds
from toolchain.adapters.owner import Owner
from toolchain.errors import EngineError
from toolchain.run import Engine, Outcome, Resources
from toolchain.spec import Docker

_ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[Outcome, list[str]]]
IN_IMAGES = ("sandbox", "docker")
ON_NODES = ("local", "ray")  # with the system of the machine, and in its namespaces


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("engines")
    let_in(folder)
    return Bench(folder)


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture
def engine(name: str, bench: Bench) -> Engine:
    return bench.engine(name)


@pytest.fixture
def run(engine: Engine, bench: Bench, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; how it ended and the lines that reached sys.stdout."""
    def execute(command: str, **changes: Any) -> tuple[Outcome, list[str]]:
        job = bench.job(command, **changes)
        engine.prepare(job)
        capsys.readouterr()
        outcome = engine.execute(job)
        return outcome, capsys.readouterr().out.split("\n")[:-1]

    return execute


@pytest.mark.parametrize(("command", "codes"), [
    ("true", (0,)), ("exit 3", (3,)), ("false; true", (0,)), ("no-such-program", (127,)),
    ("kill -9 $$", (-9, 137)), ("kill -TERM $$", (-15, 143))])
def test_the_code_is_the_jobs(run: Run, command: str, codes: tuple[int, ...]) -> None:
    outcome, _ = run(command)
    assert outcome.code in codes
    assert outcome.reason == ""


def test_it_says_its_name(engine: Engine, name: str) -> None:
    assert engine.name == name


def test_output_of_both_kinds_comes_in_order(run: Run) -> None:
    lines = [f"{number}" for number in range(200)]
    command = "for i in $(seq 0 2 198); do echo $i; echo $((i + 1)) >&2; done"
    assert run(command) == (Outcome(code=0), lines)


def test_output_that_is_no_text_is_shown_as_well_as_can_be(run: Run) -> None:
    _, lines = run(r"printf 'a\377b\n'; echo é漢字; printf 'one\rtwo\n'")
    assert lines == ["a\ufffdb", "é漢字", "one", "two"]


def test_a_huge_line_comes_whole(run: Run) -> None:
    _, lines = run("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert [len(line) for line in lines] == [3_000_000, 3]


def test_lines_name_the_trial(run: Run) -> None:
    _, lines = run("echo one; printf two", trial="trial 7")
    assert lines == ["trial 7 | one", "trial 7 | two"]


def test_there_is_nothing_to_read_on_stdin(run: Run) -> None:
    assert run("cat; echo end") == (Outcome(code=0), ["end"])


def test_parameters_are_values_and_never_code(run: Run, bench: Bench) -> None:
    evil = "a 'b' \"c\" $(touch /tmp/evil) `id` \\ * ; & | > é\nsecond line"
    outcome, lines = run('printf "%s\\n" "${TOOLCHAIN_PARAMETER_1}"',
                         environment={"TOOLCHAIN_PARAMETER_1": evil})
    assert outcome.code == 0
    assert "\n".join(lines) == evil


def test_values_are_on_no_command_line(run: Run) -> None:
    """Neither in the job nor, while it runs, anywhere on this machine."""
    secret = "s3cr3t-of-this-test"
    seen: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        outcome, lines = run(
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c mark-of-the-command; sleep 1; true",
            environment={"PASSWORD_VALUE": secret, "TOOLCHAIN_PARAMETER_1": secret})
        over.set()
        looking.result()
    assert outcome.code == 0
    assert lines != ["0"]
    assert any(b"mark-of-the-command" in text for text in seen)
    assert not any(secret.encode() in text for text in seen)


def test_the_project_is_a_private_copy_that_can_be_written(run: Run) -> None:
    assert run("cat latest.csv; ./train.sh; echo changed > data/rows.csv; echo '#' >> train.sh;"
               "touch new; rm latest.csv; cat data/rows.csv") == (
        Outcome(code=0), ["1,2", "training", "changed"])
    assert run("cat latest.csv; ls -A") == (
        Outcome(code=0), ["1,2", "data", "latest.csv", "train.sh"])


def test_jobs_at_once_do_not_see_each_other(
    engine: Engine, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [bench.job(f"echo {number} > mine; sleep 0.3; cat mine; ls | wc -l; exit {number}",
                      trial=f"t{number}") for number in range(4)]
    engine.prepare(jobs[0])
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(engine.execute, jobs))
    assert [outcome.code for outcome in outcomes] == [0, 1, 2, 3]
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == sorted(f"t{number} | {text}" for number in range(4)
                                  for text in (str(number), "4"))


def test_a_timeout_ends_the_job_and_says_so(run: Run) -> None:
    started = time.monotonic()
    outcome, lines = run("trap 'echo cleaning; exit 5' TERM; echo begun;"
                         "while true; do sleep 0.05; done", timeout=1)
    assert outcome == Outcome(code=5, reason="ran longer than its timeout of 1 s")
    assert [line for line in lines if line != "Terminated"] == ["begun", "cleaning"]
    assert time.monotonic() - started < 30


def test_a_job_is_cancelled_from_another_thread_and_may_clean_up(
        engine: Engine, bench: Bench, tmp_path: Path) -> None:
    """Two jobs on threads of their own; the one that is cancelled leaves the other alone."""
    cancel, log = threading.Event(), tmp_path / "output.log"
    loud = bench.job("trap 'echo cleaned up; exit 9' TERM; echo begun; sleep 90 & wait",
                     trial="one", cancel=cancel, log=str(log))
    quiet = bench.job("sleep 2; exit 4", trial="two", cancel=threading.Event())
    engine.prepare(loud)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(engine.execute, loud), pool.submit(engine.execute, quiet)
        deadline = time.monotonic() + 120
        while not (log.exists() and "begun" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        began = time.monotonic()
        cancel.set()
        ended = first.result(120)
        assert ended.reason == "was cancelled"
        assert ended.code in (9, 143)  # the job's own, where the engine waits to hear it
        assert time.monotonic() - began < 60
        assert second.result(120).code == 4
    assert log.read_text() == "begun\ncleaned up\n"


def test_a_job_that_ends_by_itself_was_not_cancelled(run: Run) -> None:
    assert run("exit 3", cancel=threading.Event())[0] == Outcome(code=3)


def test_processors_that_were_asked_for_reach_numeric_libraries(run: Run, name: str) -> None:
    assert run("echo $OMP_NUM_THREADS", resources=Resources(cpus=2))[1] == ["2"]
    assert run("echo $OPENBLAS_NUM_THREADS", resources=Resources(threads=1))[1] == ["1"]
    # Whoever asks Ray for no processors has one of it.
    unasked = "1" if name == "ray" else os.environ.get("OMP_NUM_THREADS", "")
    assert run("echo $OMP_NUM_THREADS")[1] == [unasked]


def test_what_the_user_set_stands_over_the_number_of_processors(
    bench: Bench, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, says = Resources(cpus=2), "echo $OMP_NUM_THREADS $MKL_NUM_THREADS $NUMBA_NUM_THREADS"
    engine = bench.engine(name, OMP_NUM_THREADS="7")
    docker = Docker(image="", environment={"MKL_NUM_THREADS": "5"})
    job = bench.job(says, resources=wanted, docker=docker, environment={"NUMBA_NUM_THREADS": "3"})
    engine.prepare(job)
    capsys.readouterr()
    assert engine.execute(job).code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "7 5 3"


@pytest.mark.parametrize("name", IN_IMAGES)
def test_what_the_image_sets_stands_over_the_number_of_processors(run: Run, bench: Bench) -> None:
    image = bench.assembled(*bench.image.layers,
                            Env=["PATH=/usr/bin:/bin", "OMP_NUM_THREADS=6"])
    assert run("echo $OMP_NUM_THREADS", image=image, resources=Resources(cpus=2))[1] == ["6"]


def test_preparing_twice_is_as_once(engine: Engine, bench: Bench) -> None:
    engine.prepare(bench.job("true"))
    engine.prepare(bench.job("true"))
    assert engine.execute(bench.job("exit 4")).code == 4


def test_nothing_is_left(run: Run, bench: Bench, name: str) -> None:
    mark = f"34{os.getpid()}"
    # What leaves its session has left a job without namespaces.
    leave = "" if name in ON_NODES else "setsid"
    run(f"mkdir -p a/b; chmod 0 a; ({leave} sleep {mark} &); touch /tmp/left-by-the-job-{mark}")
    assert list((_cache(bench.folder, name) / "work").glob("*")) == []
    assert _gone(f"sleep\0{mark}")
    left = Path(f"/tmp/left-by-the-job-{mark}")
    was_left = left.exists()
    left.unlink(missing_ok=True)
    assert was_left == (name in ON_NODES)
    if name == "docker":
        assert _containers(os.getpid()) == []


# What only engines do that run the image.

@pytest.fixture(params=IN_IMAGES)
def inside(request: pytest.FixtureRequest, bench: Bench,
           capsys: pytest.CaptureFixture[str]) -> Run:
    def execute(command: str, environ: dict[str, str] | None = None, **changes: Any
                ) -> tuple[Outcome, list[str]]:
        made = bench.engine(request.param, **(environ or {}))
        job = bench.job(command, **changes)
        made.prepare(job)
        capsys.readouterr()
        outcome = made.execute(job)
        return outcome, capsys.readouterr().out.splitlines()

    return execute


def test_the_images_config_holds(inside: Run) -> None:
    _, lines = inside("id -u; id -g; id -un; echo $HOME $PWD $OF_THE_IMAGE $PATH;"
                      "touch ~/x && echo y")
    assert lines == ["1000", "1000", "mlflow", "/home/mlflow /project yes /usr/bin:/bin", "y"]


def test_of_this_machines_environment_only_what_is_needed_comes(inside: Run) -> None:
    _, lines = inside("echo $AWS_ACCESS_KEY_ID $MLFLOW_RUN_ID $HTTPS_PROXY; echo [$OTHER]"
                      "[$MLFLOW_EXPERIMENT_NAME]", environment={"MLFLOW_RUN_ID": "r1"},
                      environ={"AWS_ACCESS_KEY_ID": "k", "MLFLOW_RUN_ID": "old", "OTHER": "x",
                               "HTTPS_PROXY": "http://p", "MLFLOW_EXPERIMENT_NAME": "n"})
    assert lines == ["k r1 http://p", "[][]"]


def test_a_tracking_database_is_at_its_own_path_and_what_is_beside_it_is_hidden(
    inside: Run, tmp_path: Path
) -> None:
    let_in(tmp_path)
    for path, text in (("mlflow.db", "before"), ("secret.txt", "x"), ("cache/blob", "good")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    outcome, lines = inside(
        f"cd {tmp_path}; cat mlflow.db; echo; echo after > mlflow.db; touch mlflow.db-journal;"
        "touch mlruns/m && mkdir mlruns/r; echo bad > cache/blob; mv cache elsewhere; rm -rf cache;"
        "cat secret.txt; ls cache; cat cache/blob; true", database=str(tmp_path / "mlflow.db"),
        artifacts=str(tmp_path / "mlruns"))
    assert outcome.code == 0
    assert lines[0] == "before"
    assert not any(line in ("x", "good", "blob") for line in lines)
    assert (tmp_path / "mlflow.db").read_text() == "after\n"
    assert (tmp_path / "cache/blob").read_text() == "good"
    assert (tmp_path / "secret.txt").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache", "mlflow.db", "mlflow.db-journal", "mlruns", "secret.txt"]
    for name in ("mlflow.db-journal", "mlruns/m", "mlruns/r"):
        assert (tmp_path / name).stat().st_uid == os.getuid()


def test_an_input_is_at_its_own_path_and_cannot_be_written(inside: Run, tmp_path: Path) -> None:
    let_in(tmp_path)
    data = tmp_path / "rows.csv"
    data.write_text("5")
    outcome, lines = inside(f"cat {data}; echo; echo 6 > {data}", readable=(str(data),))
    assert lines[0] == "5"
    assert outcome.code == 1
    assert data.read_text() == "5"


def test_a_path_that_would_cover_the_image_is_refused(inside: Run) -> None:
    from toolchain.errors import EngineError

    with pytest.raises(EngineError, match="one of the image's own") as caught:
        inside("true", artifacts="/usr/share")
    assert caught.value.fix


def test_no_path_leads_a_job_to_the_cache(inside: Run, bench: Bench) -> None:
    inside("true")
    before = _fingerprint(bench.cache)
    inside("for f in /etc/frozen /usr/bin/cat /project/train.sh /etc/passwd; do"
           " echo bad > $f; chmod 777 $f; chmod u+w $f; echo bad >> $f; touch -d 2001-01-01 $f;"
           " ln $f /tmp/hard-$RANDOM; echo bad > /tmp/hard-*; mv $f $f.moved; rm -f $f.moved; done;"
           " rm -rf /etc /project /home; chmod -R 777 /usr; rm -rf /usr; true",
           database="")
    assert _fingerprint(bench.cache) == before
    assert inside("cat /etc/frozen; cat latest.csv")[1] == ["as built", "1,2"]


def test_shared_memory_has_the_size_that_was_asked_for(inside: Run) -> None:
    outcome, _ = inside("head -c 3000000 /dev/zero > /dev/shm/x", resources=Resources(shm=1 << 20))
    assert outcome.code == 1
    outcome, _ = inside("head -c 3000000 /dev/zero > /dev/shm/x", resources=Resources(shm=8 << 20))
    assert outcome.code == 0


def test_an_image_without_bash_is_explained(bench: Bench, capsys: pytest.CaptureFixture[str]
                                            ) -> None:
    from toolchain.errors import EngineError
    from toolchain.layer.archive import Entry

    bare = bench.assembled(bench.layer("bare", Entry(path="etc/x", mode=0o644, data=b"x")))
    for name in IN_IMAGES:
        made, job = bench.engine(name), bench.job("true", image=bare)
        made.prepare(job)
        with pytest.raises(EngineError, match="the image has no bash"):
            made.execute(job)


def test_out_of_memory_is_said(bench: Bench) -> None:
    made = bench.engine("docker")
    job = bench.job("x=$(head -c 200000000 /dev/zero | tr '\\0' y); echo ${#x}",
                    resources=Resources(memory=32 << 20))
    made.prepare(job)
    outcome = made.execute(job)
    assert "out of memory of 32 MB" in outcome.reason
    assert outcome.code


# However the job or its parent ends. The parent is a process of its own, as doit is.

class Parent:
    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.process: subprocess.Popen[str] | None = None
        self.pids: list[int] = []  # of all that were started

    def start(self, command: str, user: int | None = None,
              changes: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        before: list[str] = []
        if user is not None:
            os.chown(self.folder, user, user)
            before = _as_user(user)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "tests.support.engines", str(self.folder), self.name,
             command, json.dumps(changes or {})], cwd="/", text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "HOME": str(self.folder)})
        self.pids.append(self.process.pid)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "prepared\n":
                break
        else:
            pytest.fail(f"it ended early: {self.process.wait()}")
        return self.process

    def kill(self) -> None:
        """Kill it, and then what it served: a registry of its own."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()


@pytest.fixture
def parent(name: str, bench: Bench, tmp_path: Path,
           monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    bench.engine(name)  # skips where there is none
    if name == "ray":
        monkeypatch.setenv("RAY_ADDRESS", shared_cluster().address)
    made = Parent(tmp_path / "bench", name)
    let_in(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()
    if name == "docker":
        for container in _containers(*made.pids):
            container.remove(force=True)


@pytest.mark.parametrize(("number", "word", "status"), [
    (signal.SIGTERM, "TERM", 143), (signal.SIGINT, "INT", 130)])
def test_a_signal_reaches_the_job_which_may_clean_up(
    parent: Parent, number: signal.Signals, word: str, status: int
) -> None:
    mark = f"31{os.getpid()}"
    leave = "" if parent.name in ON_NODES else "setsid"
    word = "TERM" if parent.name == "kubernetes" else word  # a cluster knows no other
    # It waits by itself: bash forgets a SIGINT that comes when a program which it waits for ends.
    process = parent.start("exec 9<> <(:);"
                           f"trap 'echo cleaned-up; exit 1' {word}; ({leave} sleep {mark} &);"
                           "echo ready; while true; do read -t 1 -u 9; done")
    assert parent.line() == "ready"
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert output.replace("Terminated\n", "") == "cleaned-up\n"
    assert process.returncode == status
    assert _gone(f"sleep\0{mark}")


def test_a_job_that_does_not_want_to_end_is_killed(parent: Parent) -> None:
    mark = f"32{os.getpid()}"
    process = parent.start(f"trap '' TERM INT; echo ready; while true; do sleep {mark}; done")
    assert parent.line() == "ready"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert _gone(f"sleep\0{mark}")


def test_the_job_dies_with_a_parent_that_is_killed(parent: Parent, name: str) -> None:
    if name == "kubernetes":
        pytest.skip("a Job lives on, and is found again")
    mark = f"33{os.getpid()}"
    process = parent.start(f"echo ready; sleep {mark} & sleep {mark}; echo never")
    assert parent.line() == "ready"
    end = time.monotonic() + 10
    while not any(f"sleep\0{mark}".encode() in text for text in _command_lines()):
        assert time.monotonic() < end
    process.kill()
    process.wait()
    # That a driver is gone is Ray's to notice. It does at once, but not within 30 s in one run of
    # all tests; why is not known.
    assert _gone(f"sleep\0{mark}", 120 if name == "ray" else 30)
    # The next one sweeps what was left.
    after = parent.start("echo again")
    assert after.communicate(timeout=60)[0] == "again\noutcome 0 \n"
    if name != "docker":
        assert list((_cache(parent.folder, name) / "work").iterdir()) == []
    else:
        assert _containers(*parent.pids) == []


def test_only_containers_whose_process_is_known_to_be_gone_are_swept(bench: Bench) -> None:
    engine, job, client = bench.engine("docker"), bench.job("true"), docker_client()
    engine.prepare(job)
    image = DockerEngine(os.environ).find(bench.image)
    gone = replace(Owner.here(), pid=1 << 22)  # a number that no process has
    # Another container sees the same host name, but processes of its own.
    unseen = replace(gone, space="pid:[1]")
    made = {name: client.api.create_container(
        image, entrypoint=["bash", "-c", ":"], labels={"toolchain.owner": owner.text})["Id"]
        for name, owner in (("gone", gone), ("unseen", unseen))}
    try:
        assert engine.execute(job).code == 0
        left = {container.id for container in client.containers.list(
            all=True, ignore_removed=True)}
        assert [name for name, container in made.items() if container in left] == ["unseen"]
    finally:
        for container in made.values():
            with contextlib.suppress(NotFound):
                client.api.remove_container(container, force=True)


def test_an_ordinary_user_needs_no_more(bench: Bench, tmp_path: Path) -> None:
    """The sandbox, for whom this machine knows as nobody."""
    bench.engine("sandbox")
    if os.getuid():
        pytest.skip("we are one, so every other test has shown it")
    let_in(tmp_path)
    made = Parent(tmp_path / "bench", "sandbox")
    process = made.start("id -un; touch x ~/y && echo written; cat latest.csv", user=65534)
    assert process.communicate(timeout=60)[0] == "mlflow\nwritten\n1,2\noutcome 0 \n"
    owners = {path.lstat().st_uid for path in (tmp_path / "bench").rglob("*")}
    assert owners == {65534}


def _as_user(user: int) -> list[str]:
    """A command's beginning: as that user, who can reach this interpreter and this package.

    They may be below a folder that is for root alone, such as root's home: there the command sees
    an empty folder with nothing but them in it. For others that folder stays as it is.
    """
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    needed = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, _ROOT)}
    closed = {folder for place in needed for folder in place.parents
              if not folder.stat().st_mode & stat.S_IXOTH}
    if not closed:
        return become
    hidden = [place for place in needed if closed.intersection(place.parents)]
    lines = [f"exec {number}< {quote(str(place))}" for number, place in enumerate(hidden, 3)]
    lines += [f"mount -t tmpfs -o mode=755 none {quote(str(folder))}" for folder in closed
              if not closed.intersection(folder.parents)]
    for number, place in enumerate(hidden, 3):
        at = quote(str(place))
        lines += [f"mkdir -p {at}", f"mount -c --bind /proc/self/fd/{number} {at}",
                  f"exec {number}<&-"]
    return ["unshare", "--mount", "sh", "-ec", "\n".join([*lines, 'exec "$@"']), "sh", *become]


def _cache(folder: Path, name: str) -> Path:
    return shared_cluster().nodes[0].cache if name == "ray" else folder / "cache"


def _containers(*pids: int) -> list[Any]:
    """Of jobs that those processes began: others may use the same Docker engine."""
    label = "toolchain.owner"
    found = docker_client().containers.list(all=True, ignore_removed=True,
                                            filters={"label": label})
    return [one for one in found
            if any(re.search(rf"\b{pid}\b", one.labels[label]) for pid in pids)]


def _command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found


def _gone(text: str, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while any(text.encode() in line for line in _command_lines()):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _fingerprint(cache: Path) -> dict[str, Any]:
    """What is below the cache's layers and roots, with modes, links and contents."""
    found = {}
    for top in ("layers", "roots", "blobs"):
        for path in sorted((cache / top).rglob("*")):
            status = path.lstat()
            content = (hashlib.sha256(path.read_bytes()).hexdigest()
                       if stat.S_ISREG(status.st_mode) else "")
            found[str(path.relative_to(cache))] = (
                status.st_mode, status.st_ino, status.st_nlink, status.st_mtime_ns, content)
    assert json.dumps(found)
    return found


# docker_env


@pytest.mark.parametrize("name", IN_IMAGES)
def test_volumes_and_variables_of_docker_env(bench: Bench, name: str,
                                             tmp_path: Path) -> None:
    given, kept = tmp_path / "given", tmp_path / "kept"
    for folder in (given, kept):
        folder.mkdir()
        folder.chmod(0o777)
    (given / "note").write_text("seen\n")
    docker = Docker(image="x", volumes=("$GIVEN:/data:ro", f"{kept}:/kept"),
                    environment={"SET": "a && b $HOME"}, copied=("COPIED_HERE", "ABSENT"))
    engine = bench.engine(name, COPIED_HERE="over", GIVEN=str(given))
    job = bench.job('cat /data/note; touch /data/no 2>/dev/null || echo refused; echo "$SET" '
                    '"$COPIED_HERE" "${ABSENT-none}" > /kept/out', docker=docker)
    engine.prepare(job)
    assert engine.execute(job).code == 0
    assert (kept / "out").read_text() == "a && b $HOME over none\n"
    assert not (given / "no").exists()


@pytest.mark.parametrize(("volume", "expected"), [
    ("~/a:/x", "/home/one/a:/x"), ("$HOME/a:/x:ro", "/home/one/a:/x:ro"), ("~:/x", "/home/one:/x"),
    ("${DATA}:/x", "/srv/a b:/x"), ("${DATA}/${HOME}:$DATA", "/srv/a b//home/one:/srv/a b"),
    ("a~b:/x", "a~b:/x"), ("/srv:/x", "/srv:/x"),
])
def test_a_volume_names_what_is_where_the_run_is_started(volume: str, expected: str) -> None:
    environ = {"HOME": "/home/one", "DATA": "/srv/a b"}
    assert [*binds(Docker(image="x", volumes=(volume,)), "one", environ)] == [expected]


@pytest.mark.parametrize(("volume", "what"), [
    ("$ABSENT/a:/x", "ABSENT is not set"), ("${EMPTY}:/x", "EMPTY is not set"),
    ("$(id)/a:/x", "no shell reads a volume"), ("`id`:/x", "no shell reads a volume"),
    ("${DATA:-/srv}:/x", "no shell reads a volume"), ("~:$1", "no shell reads a volume"),
])
def test_a_volume_is_not_read_by_a_shell(volume: str, what: str) -> None:
    environ = {"HOME": "/home/one", "DATA": "/srv", "EMPTY": ""}
    with pytest.raises(EngineError, match=what) as caught:
        [*binds(Docker(image="x", volumes=(volume,)), "one", environ)]
    assert caught.value.where == "one, docker_env.volumes"
    assert caught.value.fix


def test_a_named_volume_needs_docker(bench: Bench) -> None:
    engine = bench.sandbox()
    job = bench.job("true", docker=Docker(image="x", volumes=("models:/models",)))
    engine.prepare(job)
    with pytest.raises(EngineError, match="only folders of this machine"):
        engine.execute(job)

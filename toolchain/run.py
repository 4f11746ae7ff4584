"""Pushed -> Run: train once for each training key, and find the run again by that key.

The key is the digest of the image's config, the entry point, its parameters as they were settled,
and the content of local files that parameters point to. Engine, tracking store and machine are not
in it: wherever the same training finished, it need not be done again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.image import Image
from toolchain.layer import Layer
from toolchain.lock import Lock
from toolchain.push import Pushed
from toolchain.spec import Docker
from toolchain.spec.command import Call
from toolchain.values import dataclass

_SCHEMA = 1
KEY_TAG = "toolchain.key"
CHECK_TAG = "toolchain.check"
CHANGED_TAG = "toolchain.changed"
IMAGE_TAG = "toolchain.image"
LOCK_TAG = "toolchain.lock"
COMMIT_TAG = "mlflow.source.git.commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished MLflow run. `model_uri` is empty if it logged no model.

    A metric that is not a finite number is text (`NaN`), since JSON has none.
    """

    key: Digest
    run_id: str
    experiment_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float | str]
    model_uri: str

    def to_json(self) -> dict[str, Any]:
        return {
            "key": str(self.key), "run_id": self.run_id, "experiment_id": self.experiment_id,
            "status": self.status, "params": dict(self.params), "metrics": dict(self.metrics),
            "model_uri": self.model_uri,
        }

    @classmethod
    def from_json(cls, value: Any) -> Run:
        return cls(key=Digest.parse(value["key"]), run_id=value["run_id"],
                   experiment_id=value["experiment_id"], status=value["status"],
                   params=dict(value["params"]), metrics=dict(value["metrics"]),
                   model_uri=value["model_uri"])


def finite(value: float) -> float | str:
    """A metric as a receipt holds it."""
    return value if math.isfinite(value) else str(value).replace("nan", "NaN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that was begun: its identity and what the child needs to log into it.

    database, artifacts: absolute paths on this machine, where the store is such a file and such a
    folder; else empty.
    """

    run_id: str
    experiment_id: str
    environment: Mapping[str, str]
    database: str = ""
    artifacts: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for; zero is no wish. memory, shm: bytes; threads: how many its numeric
    libraries start, by default as many as cpus."""

    cpus: float = 0
    memory: int = 0
    gpus: int = 0
    shm: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an engine executes: a `bash -c` line in a copy of the project, with its environment.

    docker: what the project wants mounted, set and copied where it runs; an engine hands it over
    as arguments, and never through a shell. What `environment` has wins.
    environment: MLflow's variables and the values of parameters; no engine puts them on a command
    line. trial: stands before each line of the log, where several jobs write one. timeout: seconds,
    zero is none. database, artifacts: as in Started; the job can write them at the same paths.
    readable: files and folders of this machine that the job reads at the same paths. key: the
    training key, as text. log: a file that gets the output too. cancel: ends the job when it is
    set, from whatever thread.
    """

    name: str
    command: str
    lock: Lock
    project: Layer
    image: Image
    pushed: Pushed
    environment: Mapping[str, str]
    docker: Docker | None = None
    trial: str = ""
    timeout: float = 0
    resources: Resources = Resources()
    database: str = ""
    artifacts: str = ""
    readable: tuple[str, ...] = ()
    key: str = ""
    log: str = ""
    cancel: threading.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended. code: its exit status, for a signal either negative or 128 + the signal;
    reason: why it was ended, where it did not end by itself."""

    code: int
    reason: str = ""


class Engine(Protocol):
    """A place where training runs."""

    @property
    def name(self) -> str:
        """As on record: `local`, `sandbox`, `docker`, `kubernetes`."""

    def find(self, key: str) -> tuple[str, ...]:
        """The runs of jobs with that training key which this engine still has, running or ended,
        the newest first; of whatever tracking store. `execute` with such a run follows its job and
        starts nothing."""

    def prepare(self, job: Job) -> None:
        """Make or bring what all jobs of this image share. Twice is as once.

        Raises EngineError if this engine cannot run the job.
        """

    def execute(self, job: Job) -> Outcome:
        """Run the job, stream its output, return how it ended.

        A signal to this process is passed on to the job; then KeyboardInterrupt or SystemExit
        leaves here. That is so in the main thread; in another one `job.cancel` ends the job.
        Nothing of the job stays behind. Raises EngineError if it cannot be started.
        """


@runtime_checkable
class Previews(Protocol):
    """An engine that can show what it would submit."""

    def preview(self, job: Job) -> str:
        """Text for people; nothing is asked of anybody. Raises EngineError."""


class Remote(Protocol):
    """Where inputs come from that are not on this machine."""

    def fetch(self, uri: str, folder: Path) -> Path:
        """Download a file or folder into the empty `folder`; its path there.

        Raises TrackingError.
        """


class TakesOver(Protocol):
    """What goes on with the runs of others."""

    def take_over(self, begun: Started, key: Digest, run_ids: Sequence[str]) -> Started:
        """Go on with the first of these runs that is one of this store and of that key, as its
        owner from now on; `begun`, which holds the claim on the key, is taken back then. If there
        is none, `begun` is gone on with.
        """

    def withdraw(self, started: Started) -> None:
        """Take back a run that was begun and is not wanted."""


class Tracker(TakesOver, Protocol):
    """An MLflow tracking store. Every method raises TrackingError."""

    def check(self) -> None:
        """Ask a server whether it is there, once and shortly; nothing is asked of a database."""

    def find(self, key: Digest, experiment: str) -> Run | None:
        """The newest finished run of that training key, in whatever experiment."""

    def follow(self, key: Digest, waiting: Callable[[str], None]) -> Run | None:
        """The same; a run of the key that is under way is waited for, and `waiting` told so once.

        None if nobody has one or makes one: runs whose process died are marked FAILED.
        """

    def claim(self, experiment: str, name: str, tags: Mapping[str, str], folder: str,
              waiting: Callable[[str], None]) -> Started | Run:
        """Begin a run as `start` does, if no other process has or makes one of the key in `tags`;
        else its finished run, waited for as in `follow`.

        Of any number of processes that ask at once, on one machine or several, one begins.
        """

    def is_finished(self, run_id: str) -> bool:
        """Whether the run is still there and finished; cheap."""

    def start(self, experiment: str, name: str, tags: Mapping[str, str], folder: str) -> Started:
        """Begin a run whatever others do, making the experiment if need be.

        `folder` is where the project's version control is asked. A sign of life is written to the
        run until it is finished.
        """

    def finish(self, started: Started, status: str, params: Mapping[str, str], *,
               reusable: bool = True) -> None:
        """End the run as FINISHED, FAILED or KILLED; log those params that it did not itself.

        If it is not reusable, its key is taken from it, and no one finds it by that.
        """

    def lineage_of(self, run_id: str) -> Mapping[str, str]:
        """The tags of a run that say what it was made from: image, lock and git commit. Those
        that it has not are left out."""

    def read(self, run_id: str, key: Digest) -> Run:
        """The run with its parameters, metrics and model."""

    def model_files(self, run: Run) -> Mapping[str, Digest]:
        """Digests of the files of the run's model by path, without the names of run and model;
        {} if it logged none."""

    def tag(self, run_id: str, name: str, value: str) -> None:
        """Put a tag on a run, or change it."""


def plan(image: Digest, entry_point: str, call: Call,
         inputs: Mapping[str, Digest]) -> dict[str, Any]:
    """What decides a training. `image` is the digest of the config, since annotations are no
    content; `inputs`: parameter -> digest of the local file or folder.
    """
    return {
        "schema": _SCHEMA,
        "image": str(image),
        "entry_point": entry_point,
        "command": call.entry_point.command,
        "params": {name: value for name, value in call.identity().items() if name not in inputs},
        "inputs": {name: str(digest) for name, digest in inputs.items()},
    }


def make(*, key: Digest, entry_point: str, params: Mapping[str, str], experiment: str, folder: str,
         environment: str, job: Job, engine: Engine, tracker: Tracker,
         force: bool = False, check_of: str = "",
         waiting: Callable[[str], None] = lambda text: None,
         preparing: Callable[[], AbstractContextManager[Any]] = nullcontext,
         changed: Callable[[], str] = str) -> Run:
    """Train: run the job as a new run of `experiment`; or have the run of another process that
    trains the same, unless `force`.

    check_of: the run that this one is to be compared with; it is no run of the key then.
    preparing: what shows that the engine makes ready, which can take minutes.
    changed: names the inputs that are not what the key says any more; empty if all are.
    Raises EngineError if the entry point fails; the run is then marked FAILED. Raises it too if
    inputs changed; the run is kept, but is not reused. An interrupt marks it KILLED and goes on.
    """
    once = not (force or check_of)
    found = tracker.follow(key, waiting) if once else None
    if found is not None:
        return found
    with preparing():
        engine.prepare(job)
    tags = {
        "mlflow.project.entryPoint": entry_point,
        "mlflow.project.env": environment,
        "mlflow.project.backend": engine.name,
        **({CHECK_TAG: f"of run {check_of}"} if check_of else {KEY_TAG: str(key)}),
        IMAGE_TAG: job.pushed.reference, LOCK_TAG: str(job.lock.digest),
    }
    job = replace(job, key="" if check_of else str(key))
    begun = (tracker.claim(experiment, job.name, tags, folder, waiting) if once
             else tracker.start(experiment, job.name, tags, folder))
    if isinstance(begun, Run):
        return begun
    if once:
        begun = outlived(begun, key, engine, tracker)
    _execute(begun, entry_point, params, job, engine, tracker, changed)
    return tracker.read(begun.run_id, key)


def outlived(begun: Started, key: Digest, engine: Engine, tracker: TakesOver) -> Started:
    """The run to go on with: of a job that outlived whoever started it, or `begun`, which holds
    the claim on the key. Of several that come back to one job, one holds that at a time."""
    try:
        run_ids = engine.find(str(key))
        return tracker.take_over(begun, key, run_ids) if run_ids else begun
    except BaseException:
        tracker.withdraw(begun)
        raise


def _execute(started: Started, entry_point: str, params: Mapping[str, str], job: Job,
             engine: Engine, tracker: Tracker, changed: Callable[[], str]) -> None:
    """Run the job and end its run. Raises EngineError unless it went well."""
    status, what = "FAILED", ""
    try:
        outcome = engine.execute(replace(
            job, environment={**started.environment, **job.environment},
            database=started.database, artifacts=started.artifacts))
        if outcome.code == 0 and not outcome.reason:
            what = changed()
            if what:
                tracker.tag(started.run_id, CHANGED_TAG, what)
            status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        tracker.finish(started, status, params, reusable=not what)
    if status != "FINISHED":
        raise EngineError(
            f"entry point {entry_point!r} {words(outcome)}",
            where=f"{job.name}, run {started.run_id}",
            fix="read its output above; the run is marked FAILED and is not reused",
        )
    if what:
        raise EngineError(
            f"changed while it was used: {what}", where=f"{job.name}, run {started.run_id}",
            fix="train again when nobody writes to it; the run is kept, but stands for no key")


def words(outcome: Outcome) -> str:
    if outcome.reason:
        return outcome.reason
    if outcome.code < 0:
        return f"was ended by signal {-outcome.code}"
    return f"exited with status {outcome.code}"

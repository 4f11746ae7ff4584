"""Pushed -> Run: train once for each training key, and find the run again by that key.

The key is the digest of the image's config, the entry point, its parameters as they were settled,
and the content of local files that parameters point to. Engine, tracking store and machine are not
in it: wherever the same training finished, it need not be done again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.layer import Layer
from toolchain.lock import Lock
from toolchain.push import Pushed
from toolchain.spec import Docker
from toolchain.spec.command import Call

_SCHEMA = 1
KEY_TAG = "toolchain.key"
IMAGE_TAG = "toolchain.image"
LOCK_TAG = "toolchain.lock"


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
    """A run that was begun: its identity and what the child needs to log into it."""

    run_id: str
    experiment_id: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an engine executes: a `bash -c` line in a copy of the project, with its environment.

    docker: what the project wants mounted, set and copied where it runs; an engine hands it over
    as arguments, and never through a shell. What `environment` has wins.
    """

    name: str
    command: str
    lock: Lock
    project: Layer
    environment: Mapping[str, str]
    docker: Docker | None = None


class Engine(Protocol):
    """A place where training runs."""

    def execute(self, job: Job) -> int:
        """Run the job, stream its output, return its exit status.

        A signal to this process is passed on to the job; then KeyboardInterrupt or SystemExit
        leaves here. Nothing of the job stays behind. Raises EngineError if it cannot be started.
        """


class Remote(Protocol):
    """Where inputs come from that are not on this machine."""

    def fetch(self, uri: str, folder: Path) -> Path:
        """Download a file or folder into the empty `folder`; its path there.

        Raises TrackingError.
        """


class Tracker(Protocol):
    """An MLflow tracking store. Every method raises TrackingError."""

    def find(self, key: Digest, experiment: str) -> Run | None:
        """The newest finished run of that training key, in whatever experiment."""

    def is_finished(self, run_id: str) -> bool:
        """Whether the run is still there and finished; cheap."""

    def start(self, experiment: str, name: str, tags: Mapping[str, str], folder: str) -> Started:
        """Begin a run, making the experiment if need be; runs of `key` that died are closed.

        `folder` is where the project's version control is asked.
        """

    def finish(self, started: Started, status: str, params: Mapping[str, str]) -> None:
        """End the run as FINISHED, FAILED or KILLED; log those params that it did not itself."""

    def commit_of(self, run_id: str) -> Mapping[str, str]:
        """The git commit that a run was made from, as a tag; {} if it was from none."""

    def read(self, run_id: str, key: Digest) -> Run:
        """The run with its parameters, metrics and model."""


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


def make(*, key: Digest, project: str, entry_point: str, command: str, params: Mapping[str, str],
         experiment: str, pushed: Pushed, lock: Lock, layer: Layer, folder: str,
         variables: Mapping[str, str], environment: str, engine: Engine, tracker: Tracker,
         docker: Docker | None = None) -> Run:
    """Train: run `command` with `variables` in its environment.

    Raises EngineError if the entry point fails; the run is then marked FAILED.

    An interrupt marks it KILLED and goes on.
    """
    tags = {
        "mlflow.project.entryPoint": entry_point,
        "mlflow.project.env": environment,
        "mlflow.project.backend": "local",
        KEY_TAG: str(key), IMAGE_TAG: pushed.reference, LOCK_TAG: str(lock.digest),
    }
    started = tracker.start(experiment, project, tags, folder)
    status = "FAILED"
    try:
        code = engine.execute(Job(name=project, command=command, lock=lock, project=layer,
                                  environment={**started.environment, **variables},
                                  docker=docker))
        status = "FINISHED" if code == 0 else "FAILED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        tracker.finish(started, status, params)
    if code != 0:
        reason = f"was ended by signal {-code}" if code < 0 else f"exited with status {code}"
        raise EngineError(
            f"entry point {entry_point!r} {reason}", where=f"{project}, run {started.run_id}",
            fix="read its output above; the run is marked FAILED and is not reused",
        )
    return tracker.read(started.run_id, key)

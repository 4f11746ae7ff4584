"""Run -> ModelVersion: a version in MLflow's model registry, with alias and lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from toolchain.errors import TrackingError
from toolchain.run import Run
from toolchain.values import dataclass

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version of a registered model, and the alias that was moved to it."""

    name: str
    version: str
    alias: str
    run_id: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "alias": self.alias,
                "run_id": self.run_id}

    @classmethod
    def from_json(cls, value: Any) -> ModelVersion:
        return cls(name=value["name"], version=value["version"], alias=value["alias"],
                   run_id=value["run_id"])


class Models(Protocol):
    """An MLflow model registry. Every method raises TrackingError."""

    def version_of(self, name: str, run_id: str) -> str | None:
        """The newest version of that model that came from that run."""

    def create_version(self, name: str, run: Run, tags: Mapping[str, str]) -> str:
        """Make the model if need be, and a version of it."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Move the alias. Twice is as once."""

    def has_version(self, name: str, version: str, alias: str) -> bool:
        """Whether that version is there and carries the alias; cheap."""


def plan(run: Run, name: str, alias: str) -> dict[str, Any]:
    """What decides a registration."""
    return {"schema": _SCHEMA, "run_id": run.run_id, "model_uri": run.model_uri, "name": name,
            "alias": alias}


def make(run: Run, name: str, alias: str, lineage: Mapping[str, str],
         models: Models) -> ModelVersion:
    """Register the run's model, once for each run. Raises TrackingError if it logged none."""
    if not run.model_uri:
        raise TrackingError(
            "the run logged no model", where=f"run {run.run_id}",
            fix="log one in the entry point, as in mlflow.sklearn.log_model(model, name='model')",
        )
    version = models.version_of(name, run.run_id)
    if version is None:
        version = models.create_version(name, run, lineage)
    models.set_alias(name, alias, version)
    return ModelVersion(name=name, version=version, alias=alias, run_id=run.run_id)

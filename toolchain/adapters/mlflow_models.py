"""MLflow as model registry."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from toolchain.adapters.mlflow_store import TrackingStore, within
from toolchain.run import Run


class MlflowModels:
    """Implements toolchain.model.Models. Every method raises TrackingError."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store

    def version_of(self, name: str, run_id: str) -> str | None:
        with self._store.explained() as client:
            found = client.search_model_versions(f"run_id = '{run_id}'")
        numbers = [int(item.version) for item in found if item.name == name]
        return str(max(numbers)) if numbers else None

    def create_version(self, name: str, run: Run, tags: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        with self._store.explained() as client:
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            with self._store.as_default():
                version = client.create_model_version(
                    name, run.model_uri, run_id=run.run_id, tags=dict(tags),
                )
        return str(version.version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with self._store.explained() as client:
            client.set_registered_model_alias(name, alias, version)

    def has_version(self, name: str, version: str, alias: str) -> bool:
        if self._store.is_sqlite:
            return bool(self._store.ask_sqlite(
                "select 1 from registered_model_aliases where name=? and alias=? and version=?",
                (name, alias, int(version))))
        if self._store.is_server:
            answer = self._store.ask_server(
                f"registered-models/alias?name={quote(name)}&alias={quote(alias)}")
            return bool(within(answer, "model_version").get("version") == version)
        with self._store.explained() as client:
            aliases = client.get_registered_model(name).aliases
        return bool(str(aliases.get(alias)) == version)

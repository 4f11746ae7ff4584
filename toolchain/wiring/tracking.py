"""Where runs are recorded: the settings, what the environment says, and MLflow's own default."""

from __future__ import annotations

import os
from pathlib import Path

from toolchain.config import Config
from toolchain.errors import without_credentials


def tracking_uri(config: Config) -> str:
    """The tracking store that holds: the setting, else the environment's, else MLflow's default."""
    return (config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
            or "sqlite:///mlflow.db")


def tracking_identity(config: Config) -> str:
    """The tracking store as it may be put on record: without user, password and query."""
    return without_credentials(tracking_uri(config)).partition("?")[0]


def tracking_file(config: Config, root: Path) -> Path | None:
    """The tracking store's file, if it is a local database."""
    uri = tracking_uri(config)
    if not uri.startswith("sqlite:///"):
        return None
    return root / uri.removeprefix("sqlite:///").partition("?")[0]


def experiment(config: Config) -> str:
    """The experiment's name, or nothing where none is set."""
    return config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "")

"""Incremental, content-addressed builds, training and registration of MLflow Projects."""

VERSION = "0.1.0"  # as in pyproject.toml

"""Incremental, content-addressed builds, training and registration of MLflow Projects."""

"""Docker's config.json as a user has it. Tests write to a HOME of their own."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any


def write_config(config: Any) -> Path:
    """Put a config.json where Docker looks for it; replaces what was there."""
    path = Path(os.environ["HOME"]) / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def login(host: str, user: str, password: str) -> Path:
    """As `docker login` leaves it where there is no helper."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return write_config({"auths": {host: {"auth": auth}}})

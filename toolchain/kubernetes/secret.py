"""Which variables hold what nobody should read in a Job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolchain.errors import without_credentials

_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|_KEY(_ID)?\Z|CREDENTIAL|CONNECTION_STRING|_SAS",
                   re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """By its name, or by a password in a URL."""
    return bool(_NAME.search(name)) or without_credentials(value) != value


def written_out(template: dict[str, Any] | None) -> Iterator[str]:
    """Variables that a job template itself gives a secret value."""
    pod = template["spec"]["template"]["spec"] if template else {}
    for container in pod.get("containers", ()):
        for item in container.get("env") or ():
            value = item.get("value") if isinstance(item, dict) else None
            if value and is_secret(str(item.get("name", "")), str(value)):
                yield str(item["name"])

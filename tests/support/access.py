"""Folders that another user may enter: what runs in a container is often somebody else."""

from __future__ import annotations

import tempfile
from pathlib import Path


def let_in(folder: Path) -> None:
    """Everybody may read this folder and enter it, and enter those of pytest above it, which are
    below the machine's folder for temporary files."""
    folder.chmod(0o755)
    for place in folder.parents:
        if not place.is_relative_to(tempfile.gettempdir()) or place == Path(tempfile.gettempdir()):
            return
        mode = place.stat().st_mode
        if mode & 0o011 != 0o011:
            place.chmod(mode | 0o011)

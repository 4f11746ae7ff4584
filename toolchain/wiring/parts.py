"""What every adapter of one call is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolchain.config import Config
from toolchain.journal import Journal
from toolchain.progress import Progress
from toolchain.store import Store
from toolchain.trace import Trace
from toolchain.values import dataclass


@dataclass(frozen=True)
class Parts:
    """`root`: the workspace's folder; `config`: its settings, without those of a project; `say`
    tells people."""

    root: Path
    cache: Path
    config: Config
    journal: Journal
    store: Store
    trace: Trace
    progress: Progress
    say: Callable[[str], None]

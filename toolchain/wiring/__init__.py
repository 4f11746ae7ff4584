"""Which adapter serves which protocol. Everything is imported and made when first asked for.

`adapters.py` has them all; `packages.py` those that choose and bring packages, `engines.py` those
that run jobs; `tracking.py` says which tracking store holds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.wiring.tracking import experiment, tracking_file, tracking_identity

if TYPE_CHECKING:
    from toolchain.chain import Session
    from toolchain.config import Config
    from toolchain.journal import Journal
    from toolchain.lease import Lease
    from toolchain.workspace import Project, Workspace

__all__ = ["cuda", "ended_by_sigterm", "experiment", "guest", "placed", "session", "tracking_file",
           "tracking_identity"]


def cuda(config: Config) -> str:
    """CUDA's version where the image runs: the setting, else what conda's own variable says."""
    return config.conda_cuda or os.environ.get("CONDA_OVERRIDE_CUDA", "")


def placed(config: Config, root: Path) -> Config:
    """The settings with the registry and repository of MLflow's backend config, where they hold
    for the engine and none is set."""
    if config.engine != "kubernetes" or not config.kubernetes_config or config.registry:
        return config
    from dataclasses import replace

    from toolchain.adapters.workload import read_backend

    named = read_backend(config, root)
    if not named.registry:
        return config
    return replace(config, registry=named.registry, repository=named.repository)


def session(workspace: Workspace, journal: Journal, say: Callable[[str], None]) -> Session:
    """What the projects of one call share, on this machine. `say` tells people."""
    from toolchain import report
    from toolchain.adapters.compatible import host_platform
    from toolchain.chain import Session
    from toolchain.progress import Progress
    from toolchain.store import Store
    from toolchain.trace import Trace
    from toolchain.wiring.adapters import Adapters
    from toolchain.wiring.parts import Parts

    cache, counter = workspace.cache, Progress()
    lease = _lease(cache, say)
    trace = Trace(cache, journal)
    store = Store(cache / "blobs" / "sha256", cache / "quarantine", journal)
    tools = Adapters(Parts(root=workspace.root, cache=cache, config=workspace.config,
                           journal=journal, store=store, trace=trace, progress=counter, say=say))
    return Session(workspace=workspace, journal=journal, store=store, trace=trace, tools=tools,
                   progress=partial(report.progress, counter), say=say, host=host_platform(),
                   lease=lease)


def _lease(cache: Path, say: Callable[[str], None]) -> Lease:
    from toolchain.lease import Lease

    return Lease(cache, lambda: say("the cache is being pruned; waiting for that"))


def ended_by_sigterm() -> contextlib.AbstractContextManager[None]:
    """While the block runs, SIGTERM leaves it as an exception, as Ctrl-C does."""
    from toolchain.adapters.supervised import exit_on_sigterm

    return exit_on_sigterm()


def guest(workspace: Workspace, journal: Journal, asked: str,
          say: Callable[[str], None]) -> Project | None:
    """The project that a git URL names; None for what is no URL but a name."""
    from toolchain.adapters.git_url import is_url, split
    from toolchain.adapters.repository import Repositories

    if not is_url(asked):
        return None
    from toolchain import guest
    from toolchain.trace import Trace

    url, folder = split(asked)
    lease = _lease(workspace.cache, say)  # a lock that is held must not be pruned
    trace = Trace(workspace.cache, journal)
    found = guest.find(url, folder, workspace,
                       Repositories(workspace.cache / "git", os.environ, trace), say)
    del lease
    return found

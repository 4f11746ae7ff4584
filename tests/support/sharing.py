"""Which process runs which tests, where several share them (pytest-xdist)."""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_ROOT = Path(__file__).parents[2]
# By these a module asks what a machine has one of: a Docker engine, a Ray cluster, a Kubernetes.
_SINGLE = ("docker_client", "ray_cluster", "cluster_config", "support.engines", "test_examples")


class Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """The tests of a module stay together, as their fixtures do. So do all that ask what there is
    one of, since they look at everything that is in it."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "what there is one of" if _is_single(path) else path


@functools.cache
def _is_single(path: str) -> bool:
    text = (_ROOT / path).read_text(encoding="utf-8")
    return any(name in text for name in _SINGLE)

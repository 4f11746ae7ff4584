"""Which process runs which tests, where several share them (pytest-xdist)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_ROOT = Path(__file__).parents[2]
# By these a module asks what a machine has one of.
_SINGLE = {"the clusters": ("ray_cluster", "cluster_config", "support.engines"),
           "the Docker engine": ("docker_client", "test_examples")}
# What takes minutes begins first, so that no process is left with it alone at the end.
_LONG = (*_SINGLE, "test_sweep", "test_claims", "test_truth_table", "test_training_cache",
         "test_sources", "test_conda", "test_docs", "test_prune", "tests/system")


class Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """The tests of a module stay together, as their fixtures do. So do all that ask for the same
    thing of which there is one: they load it, and look at what is in it."""

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_place), last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return _single(path) or path


def _place(scope: str) -> int:
    return next((place for place, name in enumerate(_LONG) if name in scope), len(_LONG))


@functools.cache
def _single(path: str) -> str:
    text = (_ROOT / path).read_text(encoding="utf-8")
    return next((what for what, names in _SINGLE.items() if any(name in text for name in names)),
                "")

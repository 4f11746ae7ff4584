"""Stages that were found fresh -> the files whose times vouch for them, for toolchain.fresh."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from toolchain import pipeline, wiring
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.stages import base, layer, parse, pins, platforms, push, resolve, train


def evidence(chain: Chain, stages: Set[str]) -> tuple[Set[str], set[Path]]:
    """Of those stages, the ones that files alone can vouch for, and those files.

    Raises NotYet, and what the stages' plans raise.
    """
    store, cache = chain.session.store, chain.session.workspace.cache
    paths = {pins.path(chain)}
    database = wiring.tracking_file(chain.config, chain.root)
    if database is None:
        stages = stages - {"train", "register"}
    elif stages & {"train", "register"}:
        paths |= {database, *train.evidence(chain)}
    paths |= {pipeline.receipt_path(cache, chain.name, stage) for stage in stages}
    if "parse" in stages:
        paths |= {chain.folder / path for path in parse.plan(chain)["files"]}
    if "resolve" in stages:
        paths |= resolve.evidence(chain)
    blobs = cache / "registry" / chain.config.repository / "blobs" / "sha256"
    embedded = "push" in stages and not chain.config.registry
    for part in map(chain.on, chain.platforms):
        built = base.result(part) if stages & {"base", "push"} else ()
        if stages & {"layer", "push"}:
            built = (*built, layer.result(part))
        paths |= {store.path(item.digest) for item in built}
        if embedded:
            done = push.result(part)
            names = (*(item.digest for item in built), done.config, done.digest)
            paths |= {blobs / name.hex for name in names}
    if embedded:  # of several platforms, their index
        paths.add(blobs / Digest.parse(platforms.whole(push, chain)["digest"]).hex)
    return stages, paths

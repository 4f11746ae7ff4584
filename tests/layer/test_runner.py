"""The runner's layer: the same bytes for every project, made once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.layer.conftest import Member
from toolchain.digest import Digest
from toolchain.layer import Layer, runner
from toolchain.store import Store
from toolchain.trace import Trace


def test_the_layer_is_the_same_for_all_and_made_once(
    store: Store, trace: Trace, pool: ThreadPoolExecutor,
    members: Callable[[Layer], dict[str, Member]],
) -> None:
    one, was_made = runner.make(store, trace, pool, lambda who: None)
    assert was_made
    assert runner.make(store, trace, pool, lambda who: None) == (one, False)
    trace.forget("runner", runner.key())
    assert runner.make(store, trace, pool, lambda who: None) == (one, True)
    found = members(one)
    files = {path.removeprefix("opt/toolchain/"): data for path, (info, data) in found.items()
             if info.isreg()}
    assert files == runner.files()
    assert {(info.uid, info.gid, info.mode & 0o022) for info, _ in found.values()} == {(0, 0, 0)}
    assert runner.plan()["files"] == {
        name: Digest.of(data).hex for name, data in files.items()}

"""The stage table, and the one loop that runs a stage through trace and receipt.

A stage is fresh if its receipt was written for the key that its plan has now, and what it made is
still in place. Otherwise it runs: under the key's lock, the result on record is taken if it is
still good, else made. A stage that runs and yields the same value stops the chain there, since
the plans after it do not change.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote

from toolchain import atomic
from toolchain.digest import Digest, canonical_json
from toolchain.errors import StoreError

if TYPE_CHECKING:
    from toolchain.chain import Chain, Stage
    from toolchain.stages.platforms import Module


# The stages in order, and what each does. Each is a module of toolchain.stages.
STAGES = {
    "parse": "read and check MLproject and its environment file",
    "resolve": "pin every dependency by version and hash (upgrade=1 moves the pins)",
    "base": "build the layers of system, interpreter and packages",
    "layer": "build the layer of the project's own files",
    "push": "assemble the image and push it",
    "train": "run an entry point, log it to MLflow (entry_point=… params=\"a=1 b=2\" force=1)",
    "register": "make a model version of the trained model",
}


def stage_of(name: str) -> Stage:
    """The stage's module, imported when it is first planned: a null call plans nothing."""
    from toolchain.stages.platforms import of

    return of(cast("Module", importlib.import_module(f"toolchain.stages.{name}")))


class Outcome(NamedTuple):
    """What running a stage came to, for people."""

    words: str
    seconds: float


def receipt_path(cache: Path, project: str, stage: str) -> Path:
    """Where a stage's result for a project is written, as canonical JSON."""
    return cache / "out" / quote(project, safe=" ") / f"{stage}.json"


def is_fresh(chain: Chain, stage: Stage) -> bool:
    """Whether the stage need not run. Raises what its plan raises, but never NotYet."""
    from toolchain.chain import NotYet

    try:
        plan = stage.plan(chain)
    except NotYet:
        return False
    key = Digest.of_json(plan)
    trace = chain.session.trace
    if trace.current(chain.name, stage.NAME) != key:
        return False
    value = trace.get(stage.NAME, key)
    if value is None or not stage.stands(chain, value):
        return False
    return _receipt(chain, stage) == canonical_json(value)


def run(chain: Chain, stage: Stage) -> Outcome:
    """Bring the stage's value about, reuse it if it is on record, write its receipt."""
    started = time.monotonic()
    value, key, words = chain.bring(stage)
    _write_receipt(chain, stage, canonical_json(value))
    chain.session.trace.set_current(chain.name, stage.NAME, key)
    return Outcome(words=words, seconds=time.monotonic() - started)


def forget(chain: Chain, stage: Stage) -> None:
    """Drop a stage's receipt and traces, so that the next run makes it anew."""
    from toolchain.chain import part_name

    trace = chain.session.trace
    for name in (stage.NAME, *(part_name(stage.NAME, platform) for platform in chain.platforms)):
        key = trace.current(chain.name, name)
        if key is not None:
            trace.forget(stage.NAME, key)
        trace.set_current(chain.name, name, None)
    receipt_path(chain.session.workspace.cache, chain.name, stage.NAME).unlink(missing_ok=True)


def explain(chain: Chain) -> Iterator[tuple[str, str]]:
    """(stage, what the next run would do and why) for every stage."""
    from toolchain.chain import NotYet

    waiting_for = ""
    for stage in map(stage_of, STAGES):
        if waiting_for:
            yield stage.NAME, f"runs if the result of {waiting_for} changes"
            continue
        try:
            plan = stage.plan(chain)
        except NotYet as error:
            waiting_for = str(error)
            yield stage.NAME, f"runs after {waiting_for}"
            continue
        reason = _reason(chain, stage, plan)
        yield stage.NAME, reason or "up to date"
        if reason and chain.session.trace.get(stage.NAME, Digest.of_json(plan)) is None:
            waiting_for = stage.NAME


def _reason(chain: Chain, stage: Stage, plan: Any) -> str:
    """Why the stage would run; empty if it would not."""
    trace = chain.session.trace
    key = Digest.of_json(plan)
    before = trace.current(chain.name, stage.NAME)
    if before is None:
        return "would run: never ran for this project"
    if before != key:
        old = trace.plan(stage.NAME, before)
        changes = ", ".join(_differences(old, plan)) if old is not None else "its inputs"
        done = " (its result is on record)" if trace.get(stage.NAME, key) is not None else ""
        return f"would run: changed {changes}{done}"
    value = trace.get(stage.NAME, key)
    if value is None:
        return "would run: its result was forgotten"
    if not stage.stands(chain, value):
        return "would run: what it made is gone or damaged, or it is to be made anew"
    if _receipt(chain, stage) != canonical_json(value):
        return "would run: its receipt is missing or changed"
    return ""


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two plans differ, as dotted paths, at most a handful."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found += _differences(old.get(name), new.get(name),
                                      f"{path}.{name}" if path else name)
        return found if len(found) <= 6 else [*found[:6], f"and {len(found) - 6} more"]
    if path.startswith("files."):
        return [path]
    if path == "files" and isinstance(old, list) and isinstance(new, list):
        return _differences({item[0]: item[1:] for item in old},
                            {item[0]: item[1:] for item in new}, path)
    if isinstance(old, list) and isinstance(new, list):
        gone = [str(item) for item in old if item not in new]
        come = [str(item) for item in new if item not in old]
        return [f"{path} ({'; '.join([f'-{x}' for x in gone] + [f'+{x}' for x in come])})"]
    if _is_short(old) and _is_short(new):
        return [f"{path} ({old} -> {new})"]
    return [path]


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None))) and len(str(value)) < 40


def _receipt(chain: Chain, stage: Stage) -> bytes | None:
    try:
        return receipt_path(chain.session.workspace.cache, chain.name, stage.NAME).read_bytes()
    except OSError:
        return None


def _write_receipt(chain: Chain, stage: Stage, data: bytes) -> None:
    path = receipt_path(chain.session.workspace.cache, chain.name, stage.NAME)
    if _receipt(chain, stage) == data:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, data)
    except OSError as error:
        raise StoreError(f"a receipt cannot be written: {error.strerror}", where=str(path),
                         fix="make the cache folder writable, or free some space") from None

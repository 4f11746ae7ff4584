"""Run, Run -> in what two trainings with one key differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toolchain.digest import Digest
from toolchain.errors import EngineError
from toolchain.run import CHECK_TAG, Run, Tracker

# What MLflow measures of the machine while a run lasts; nobody expects it to be the same.
_OF_THE_MACHINE = "system/"
_SHOWN = 6


def differences(first: Run, second: Run, first_files: Mapping[str, Digest],
                second_files: Mapping[str, Digest]) -> tuple[str, ...]:
    """The metrics and files of the model that are not the same, in words; () if all are."""
    metrics = {name for name in first.metrics.keys() | second.metrics.keys()
               if not name.startswith(_OF_THE_MACHINE)}
    return (
        *_compared("metric", metrics, first.metrics, second.metrics, values=True),
        *_compared("model file", first_files.keys() | second_files.keys(), first_files,
                   second_files, values=False),
    )


def check(first: Run, second: Run, tracker: Tracker) -> str:
    """Compare two runs, put on both what came of it; a few words for people.

    Raises EngineError if they differ, and TrackingError.
    """
    files = tracker.model_files(first), tracker.model_files(second)
    found = differences(first, second, *files)
    text = f"differs: {'; '.join(found)}" if found else "the same"
    for run, other in ((first, second), (second, first)):
        tracker.tag(run.run_id, CHECK_TAG, f"{text} (run {other.run_id})")
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise EngineError(
            f"two trainings with the same key differ: {'; '.join(found[:_SHOWN])}{more}",
            where=f"runs {first.run_id} and {second.run_id}",
            fix="seed every source of randomness, sort what is listed, keep times out of metrics "
                "and models, and use one thread where a library adds up in any order")
    model = f"model ({len(files[0])} files)" if files[0] else "no model"
    return f"run {second.run_id} gave the same: {len(first.metrics)} metrics, {model}"


def _compared(kind: str, names: Iterable[str], first: Mapping[str, object],
              second: Mapping[str, object], *, values: bool) -> Iterable[str]:
    for name in sorted(names):
        if name not in second or name not in first:
            yield f"{kind} {name} only in the {'first' if name in first else 'second'}"
        elif first[name] != second[name]:
            yield f"{kind} {name}: {first[name]} and {second[name]}" if values else f"{kind} {name}"

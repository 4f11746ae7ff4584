"""A study in memory: it draws what Optuna draws from its database, which has all of it as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolchain.adapters.optuna import OptunaStudies
from toolchain.errors import SweepError
from toolchain.journal import Journal
from toolchain.sweep import Sweep, read
from toolchain.sweep.draws import Draws
from toolchain.sweep.trial import COMPLETE, FAILED, PRUNED, Ended, Study
from toolchain.trace import Trace

_STATES = (COMPLETE, COMPLETE, PRUNED, COMPLETE, FAILED)


def _sweep(method: str, **more: str) -> Sweep:
    text = "".join(f"{name}: {value}\n" for name, value in more.items())
    return read.given(read.read(
        f"method: {method}\nmetric: {{name: loss}}\ntrials: 30\nseed: 4\n{text}parameters:\n"
        "  x: {min: 0.0, max: 4.0}\n  n: {min: 1, max: 9}\n",
        "sweep.yaml"), {})


def _studies(folder: Path) -> OptunaStudies:
    return OptunaStudies(f"sqlite:///{folder / 'sweeps.db'}", Trace(folder, Journal(folder)))


def _loss(params: Any) -> float:
    return float((float(params["x"]) - 3) ** 2 + int(params["n"]))


def _ended(number: int, params: Any) -> Ended:
    state = _STATES[number % len(_STATES)]
    return Ended(state=state, value=_loss(params) if state == COMPLETE else None,
                 reason="for a test" if state == FAILED else "",
                 history=((0, 5.0), (1, _loss(params))))


def _on_record(folder: Path, name: str) -> list[Any]:
    import optuna

    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'sweeps.db'}")
    return list(study.get_trials())


def _settle_some(study: Study, sweep: Sweep, count: int) -> list[dict[str, str]]:
    draws, drawn = Draws(study, sweep), []
    for _ in range(count):
        trial = draws.next()
        assert trial is not None
        draws.reserve()
        drawn.append(dict(trial.params))
        study.settle(trial.number, _ended(trial.number, trial.params))
    return drawn


@pytest.mark.parametrize("method", ["bayes", "cmaes", "random"])
def test_the_same_points_as_optuna_draws_with_its_own_database(method: str, tmp_path: Path) -> None:
    import optuna

    sweep = _sweep(method)
    drawn = _settle_some(_studies(tmp_path).open("ours", sweep), sweep, 25)

    from toolchain.adapters.optuna import _sampler

    other = optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}", study_name="other",
                                sampler=_sampler(sweep, 0))
    for number, params in enumerate(drawn):
        asked = other.ask()
        assert params == {"n": str(asked.suggest_int("n", 1, 9)),
                          "x": repr(asked.suggest_float("x", 0, 4))}
        ended = _ended(number, params)
        other.tell(asked, ended.value, state={
            COMPLETE: optuna.trial.TrialState.COMPLETE, PRUNED: optuna.trial.TrialState.PRUNED,
            FAILED: optuna.trial.TrialState.FAIL}[ended.state])


def test_all_that_is_known_is_on_record(tmp_path: Path) -> None:
    sweep = _sweep("bayes", early_terminate="{type: median}")
    study: Any = _studies(tmp_path).open("ours", sweep)
    _settle_some(study, sweep, 14)
    known, record = study._study.get_trials(), _on_record(tmp_path, "ours")
    assert len(known) == len(record) == 15  # and one that is reserved
    for ours, theirs in zip(known, record, strict=True):
        for name in ("number", "params", "distributions", "user_attrs", "system_attrs",
                     "intermediate_values", "state", "values"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert any(one.user_attrs for one in record)
    assert record[0].intermediate_values


def test_what_was_only_reserved_is_the_next_calls_first(tmp_path: Path) -> None:
    sweep = _sweep("bayes")
    _settle_some(_studies(tmp_path).open("ours", sweep), sweep, 12)
    again = _studies(tmp_path).open("ours", sweep)
    draws = Draws(again, sweep)
    trial = draws.next()
    assert trial is not None
    assert (trial.number, set(trial.params)) == (12, {"x", "n"})
    following = draws.next()
    assert following is not None
    assert following.number == 13


def test_nothing_is_reserved_beyond_what_was_asked_for(tmp_path: Path) -> None:
    sweep = _sweep("bayes")
    _settle_some(_studies(tmp_path).open("ours", sweep), sweep, 30)
    assert len(_on_record(tmp_path, "ours")) == 30


def test_another_process_in_the_same_file_is_found_out(tmp_path: Path) -> None:
    sweep = _sweep("random")
    first = _studies(tmp_path).open("ours", sweep)
    second = _studies(tmp_path).open("ours", sweep)
    first.draw()
    with pytest.raises(SweepError, match="another process draws points from the same study"):
        second.draw()


def test_what_cannot_be_recorded_is_not_known(tmp_path: Path) -> None:
    sweep = _sweep("bayes")
    study: Any = _studies(tmp_path).open("ours", sweep)
    (trial,) = (study.draw(),)
    import sqlite3

    with sqlite3.connect(tmp_path / "sweeps.db") as other:
        other.execute("drop table trial_values")
    with pytest.raises(SweepError, match="the record of trials"):
        study.settle(trial.number, Ended(state=COMPLETE, value=1.0))
    assert [one.state for one in study.past()] == ["RUNNING"]

"""Ranges with steps, as Optuna draws them and puts them on record."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest

from toolchain.adapters.optuna import OptunaStudies
from toolchain.journal import Journal
from toolchain.sweep import read
from toolchain.sweep.trial import COMPLETE, Ended
from toolchain.trace import Trace

RANGES = [
    "{min: 0.0, max: 1.0, q: 0.1}",
    "{min: 0.15, max: 0.98, q: 0.1, log: true}",
    "{min: 1, max: 100, q: 10, log: true}",
    "{min: 2, max: 9, q: 3}",
    "{min: 0.3333333333333333, max: 1.0, q: 0.1}",
    "{min: 0.6666666666666666, max: 11, q: 10}",  # a float has the last point less than it is
    "{min: 1000000.0, max: 1000001.0, q: 1.0e-6}",
]


@pytest.mark.parametrize("method", ["bayes", "random", "cmaes"])
@pytest.mark.parametrize("words", RANGES)
def test_every_point_is_one_that_optuna_takes_back(words: str, method: str,
                                                   tmp_path: Path) -> None:
    sweep = read.read(f"method: {method}\nmetric: {{name: loss}}\ntrials: 9\nparameters:\n"
                      f"  x: {words}\n  y: {{min: 0.0, max: 1.0}}\n", "sweep.yaml")
    item = sweep.space.parameters[0]
    studies = OptunaStudies(f"sqlite:///{tmp_path / 'sweeps.db'}",
                            Trace(tmp_path, Journal(tmp_path)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a range's end that is put elsewhere
        study = studies.open("one", sweep)
        points = [item.text(item.low), item.last]
        for number in range(12):  # beyond what the sampler draws without learning
            trial = study.draw()
            points.append(trial.params["x"])
            study.settle(trial.number, Ended(state=COMPLETE, value=float(number)))
        for text in points:
            assert item.low <= float(text) <= item.high
            assert item.text(float(text)) == text
            assert study.add({"x": text, "y": "0.5"}).params["x"] == text
    again = studies.open("one", sweep)
    assert [past.params["x"] for past in again.past()] == points[2:] + points
    cut_short = next(past for past in again.past() if past.state == "RUNNING")
    assert again.resume(cut_short.number).params == cut_short.params


def test_drawing_takes_no_longer_for_a_small_q(tmp_path: Path) -> None:
    sweep = read.read("method: random\nmetric: {name: loss}\ntrials: 9\nparameters:\n"
                      "  x: {min: 0.0, max: 100.0, q: 1.0e-6}\n", "sweep.yaml")
    study = OptunaStudies(f"sqlite:///{tmp_path / 'sweeps.db'}",
                          Trace(tmp_path, Journal(tmp_path))).open("one", sweep)
    began = time.process_time()
    for _ in range(3):
        study.draw()
    assert time.process_time() - began < 10  # one that counts to a hundred million takes minutes

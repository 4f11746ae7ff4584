"""sweep.yaml -> Sweep: the grammar, its mistakes, and points that mean what was written."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SpecError
from toolchain.sweep import Metric, Sweep, identity
from toolchain.sweep.budget import Budget
from toolchain.sweep.budget import read as read_budget
from toolchain.sweep.read import given as with_call
from toolchain.sweep.read import read

HEAD = "method: {}\nmetric: {{name: loss}}\ntrials: 3\nparameters:\n"


def sweep(parameters: str, method: str = "bayes") -> Sweep:
    return read(HEAD.format(method) + parameters, "p/sweep.yaml")


def refused(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        with_call(read(text, "p/sweep.yaml"), {})
    assert caught.value.fix
    return str(caught.value)


def test_the_example_of_the_guide() -> None:
    found = read("""\
method: bayes
metric: {name: rmse, goal: minimize}
trials: 20
parallel: 2
budget: 1h30m
max_failures: 0
parameters:
  alpha: {min: 1e-3, max: 1.0, distribution: log_uniform_values}
  depth: {min: 2, max: 8}
  rate: {min: 0.0, max: 1.0, q: 0.1}
  loss: {values: [huber, squared]}
  seed: {value: 7}
early_terminate: {type: hyperband, min_iter: 3, eta: 4}
""", "sweep.yaml")
    alpha, depth, loss, rate, seed = found.space.parameters
    assert (alpha.log, alpha.low, alpha.high) == (True, 0.001, 1.0)
    assert depth.whole
    assert depth.text(3.0) == "3"
    assert loss.choices == ("huber", "squared")
    assert rate.text(0.1 + 0.2) == "0.3"
    assert seed.choices == ("7",)
    assert found.budget == Budget(seconds=5400)
    assert found.max_failures == 0
    assert found.early is not None
    assert (found.early.type, found.early.low, found.early.eta) == ("hyperband", 3, 4)


def test_a_grid_is_every_combination_once() -> None:
    found = sweep("  b: {min: 1, max: 3}\n  a: {values: [x, 0.10]}\n"
                  "  c: {min: 0, max: 0.5, q: 0.2}", "grid")
    points = list(found.space.grid())
    assert found.space.size == len(points) == 2 * 3 * 3
    assert len({tuple(point.items()) for point in points}) == 18
    assert points[0] == {"a": "x", "b": "1", "c": "0.0"}
    assert {point["a"] for point in points} == {"x", "0.10"}  # as written
    assert found.most == 3
    assert sorted({point["c"] for point in points}) == ["0.0", "0.2", "0.4"]


@pytest.mark.parametrize(("line", "texts"), [
    ("{min: 0.001, max: 1, q: 0.1, distribution: q_log_uniform_values}",
     ["0.001", "0.101", "0.901"]),
    ("{min: 0.15, max: 0.98, q: 0.1, log: true}", ["0.15", "0.25", "0.95"]),
    ("{min: 0.15, max: 0.98, q: 0.1}", ["0.15", "0.25", "0.95"]),
    ("{min: 1, max: 100, q: 10, log: true}", ["1", "11", "91"]),
    ("{min: 1, max: 100, q: 10}", ["1", "11", "91"]),
    ("{min: 0.3333333333333333, max: 1.0, q: 0.1}",
     ["0.3333333333333333", "0.4333333333333333", "0.9333333333333333"])])
def test_multiples_of_q_count_from_min_and_stay_within(line: str, texts: list[str]) -> None:
    (item,) = sweep(f"  a: {line}").space.parameters
    assert [item.text(item.low), item.text(item.low + item.step), item.text(item.high)] == texts
    assert [*item.points()[:2], item.last] == texts
    assert item.last == item.points()[-1]


MISTAKES = [
    ("  a: {min: 0.0, max: 1.0e6, q: 1.0e-10}", "q is too small to be told apart beside 1e+06: "
     "1e-10", "parameters.a.q"),
    ("  a: {min: 1, max: 9, q: 0.5, distribution: int_uniform}", "int_uniform takes whole", "a.q"),
    ("  a: {min: 2, max: 1}", "min is more than max: 2 > 1", "sweep.yaml:5, parameters.a.min"),
    ("  a: {min: 1, max: 1}", "min and max are the same", "parameters.a.min"),
    ("  a: {min: 0.0, max: 1.0, log: true}", "a logarithm needs min above zero", "a.min"),
    ("  a: {min: one, max: 2}", "min is not a number: 'one'", "parameters.a.min"),
    ("  a: {min: .nan, max: 2}", "min is not a number", "parameters.a.min"),
    ("  a: {min: 0, max: .inf}", "max is not a number", "parameters.a.max"),
    ("  a: {min: 0, max: 1, q: 0}", "q is more than zero", "parameters.a.q"),
    ("  a: {min: 0, max: 1, q: 5}", "q is more than max - min", "parameters.a.q"),
    ("  a: {values: []}", "values is not a list of values", "parameters.a.values"),
    ("  a: {values: [1, 1]}", "the value '1' is there twice", "parameters.a.values"),
    ("  a: {values: [[1], 2]}", "a value is not a single one", "parameters.a"),
    ("  a: {values: [1], min: 0}", "values and min are given", "parameters.a.min"),
    ("  a: {vales: [1]}", "unknown key 'vales' (did you mean 'values'?)", "parameters.a.vales"),
    ("  a: {}", "neither values nor min and max", "parameters.a"),
    ("  a: {min: 1}", "no max is given", "parameters.a"),
    ("  a: 3", "not a mapping", "parameters.a"),
    ("  a: {min: 0, max: 1, distribution: gauss}", "unknown distribution 'gauss'",
     "parameters.a.distribution"),
    ("  a: {distribution: normal, mu: 1, sigma: 0.5}",
     "write {min: -0.5, max: 2.5}, three sigma", "parameters.a.distribution"),
    ("  a: {distribution: q_normal, q: 0.1}", "write {min: -3, max: 3}, three sigma to each side, "
     "which is even within; with q: 0.1", "parameters.a.distribution"),
    ("  a: {distribution: log_normal, mu: 2}",
     "write {min: -1, max: 5, distribution: log_uniform}", "parameters.a.distribution"),
    ("  a: {distribution: normal, sigma: wide}", "sigma is not a number: 'wide'", "a.sigma"),
    ("  a: {distribution: q_beta, a: 2}", "q_beta cannot be drawn here", "a.distribution"),
    ("  a: {values: [1, 2], probabilities: [0.1, 0.9]}", "choices are drawn evenly",
     "parameters.a.probabilities"),
    ("  a: {parameters: {b: {value: 1}}}", "parameters are flat", "parameters.a.parameters"),
    ("  a: {min: 1, max: 1000, distribution: log_uniform}", "e to the power of 1000", "a.max"),
    ("  a: {values: [1], distribution: uniform}", "uniform takes min and max", "a.distribution"),
    ("  a: {min: 0.5, max: 2, distribution: int_uniform}", "int_uniform takes whole", "a.min"),
]


@pytest.mark.parametrize(("line", "what", "where"), MISTAKES)
def test_mistakes_in_a_parameter(line: str, what: str, where: str) -> None:
    text = refused(HEAD.format("bayes") + line)
    assert what in text
    assert where in text
    assert "p/sweep.yaml:5" in text


@pytest.mark.parametrize(("text", "what"), [
    ("", "the file is empty"),
    ("- a\n", "the file is not a mapping"),
    ("metric: {name: a}\nparameters: {x: {value: 1}}\n", "no method is given"),
    ("method: grid\nparameters: {x: {value: 1}}\n", "no metric is named"),
    ("method: grid\nmetric: {goal: maximize}\nparameters: {x: {value: 1}}\n", "has no name"),
    ("method: grid\nmetric: {name: a, goal: min}\nparameters: {x: {value: 1}}\n",
     "unknown goal 'min'"),
    ("method: grid\nmetric: {name: a}\n", "the search space is empty"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {min: 0.0, max: 1.0}}\n",
     "a grid cannot have every number"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {min: 0, max: 1000000}}\n",
     "a grid cannot have 1,000,001 values of one parameter"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {min: -1e308, max: 1e308, q: 1e300}}\n",
     "a grid cannot have 200,000,001 values of one parameter"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {min: 1, max: 2000}, "
     "y: {min: 1, max: 2000}}\n", "the grid has 4,000,000 points"),
    ("method: random\nmetric: {name: a}\nparameters: {x: {min: 0, max: 1}}\n", "has no end"),
    ("method: random\nmetric: {name: a}\ntrials: -1\nparameters: {x: {value: 1}}\n",
     "trials is a whole number from 1 on, not '-1'"),
    ("method: random\nmetric: {name: a}\nbudget: soon\nparameters: {x: {value: 1}}\n",
     "not a budget: 'soon'"),
    ("method: cmaes\nmetric: {name: a}\ntrials: 2\nparameters: {x: {values: [1]}}\n",
     "cmaes draws numbers"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {value: 1}}\n"
     "early_terminate: {type: hyperbnd}\n", "did you mean 'hyperband'?"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {value: 1}}\n"
     "early_terminate: {type: median, eta: 2}\n", "eta belongs to hyperband"),
    ("method: grid\nmetric: {name: a}\nparameters: {x: {value: 1}}\n"
     "early_terminate: {type: hyperband, min_iter: 9, max_iter: 3}\n", "min_iter is more than"),
    *((f"method: grid\nmetric: {{name: a}}\nparameters: {{x: {{value: 1}}}}\n{line}\n", what)
      for line, what in (
          ("early_terminate: {type: hyperband, s: 2}", "s counts brackets down from max_iter"),
          ("early_terminate: {type: hyperband, s: 2, max_iter: 27, min_iter: 3}", "say the same"),
          ("early_terminate: {type: hyperband, s: 4, max_iter: 27}", "27 < 3^4"),
          ("early_terminate: {type: hyperband, min_iter: 1, strict: true}", "strict is W&B's"),
          ("early_terminate: {type: median, s: 2}", "s belongs to hyperband"),
          ("command: [python, $args]", "command is W&B's, and not known here"),
          ("controller: {type: local}", "controller is W&B's"),
          ("trials: 3\nrun_cap: 3", "trials and run_cap are given"),
          ("programme: train.py", "did you mean 'program'?"))),
    ("method: grid\nmetric: {name: a, target: low}\nparameters: {x: {value: 1}}\n",
     "target is not a number: 'low'"),
])
def test_mistakes_of_the_whole(text: str, what: str) -> None:
    assert what in refused(text)


def test_a_file_of_wandb_is_read_as_wandb_means_it() -> None:
    found = read("""\
program: train.py
project: churn
entity: ours
name: a name
description: for people
method: bayes
metric: {name: loss, goal: minimize, target: 1e-2}
run_cap: 9
early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27, strict: false}
parameters:
  a: {distribution: uniform, min: 0, max: 1}
  b: {distribution: int_uniform, min: 1, max: 9}
  c: {distribution: q_uniform, min: 0, max: 10}
  d: {distribution: log_uniform, min: -4.605170186, max: 0}
  e: {distribution: inv_log_uniform, min: 0, max: 4.605170186}
  f: {distribution: inv_log_uniform_values, min: 0.01, max: 1}
  g: {distribution: q_log_uniform_values, min: 1, max: 100, q: 5}
  h: {distribution: categorical, values: [x, y]}
  i: {distribution: constant, value: 3}
  j: {min: 1, max: 8}
  k: {min: 1.0, max: 8}
""", "sweep.yaml")
    assert found.trials == 9
    assert found.early is not None
    assert (found.early.low, found.early.high, found.early.eta) == (3, 27, 3)
    assert found.metric.target == 0.01
    assert [note.partition(":")[2].partition(" is not used")[0] for note in found.notes] == [
        "1: program", "2: project", "3: entity"]
    a, b, c, d, e, f, g, h, i, j, k = found.space.parameters
    assert not a.whole
    assert b.whole
    assert (c.step, c.count, c.whole) == (1, 11, False)
    for item in (d, e, f):
        assert (item.log, round(item.low, 6), round(item.high, 6)) == (True, 0.01, 1)
    assert (g.log, g.text(42.0)) == (True, "41.0")  # counted from min
    assert (h.choices, i.choices) == (("x", "y"), ("3",))
    assert (j.whole, k.whole) == (True, False)


@pytest.mark.parametrize(("goal", "value", "reached"), [
    ("minimize", 0.2, False), ("minimize", 0.1, True), ("minimize", 0.05, True),
    ("maximize", 0.05, False), ("maximize", 0.1, True), ("maximize", 0.2, True),
    ("maximize", None, False)])
def test_a_target_is_reached(goal: str, value: float | None, reached: bool) -> None:
    assert Metric(name="m", goal=goal, target=0.1).is_reached(value) is reached
    assert not Metric(name="m", goal=goal).is_reached(value)


def test_the_call_wins_over_the_file() -> None:
    found = with_call(sweep("  a: {min: 0, max: 9}"), {
        "trials": "8", "parallel": "2", "budget": "5", "max_failures": "0"})
    assert (found.trials, found.parallel, found.max_failures) == (8, 2, 0)
    assert found.budget == Budget(trials=5)
    with pytest.raises(SpecError, match="parallel is a whole number from 1 on, not '0'"):
        with_call(found, {"parallel": "0"})


def test_a_large_grid_is_tried_as_far_as_is_asked() -> None:
    text = ("method: grid\nmetric: {name: a}\nparameters:\n  x: {min: 1, max: 2000}\n"
            "  y: {min: 1, max: 2000}\n")
    assert with_call(read(text, "p"), {"trials": "8"}).most == 8
    assert with_call(read(text, "p"), {"budget": "1h"}).most == 4_000_000
    assert with_call(read(text, "p"), {}, to_run=False).most == 4_000_000


@pytest.mark.parametrize(("text", "seconds"), [
    ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1d", 86400), ("1.5h", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert read_budget(text, "x") == Budget(seconds=seconds)


def test_the_order_of_a_file_is_no_content() -> None:
    one = sweep("  a: {values: [1, 2]}\n  b: {min: 0.0, max: 1.0}")
    two = sweep("  b: {max: 1.0, min: 0.0}\n  a: {values: [1, 2]}")
    other = sweep("  b: {max: 1.0, min: 0.0}\n  a: {values: [1, 3]}")
    assert one.study == two.study != other.study
    plan: dict[str, Any] = {"image": "x"}
    assert identity(plan, one.metric) == identity(plan, other.metric)


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.one_of(
    st.fixed_dictionaries({"values": st.lists(st.one_of(
        numbers, st.integers(-9, 9), st.text("xyz ", min_size=1)), min_size=1, max_size=4)}),
    st.fixed_dictionaries({"min": numbers, "max": numbers}, optional={
        "q": st.sampled_from([0.1, 1 / 3, 3, 1e-7]), "log": st.booleans()})), min_size=1,
    max_size=4), st.sampled_from(["grid", "random", "bayes"]))
def test_a_sweep_is_read_or_refused_and_its_points_lie_within(parameters: Any,
                                                              method: str) -> None:
    text = yaml.safe_dump({"method": method, "metric": {"name": "m"}, "trials": 5,
                           "parameters": parameters})
    try:
        found = read(text, "sweep.yaml")
    except SpecError as error:
        assert "sweep.yaml:" in error.where  # noqa: PT017
        return
    assert read(text, "sweep.yaml").study == found.study
    for item in found.space.parameters:
        if item.choices:
            assert len(item.numbers) == len(item.choices)
            continue
        assert item.low < item.high
        for share in (0, 0.3, 1):
            drawn = float(item.text(item.low + (item.high - item.low) * share))
            room = 0 if item.step else 1e-9 + 1e-9 * abs(drawn)
            assert item.low - room <= drawn <= item.high + room
            assert math.isfinite(drawn)
            assert float(item.text(drawn)) == drawn
    if method == "grid" and found.space.size < 500:
        points = list(found.space.grid())
        assert len(points) == found.space.size
        assert len({tuple(point.items()) for point in points}) == len(points)

"""`doit sweep` and `doit best` as a user runs them: real MLflow, real Optuna, real jobs."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter

from tests.adapters.test_sources import repository
from tests.support import sweeps
from tests.support.monorepo import Monorepo

GRID = """\
method: grid
metric: {name: loss, goal: minimize}
parameters:
  x: {values: [0, 1, 3]}
  kind: {values: [plain, other]}
"""


def test_a_grid_runs_each_point_once_and_growing_it_runs_the_new_ones(monorepo: Monorepo) -> None:
    project = sweeps.add(monorepo, "one", GRID)
    output = monorepo.doit("sweep", "project=one")
    assert Counter(sweeps.lines(monorepo, "ended")) == Counter(
        f"{x} {kind}" for x in ("0.0", "1.0", "3.0") for kind in ("plain", "other"))
    [(parent, status)] = sweeps.parents(monorepo)
    assert status == "FINISHED"
    trials = sweeps.children(monorepo, parent)
    assert list(trials.values()) == ["FINISHED"] * 6
    found = sweeps.tags(monorepo, next(iter(trials)))
    assert found["optuna.state"] == "COMPLETE"
    assert found["optuna.param.x"] == "0"
    assert found["toolchain.key"].startswith("sha256:")
    assert sweeps.tags(monorepo, parent)["toolchain.best.param.x"] == "1"
    assert re.search(r"^one +6 +6 +0 +0 +0 +loss=1 ", output, re.MULTILINE), output
    assert sweeps.rows(monorepo, "select value from latest_metrics where key='best_loss'") == [
        (1.0,)]

    again = monorepo.doit("sweep", "project=one")
    assert "trial" not in again.split("push one  up to date")[1].split("project")[0]
    assert len(sweeps.lines(monorepo, "begun")) == 6

    (project / "sweep.yaml").write_text(GRID.replace("3]", "3, 2]"))
    grown = monorepo.doit("sweep", "project=one", "parallel=2")
    assert len(sweeps.lines(monorepo, "begun")) == 8
    assert sweeps.lines(monorepo, "begun")[6:] in (
        ["2.0 plain", "2.0 other"], ["2.0 other", "2.0 plain"])
    assert re.search(r"^one +8 +8 +0 +0 +6 +loss=0 ", grown, re.MULTILINE), grown
    assert len(sweeps.parents(monorepo)) == 1
    assert len(sweeps.children(monorepo, parent)) == 8


def test_random_and_bayes_draw_as_many_as_asked_and_go_on_from_there(monorepo: Monorepo) -> None:
    for name, method in (("one", "random"), ("two", "bayes"), ("three", "cmaes")):
        sweeps.add(monorepo, name, f"method: {method}\nmetric: {{name: loss}}\ntrials: 4\n"
                                   "parallel: 2\nparameters:\n  x: {min: 0.0, max: 4.0}\n"
                                   "  wait: {min: 0.0, max: 0.02}\n")
    output = monorepo.doit("sweep")
    for name in ("one", "two", "three"):
        assert re.search(rf"^{name} +4 +4 ", output, re.MULTILINE), output
    assert len(set(sweeps.lines(monorepo, "ended"))) == 12
    # One queue, fair between projects: after any number of begun trials nobody is two ahead.
    begun = re.findall(r"^(one|two|three)/\d+ \| trial of", output, re.MULTILINE)
    for count in range(1, 13):
        per_project = Counter(begun[:count])
        assert max(per_project.values()) - min(per_project.get(name, 0)
                                               for name in ("one", "two", "three")) <= 2
    more = monorepo.doit("sweep", "project=two", "trials=7")
    assert re.search(r"^two +7 +7 ", more, re.MULTILINE), more
    assert len(sweeps.lines(monorepo, "ended")) == 15

    best = monorepo.doit("best", "project=two")
    values = sweeps.rows(
        monorepo, "select m.value, p.value from latest_metrics m join params p on "
        "p.run_uuid = m.run_uuid and p.key = 'x' join tags t on t.run_uuid = m.run_uuid and "
        "t.key = 'optuna.study' and t.value like 'two-%' where m.key = 'loss' order by m.value")
    line = best.splitlines()[-1]
    assert line.startswith("doit train project=two params=")
    assert f"x={values[0][1]}" in line
    command = line.split("params=")[1].strip("'")
    again = monorepo.doit("train", "project=two", f"params={command}")
    assert "reused" in again or "train two  up to date" in again, again
    assert len(sweeps.lines(monorepo, "ended")) == 15


def test_failures_are_on_record_and_stop_a_sweep_only_if_asked(monorepo: Monorepo) -> None:
    project = sweeps.add(monorepo, "one", GRID.replace("[plain, other]", "[fails, nan, plain]"))
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +3 +3 +0 +6 +0 +loss=1 ", output, re.MULTILINE), output
    assert "exited with status 3" in output
    assert "metric loss is NaN" in output
    [(parent, _)] = sweeps.parents(monorepo)
    failed = [run for run, status in sweeps.children(monorepo, parent).items()
              if status == "FAILED"]
    assert len(failed) == 3
    [log] = (monorepo.folder / "mlruns" / failed[0] / "artifacts").iterdir()
    assert "the reason is in the log" in log.read_text()
    # Those that failed are tried again; NaN was a finished training, which is not repeated.
    again = monorepo.doit("sweep", "project=one", "max_failures=1", expect=1)
    assert "2 trials failed, and max_failures is 1" in again
    assert not [line for line in sweeps.lines(monorepo, "begun")[9:] if "fails" not in line]
    (project / "sweep.yaml").write_text(GRID.replace("name: loss", "name: los"))
    wrong = monorepo.doit("sweep", "project=one", expect=1)
    assert "no metric 'los' was logged (did you mean 'loss'?); logged: loss" in wrong
    assert "no trial of the sweep is complete" in wrong
    assert sweeps.parents(monorepo)[-1][1] == "FINISHED"


def test_a_budget_is_for_all_projects_of_the_call(monorepo: Monorepo) -> None:
    for name in ("one", "two"):
        sweeps.add(monorepo, name, GRID)
    output = monorepo.doit("sweep", "budget=5")
    assert len(sweeps.lines(monorepo, "ended")) == 5
    assert re.search(r"^one +3 ", output, re.MULTILINE)
    assert re.search(r"^two +2 ", output, re.MULTILINE)
    monorepo.doit("sweep", "budget=5")
    assert len(sweeps.lines(monorepo, "ended")) == 5
    monorepo.doit("sweep")
    assert len(sweeps.lines(monorepo, "ended")) == 12


def test_a_project_that_cannot_be_built_stops_no_other(monorepo: Monorepo) -> None:
    sweeps.add(monorepo, "one", GRID)
    sweeps.add(monorepo, "two", GRID)
    (monorepo.folder / "projects/one/requirements.txt").write_text("no-such-package\n")
    output = monorepo.doit("sweep", expect=2)
    assert re.search(r"^two +6 +6 ", output, re.MULTILINE), output
    assert "sweep one  not run: an earlier stage failed" in output
    assert len(sweeps.lines(monorepo, "ended")) == 6
    named = monorepo.doit("sweep:one", "sweep:two", expect=2)
    assert re.search(r"^two +6 +6 ", named, re.MULTILINE), named
    assert "no-such-package" in named


def test_a_trial_without_hope_is_ended_early(monorepo: Monorepo) -> None:
    """By metrics that the script logs while it runs; the median of two trials decides."""
    sweeps.add(monorepo, "one", """\
method: grid
metric: {name: loss}
early_terminate: {type: median, startup: 2}
parameters:
  x: {values: [2, 2.1, 60, 2.05]}
  kind: {value: steps}
  wait: {value: 12}
""")
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +4 +3 +1 +0 +0 +loss=", output, re.MULTILINE), output
    [(parent, _)] = sweeps.parents(monorepo)
    statuses = sweeps.children(monorepo, parent)
    assert sorted(statuses.values()) == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]
    [pruned] = [run for run, status in statuses.items() if status == "KILLED"]
    found = sweeps.tags(monorepo, pruned)
    assert (found["optuna.state"], found["optuna.param.x"]) == ("PRUNED", "60")
    [(steps,)] = sweeps.rows(
        monorepo, "select count(*) from metrics where key='loss' and run_uuid=?", pruned)
    assert 0 < steps < 12
    assert len(sweeps.lines(monorepo, "ended")) == 3
    again = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +4 +3 +1 +0 +0 +loss=", again, re.MULTILINE), again
    assert len(sweeps.lines(monorepo, "begun")) == 4
    # A grid that grows does not run it again either.
    file = monorepo.folder / "projects/one/sweep.yaml"
    file.write_text(file.read_text().replace("2.05]", "2.05, 2]").replace("[2, ", "["))
    monorepo.doit("sweep", "project=one")
    assert len(sweeps.lines(monorepo, "begun")) == 4
    pictures = {path.name for path in (monorepo.folder / "mlruns" / parent
                                       / "artifacts/plots").iterdir()}
    assert pictures == {"history.png", "importance.png", "parallel.png", "slice.png", "sweep.html"}


def test_a_pruned_point_counts_while_its_rule_holds_and_nobody_trained_it(
        monorepo: Monorepo) -> None:
    text = """\
method: grid
metric: {name: loss}
early_terminate: {type: median, startup: 2}
parameters:
  x: {values: [2, 2.1, 60, 70]}
  kind: {value: steps}
  wait: {value: 12}
"""
    project = sweeps.add(monorepo, "one", text)
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +4 +2 +2 +0 +0 ", output, re.MULTILINE), output
    monorepo.doit("train", "project=one", "params=x=70 kind=steps wait=12")
    assert sweeps.lines(monorepo, "ended")[2:] == ["70.0 steps"]
    # A finished run is the truth, and a point beside it stays pruned by the same rule.
    (project / "sweep.yaml").write_text(text.replace("60, 70]", "60, 70, 2.05]"))
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +5 +4 +1 +0 +4 ", output, re.MULTILINE), output
    assert sweeps.lines(monorepo, "begun")[5:] == ["2.05 steps"]
    (project / "sweep.yaml").write_text(text.replace("startup: 2", "startup: 9"))
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +4 +4 +0 +0 +3 ", output, re.MULTILINE), output
    assert sweeps.lines(monorepo, "ended")[4:] == ["60.0 steps"]


def test_the_best_trial_is_registered(monorepo: Monorepo) -> None:
    from tests.support.monorepo import TRAIN

    train = sweeps.TRAIN + TRAIN.replace("import os, pathlib, sys", "import pathlib")
    sweeps.add(monorepo, "one", GRID, train=train)
    output = monorepo.doit("sweep", "project=one", "register=best", "params=wait=0")
    assert "doit train project=one params=" in output
    assert "register one  one version 1, alias candidate" in output
    [(run,)] = sweeps.rows(monorepo, "select run_id from model_versions")
    assert sweeps.tags(monorepo, run)["optuna.param.x"] == "1"
    assert len(sweeps.lines(monorepo, "begun")) == 6
    wrong = monorepo.doit("best", "project=one", "register=bets", expect=1)
    assert "register is `best`, not 'bets'" in wrong


def test_the_best_has_the_values_that_it_was_given(monorepo: Monorepo) -> None:
    """Not those that its script has logged, nor any of a sweep that has varied more."""
    spoken = sweeps.TRAIN + (
        "connection = sqlite3.connect(database, timeout=60)\nwith connection:\n"
        "    connection.execute('insert into params (key, value, run_uuid) values (?,?,?)', "
        "('x', str(round(x)), run))\n")
    wide = "method: grid\nmetric: {name: loss}\nparameters:\n  x: {values: [0.2, 2.2]}\n"
    project = sweeps.add(monorepo, "one", wide + "  wait: {values: [0, 0.01]}\n", train=spoken)
    monorepo.doit("sweep", "project=one")
    [(first, _)] = sweeps.parents(monorepo)
    assert sweeps.tags(monorepo, first)["toolchain.best.param.x"] == "2.2"
    line = monorepo.doit("best", "project=one").splitlines()[-1]
    assert re.search(r"params='wait=0(\.01)? x=2\.2'$", line), line
    # One value more than the winner's: what both sweeps have is theirs, and what one has is its.
    (project / "sweep.yaml").write_text(wide.replace("2.2]", "2.4]"))
    output = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +2 +2 +0 +0 +1 +loss=0.16 ", output, re.MULTILINE), output
    assert len(sweeps.lines(monorepo, "begun")) == 5
    assert monorepo.doit("best", "project=one").splitlines()[-1].endswith(" params=x=2.4")
    assert len(sweeps.parents(monorepo)) == 2
    # A run of `doit train` that is taken for a trial: it too has what the sweep says.
    monorepo.doit("train", "project=one", "params=x=1.9")
    (project / "sweep.yaml").write_text(wide.replace("2.2]", "2.4, 1.90]"))
    monorepo.doit("sweep", "project=one")
    assert len(sweeps.lines(monorepo, "begun")) == 6
    assert monorepo.doit("best", "project=one").splitlines()[-1].endswith(" params=x=1.90")
    (project / "sweep.yaml").write_text(wide + "  wait: {values: [0, 0.01]}\n")
    assert re.search(r"params='wait=0(\.01)? x=2\.2'$",
                     monorepo.doit("best", "project=one").splitlines()[-1])


MISTAKES = [
    (None, "there is no sweep.yaml"),
    ("method: gird\nmetric: {name: loss}\nparameters: {x: {value: 1}}\n", "did you mean 'grid'?"),
    ("method: grid\nmetric: {name: loss}\nparameters: {}\n", "the search space is empty"),
    ("method: bayes\nmetric: {name: loss}\ntrials: 2\nparameters:\n  x: {min: 2, max: 1}\n",
     "sweep.yaml:5, parameters.x.min"),
    ("method: bayes\nmetric: {name: loss}\nparameters:\n  x: {min: 0, max: 1}\n",
     "method bayes has no end"),
    ("method: grid\nmetric: {name: loss}\nparameters:\n  x: {values: [one]}\n",
     "parameter 'x' is float, not 'one'"),
    ("method: grid\nmetric: {name: loss}\nengine: locl\nparameters:\n  x: {values: [1]}\n",
     "unknown engine 'locl' (did you mean 'local'?)"),
]


def test_mistakes_are_named_before_anything_is_tried(monorepo: Monorepo) -> None:
    project = sweeps.add(monorepo, "one", "")
    for text, said in MISTAKES:
        path = project / "sweep.yaml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        output = monorepo.doit("sweep", "project=one", expect=1)
        assert said in output, output
        assert "fix: " in output
        assert "parse one  failed" in output
    assert not sweeps.lines(monorepo, "begun")


def test_without_optuna_it_is_said_what_to_install(monorepo: Monorepo) -> None:
    sweeps.add(monorepo, "one", GRID)
    shadow = monorepo.folder / "shadow"
    shadow.mkdir()
    (shadow / "optuna.py").write_text("raise ImportError('no optuna', name='optuna')\n")
    path = monorepo.environment.get("PYTHONPATH", "")
    monorepo.environment["PYTHONPATH"] = f"{shadow}:{path}" if path else str(shadow)
    output = monorepo.doit("sweep", "project=one", expect=1)
    assert "optuna, which draws a sweep's points, is not installed" in output
    assert "fix: pip install 'mlproject-toolchain[sweep]'" in output


def test_the_record_of_trials_that_cannot_be_opened_is_explained(monorepo: Monorepo) -> None:
    """And a password is not shown."""
    sweeps.add(monorepo, "one", GRID)
    monorepo.environment["OPTUNA_STORAGE"] = "postgresql://me:hush@127.0.0.1:1/sweeps"
    output = monorepo.doit("sweep", "project=one", expect=1)
    assert "postgresql://127.0.0.1:1/sweeps" in output
    assert "fix: " in output
    assert "hush" not in output
    monorepo.environment["OPTUNA_STORAGE"] = "sqlite:///studies.db"
    monorepo.doit("sweep", "project=one")
    assert (monorepo.folder / "studies.db").exists()
    assert len(sweeps.lines(monorepo, "ended")) == 6
    # If the record is lost, the runs are still found by their keys.
    (monorepo.folder / "studies.db").unlink()
    again = monorepo.doit("sweep", "project=one")
    assert re.search(r"^one +6 +6 +0 +0 +6 +loss=1 ", again, re.MULTILINE), again
    assert len(sweeps.lines(monorepo, "ended")) == 6


def test_infinity_is_a_failure_and_wins_nothing(monorepo: Monorepo) -> None:
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss, goal: maximize}\nparameters:\n"
                                "  x: {values: [0, 1]}\n  kind: {values: [inf, plain]}\n")
    output = monorepo.doit("sweep")
    assert output.count("metric loss is inf") == 2
    assert re.search(r"^one +2 +2 +0 +2 +0 +loss=4 ", output, re.MULTILINE), output
    best = monorepo.doit("best")
    assert "loss=4.0" in best
    assert "kind=plain" in best


def test_an_input_that_changes_while_a_trial_uses_it_spoils_the_trial(monorepo: Monorepo) -> None:
    outside = monorepo.folder.parent
    for name in ("kept.csv", "edited.csv"):
        (outside / name).write_text(name)
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nentry_point: reads\n"
                                "parameters:\n  x: {values: [1]}\n  rows: {values: "
                                f"[{outside}/kept.csv, {outside}/edited.csv]}}\n")
    output = monorepo.doit("sweep")
    assert f"changed while it was used: parameter 'rows' ({outside}/edited.csv)" in output
    assert re.search(r"^one +1 +1 +0 +1 ", output, re.MULTILINE), output
    spoiled = sweeps.rows(monorepo, "select run_uuid from tags where key='toolchain.changed'")
    assert len(spoiled) == 1
    assert not sweeps.rows(monorepo, "select value from tags where key='toolchain.key' and "
                                     "run_uuid=?", *spoiled[0])
    assert "kept.csv" in monorepo.doit("best")


def test_a_point_that_cannot_be_run_is_a_failure_of_its_own(monorepo: Monorepo) -> None:
    """A file that is not there: said when its turn comes, and the others are run."""
    (monorepo.folder.parent / "there.csv").write_text("1,2\n")
    sweeps.add(monorepo, "one", "method: grid\nmetric: {name: loss}\nentry_point: reads\n"
                                "parameters:\n  x: {values: [1, 2]}\n  rows: {values: "
                                f"[{monorepo.folder.parent}/none.csv, "
                                f"{monorepo.folder.parent}/there.csv]}}\n")
    output = monorepo.doit("sweep")
    assert len(re.findall(r"  failed  .*none\.csv", output)) == 2, output
    assert re.search(r"^one +2 +2 +0 +2 ", output, re.MULTILINE), output
    (monorepo.folder.parent / "none.csv").write_text("3,4\n")
    assert re.search(r"^one +4 +4 +0 +0 ", monorepo.doit("sweep"), re.MULTILINE)


def test_a_repository_cannot_choose_the_engine(monorepo: Monorepo) -> None:
    """Neither by its settings nor by its sweep.yaml; whoever calls can."""
    text = GRID.replace("0, 1, 3", "1").replace("plain, other", "plain") + "engine: ray\n"
    upstream = monorepo.folder.parent / "upstream"
    shutil.move(sweeps.add(monorepo, "guest", text), upstream)
    repository(upstream)
    url = f"project=file://{upstream}"
    output = monorepo.doit("sweep", url)
    assert ("sweep.yaml: engine is not used: a repository's settings cannot choose it; engine=ray "
            "for this call does") in output
    line = monorepo.doit("best", url).splitlines()[-1]
    assert line.startswith(f"doit train {url} version=")
    assert "up to date" in monorepo.doit(*shlex.split(line)[1:], "engine=local")
    assert sweeps.rows(monorepo, "select value from tags where key='mlflow.project.backend'") == [
        ("local",)]
    assert "unknown engine 'locl'" in monorepo.doit("sweep", url, "engine=locl", expect=1)
    sweeps.add(monorepo, "one", text.replace("ray", "locl"))
    assert "unknown engine 'locl'" in monorepo.doit("sweep", "project=one", expect=1)


def test_best_needs_no_end_of_the_sweep(monorepo: Monorepo) -> None:
    sweeps.add(monorepo, "one", "method: random\nmetric: {name: loss}\nparameters:\n"
                                "  x: {min: 0.0, max: 4.0}\n")
    assert "method random has no end" in monorepo.doit("sweep", expect=1)
    monorepo.doit("sweep", "trials=2")
    assert "doit train project=one params=x=" in monorepo.doit("best")


def test_no_trial_is_begun_once_one_has_reached_the_target(monorepo: Monorepo) -> None:
    """Also none that was drawn while that one ran."""
    sweeps.add(monorepo, "one", GRID.replace("minimize}", "minimize, target: 0.5}").replace(
        "[0, 1, 3]", "[0, 2, 1, 3]").replace("[plain, other]", "[plain]"))
    sweeps.add(monorepo, "two", "method: random\nmetric: {name: loss, target: 9}\ntrials: 5\n"
                                "parameters:\n  x: {min: 0.0, max: 4.0}\n")
    output = monorepo.doit("sweep", "project=one")
    assert sweeps.lines(monorepo, "begun") == ["0.0 plain", "2.0 plain"]
    assert re.search(r"^one +2 +2 +0 +0 +0 +loss=0 ", output, re.MULTILINE), output
    assert len(sweeps.rows(monorepo, "select 1 from tags where key='optuna.number'")) == 2
    monorepo.doit("sweep", "project=one")
    assert len(sweeps.lines(monorepo, "begun")) == 2
    # Without a target the one that was drawn ahead comes next.
    file = monorepo.folder / "projects/one/sweep.yaml"
    file.write_text(file.read_text().replace(", target: 0.5", ""))
    monorepo.doit("sweep", "project=one")
    assert sweeps.lines(monorepo, "begun")[2:] == ["1.0 plain", "3.0 plain"]
    assert re.search(r"^two +1 +1 ", monorepo.doit("sweep", "project=two"), re.MULTILINE)


def test_budgets_of_the_files_are_each_projects_own(monorepo: Monorepo) -> None:
    endless = "method: random\nmetric: {name: loss}\nparameters:\n  x: {min: 0.0, max: 4.0}\n"
    sweeps.add(monorepo, "few", f"{endless}budget: 3\n")
    sweeps.add(monorepo, "grid", GRID)
    output = monorepo.doit("sweep")
    assert re.search(r"^few +3 ", output, re.MULTILINE), output
    assert re.search(r"^grid +6 ", output, re.MULTILINE), output


def test_a_tracking_store_that_is_gone_is_filled_again(monorepo: Monorepo) -> None:
    """Optuna's record alone is no result: there is no run to register."""
    sweeps.add(monorepo, "one", GRID.replace("0, 1, 3", "1").replace("plain, other", "plain"))
    monorepo.doit("sweep", "project=one")
    (monorepo.folder / "mlflow.db").unlink()
    output = monorepo.doit("sweep", "project=one")
    assert "the tracking store has none of its runs any more; it begins anew" in output
    assert sweeps.lines(monorepo, "ended") == ["1.0 plain"] * 2
    assert "loss=1" in monorepo.doit("best", "project=one")
    assert "begins anew" not in monorepo.doit("sweep", "project=one")
    assert len(sweeps.lines(monorepo, "ended")) == 2

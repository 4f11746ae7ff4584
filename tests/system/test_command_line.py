"""What is typed behind `doit`: words given twice, names that are none, and nothing to do."""

from __future__ import annotations

import pytest

from tests.support.monorepo import Monorepo, ran

PROJECT = """\
name: {name}
entry_points:
  main:
    parameters:
      a: {{type: int, default: 1}}
      n: {{type: int, default: 1}}
    command: "echo given {{a}} {{n}}"
"""


def _two(monorepo: Monorepo) -> None:
    for name in ("one", "two"):
        monorepo.add(name, mlproject=PROJECT.format(name=name))


def test_lists_may_be_given_in_several_words(monorepo: Monorepo) -> None:
    _two(monorepo)
    output = monorepo.doit("parse", "project=one", "project=two")
    assert ran(output, "one")["parse"] == ran(output, "two")["parse"] == "made"
    output = monorepo.doit("train", "project=one", "params=a=5", "params=n=7")
    assert "given 5 7" in output


def test_of_a_setting_the_last_word_counts_and_of_a_parameter_there_is_one(
    monorepo: Monorepo
) -> None:
    _two(monorepo)
    output = monorepo.doit("train", "project=one", "params=a=5", "params=a=6", expect=1)
    assert "'a' is given twice" in output
    monorepo.doit("train", "project=one", "engine=none", "engine=local")


def test_parameters_are_for_one_project(monorepo: Monorepo) -> None:
    _two(monorepo)
    assert "give project=NAME with it" in monorepo.doit("train", "params=a=5", expect=3)
    assert "given 5 1" in monorepo.doit("train:one", "params=a=5")


def test_of_several_processes_each_line_says_whose_it_is(monorepo: Monorepo) -> None:
    _two(monorepo)
    lines = monorepo.doit("-n", "2", "train").splitlines()
    assert {"one | given 1 1", "two | given 1 1"} <= {*lines}
    assert "given 1 1" in monorepo.doit("train:one", "force=1").splitlines()


@pytest.mark.parametrize("words", [
    ("train:onne",), ("info", "train:onne"), ("forget", "push:onne"), ("sweep:onne",)])
def test_a_name_behind_a_colon_is_checked(monorepo: Monorepo, words: tuple[str, ...]) -> None:
    _two(monorepo)
    output = monorepo.doit(*words, expect=3)
    assert "no project named 'onne' (did you mean 'one'?)" in output


def test_a_workspace_without_projects(monorepo: Monorepo) -> None:
    for words in ((), ("push",), ("-n", "2", "train"), ("explain",)):
        assert "there is no MLflow Project" in monorepo.doit(*words, expect=3)
    monorepo.doit("list")
    assert "removed 0 files" in monorepo.doit("prune")
    assert "removed 0 files" in monorepo.doit("-f", "dodo.py", "prune")


def test_what_cannot_be_forgotten_is_said_and_the_rest_forgotten(monorepo: Monorepo) -> None:
    _two(monorepo)
    monorepo.doit("push")
    (monorepo.folder / "projects/one/pyproject.toml").write_text("[tool.toolchain]\nx = 1\n")
    output = monorepo.doit("forget", "--all", expect=1)
    assert "forget push:one  failed\nunknown setting 'x'" in output
    assert ran(monorepo.doit("push:two"), "two")["push"] == "made"


def test_projects_without_a_sweep_are_passed_over(monorepo: Monorepo) -> None:
    _two(monorepo)
    for what in ("sweep", "best"):
        assert "no project has a sweep.yaml" in monorepo.doit(what, expect=3)
    (monorepo.folder / "projects/two/sweep.yaml").write_text("method: nothing\n")
    output = monorepo.doit("best", expect=2)
    assert "projects/two/sweep.yaml" in output
    assert "one" not in output
    assert "there is no sweep.yaml" in monorepo.doit("best:one", expect=1)


def test_a_link_to_a_project_is_named(monorepo: Monorepo) -> None:
    _two(monorepo)
    (monorepo.folder / "projects/linked").symlink_to(monorepo.folder / "projects/one")
    output = monorepo.doit("push", "project=linked", expect=3)
    assert "projects/linked is a link to a project, and links are not followed" in output


def test_what_failed_is_said_at_the_end(monorepo: Monorepo) -> None:
    _two(monorepo)
    monorepo.add("three", mlproject="name: three\nentry_points: []\n")
    output = monorepo.doit("push", expect=2)
    assert output.splitlines()[-1] == "three: failed at parse, as said above"


def test_a_reader_that_has_seen_enough_stops_nothing(monorepo: Monorepo) -> None:
    _two(monorepo)
    with monorepo.start("push") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=100)
    assert monorepo.receipt("one", "push")
    assert monorepo.receipt("two", "push")
    assert process.returncode == 0

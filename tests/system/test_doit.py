"""What a doit user expects of doit still holds."""

from __future__ import annotations

import json
import resource

from tests.support.monorepo import STAGES, Monorepo, ran


def test_list_names_stages_and_projects(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("list")
    for stage in STAGES:
        assert f"{stage} " in output
    assert "train:one" in monorepo.doit("list", "--all")
    assert "R train:one" in monorepo.doit("list", "--all", "--status")


def test_list_and_info_describe_entry_points(monorepo: Monorepo) -> None:
    monorepo.add("one", mlproject="""name: one
entry_points:
  main:
    description: trains it
    parameters:
      rate: {type: float, default: 0.5, description: of learning}
      data: path
    command: python train.py {rate} {data}
  check: {command: 'true'}
""")
    monorepo.add("broken", mlproject="entry_points: 3\n")
    monorepo.add("odd", mlproject="name: 'x\n")
    words = "main (data: path; rate: float = 0.5, of learning): trains it | check"
    for _ in range(2):
        listed = monorepo.doit("list", "--all")
        assert words in listed
        assert "train:broken" in listed
        assert "entry_points is not a mapping" in listed
        assert "not valid YAML" in listed
        monorepo.doit("parse", "project=one")
    assert words in monorepo.doit("info", "train:one", expect=1)


def test_info_names_the_receipt(monorepo: Monorepo) -> None:
    monorepo.add("one")
    assert "cache/out/one/push.json" in monorepo.doit("info", "push:one", expect=1)


def test_plain_doit_pushes_every_project(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.add("two")
    output = monorepo.doit()
    assert ran(output, "one")["push"] == "made"
    assert ran(output, "two")["push"] == "made"
    assert "train" not in ran(output, "one")


def test_tasks_are_made_only_for_what_was_asked(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.add("two")
    monorepo.add("three")
    output = monorepo.doit("list", "--all", "project=one,two")
    assert "push:two" in output
    assert "push:three" not in output
    assert ran(monorepo.doit("layer:three"), "three")["layer"] == "made"
    output = monorepo.doit("base", "project=one, two")
    assert ran(output, "two")["base"] in ("made", "reused")
    assert ran(output, "three") == {}


def test_a_task_that_is_not_there_has_no_information(monorepo: Monorepo) -> None:
    monorepo.add("one")
    assert "no project named 'two'" in monorepo.doit("info", "push:two", expect=3)
    assert "'pushing' is not a task" in monorepo.doit("info", "pushing", expect=3)
    assert "rate: float = 0.5" in monorepo.doit("info", "train:one", expect=1)


def test_forget_makes_a_stage_run_again(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    monorepo.doit("forget", "layer:one")
    stages = ran(monorepo.doit("push"), "one")
    assert stages["layer"] == "made"
    assert {stages[name] for name in ("parse", "resolve", "base", "push")} == {"fresh"}
    monorepo.doit("forget", "--all")
    assert set(ran(monorepo.doit("push"), "one").values()) == {"made"}


def test_clean_takes_the_receipts_away(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    monorepo.doit("clean", "push", "project=one")
    assert not (monorepo.folder / "cache/out/one/push.json").exists()
    assert (monorepo.folder / "cache/out/one/layer.json").exists()
    assert ran(monorepo.doit("push"), "one")["push"] == "reused"


def test_always_execute_reuses_what_is_on_record(monorepo: Monorepo) -> None:
    monorepo.add("one")
    monorepo.doit("push")
    assert ran(monorepo.doit("-a", "push"), "one")["base"] == "reused"


def test_other_reporters_work(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("-r", "json", "-o", "report.json", "push")
    assert output == ""
    report = json.loads((monorepo.folder / "report.json").read_text())
    results = {task["name"]: task["result"] for task in report["tasks"]}
    assert results["push:one"] == "success"
    assert "-- push:one" in monorepo.doit("-r", "console", "push")
    assert monorepo.doit("-r", "executed-only", "push") == ""


def test_tab_completion_is_made(monorepo: Monorepo) -> None:
    monorepo.add("one")
    assert "push" in monorepo.doit("tabcompletion", "--hardcode-tasks")


def test_other_tasks_in_the_same_dodo_file_keep_their_state(monorepo: Monorepo) -> None:
    (monorepo.folder / "dodo.py").write_text(
        "from toolchain.tasks import *\n\n\n"
        "def task_own():\n"
        "    return {'actions': ['cp in out'], 'file_dep': ['in'], 'targets': ['out']}\n")
    (monorepo.folder / "in").write_text("1")
    monorepo.add("one")
    assert ".  own" in monorepo.doit("own")
    assert "-- own" in monorepo.doit("own")
    # A damaged state file costs a run of that task, nothing else.
    (monorepo.folder / "cache/doit.json").write_text("{ damaged")
    assert ".  own" in monorepo.doit("own")


def test_settings_hold_for_one_project_and_for_one_call(monorepo: Monorepo) -> None:
    folder = monorepo.add("one")
    (folder / "pyproject.toml").write_text('[tool.toolchain]\nrepository = "team/one"\n')
    monorepo.add("two")
    monorepo.doit("push")
    assert monorepo.receipt("one", "push")["reference"].startswith("team/one@sha256:")
    assert monorepo.receipt("two", "push")["reference"].startswith("mlflow/trainer@sha256:")
    monorepo.doit("push", "repository=for/now")
    assert monorepo.receipt("one", "push")["reference"].startswith("for/now@sha256:")


def test_the_last_lines_say_where_the_result_is(monorepo: Monorepo) -> None:
    monorepo.add("one")
    output = monorepo.doit("register")
    run = monorepo.receipt("one", "train")["run_id"]
    assert f"one: run {run}" in output
    assert "one: see it with `mlflow ui`" in output
    assert "one: model version one/1 (models:/one@candidate)" in output


def test_lines_are_plain_where_nobody_watches(monorepo: Monorepo) -> None:
    monorepo.add("one")
    assert "\x1b" not in monorepo.doit("push")


def test_a_null_call_is_quick(monorepo: Monorepo) -> None:
    """Not a benchmark: only that nothing heavy crept into the null path."""
    monorepo.add("one")
    monorepo.doit("push")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    monorepo.doit("push")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # In processor time, which other work on the machine does not make longer.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_an_image_that_trains_nothing_is_pushed_only(monorepo: Monorepo) -> None:
    monorepo.add("one")
    folder = monorepo.add("tool", mlproject="name: tool\nentry_points:\n  go:\n"
                                            "    command: python train.py 1\n")
    (folder / "pyproject.toml").write_text('[tool.toolchain]\nlast_stage = "push"\n')
    output = monorepo.doit("register")
    assert ran(output, "one")["register"] == "made"
    assert "tool" not in output.replace("toolchain", "")
    assert ran(monorepo.doit("push"), "tool")["push"] == "made"
    # It is as any other where it is named.
    assert "no entry point 'main'" in monorepo.doit("train", "project=tool", expect=1)
    assert "train" in ran(monorepo.doit("train:tool", "entry_point=go"), "tool")
    (folder / "pyproject.toml").write_text('[tool.toolchain]\nlast_stage = "puhs"\n')
    output = monorepo.doit("push", expect=2)
    assert "unknown stage 'puhs' (did you mean 'push'?)" in output


def test_verbosity_0_shows_errors_alone(monorepo: Monorepo) -> None:
    monorepo.add("one")
    for arguments in (("-v", "0", "train"), ("-v", "0", "train"), ("-v", "1", "train", "force=1"),
                      ("-v", "0", "-n", "2", "push", "upgrade=1")):
        assert monorepo.doit(*arguments) == "", arguments
    assert monorepo.receipt("one", "train")["run_id"]
    assert json.loads(monorepo.doit("-v", "0", "sbom", "project=one"))["components"]
    monorepo.add("two", requirements="no-such-package\n")
    output = monorepo.doit("-v", "0", "push", expect=2)
    assert output.startswith("resolve two  failed\n")
    assert "  fix: " in output
    assert "push one" not in output

"""What is to be run comes from arguments or the environment, under FuseML's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.errors import ConfigError, SpecError
from toolchain.runner import result, secret
from toolchain.runner.inputs import read
from toolchain.runner.plain import is_own


def test_nothing_given_is_the_main_entry_point_and_the_model() -> None:
    asked = read(["run"], {})
    assert (asked.entry_point, asked.parameters, asked.experiment) == ("main", {}, "")
    assert (asked.artifact_path, asked.must_have_artifact, asked.verbose) == ("model", False, False)
    assert read([], {}) == asked


@pytest.mark.parametrize("spell", [str, str.upper, lambda name: f"FUSEML_{name.upper()}",
                                   lambda name: f"FUSEML_{name}"])
def test_each_variable_has_four_names(spell: type[str]) -> None:
    asked = read([], {spell("mlflow_entrypoint"): "test", spell("mlflow_experiment"): "e x",
                      spell("mlflow_entrypoint_args"): "a=1", spell("verbose"): "True",
                      spell("mlflow_artifact_path"): "trained/model"})
    assert (asked.entry_point, asked.experiment, asked.verbose) == ("test", "e x", True)
    assert asked.parameters == {"a": "1"}
    assert (asked.artifact_path, asked.must_have_artifact) == ("trained/model", True)


@pytest.mark.parametrize("text", [
    "epochs=2,batch_size=64", "epochs=2 batch_size=64", "epochs=2, batch_size=64",
    "--epochs=2 --batch_size=64", " epochs='2',batch_size=\"64\" "])
def test_parameters_by_comma_and_by_blank(text: str) -> None:
    assert read([], {"mlflow_entrypoint_args": text}).parameters == {
        "epochs": "2", "batch_size": "64"}
    assert read(["--args", text], {}).parameters == {"epochs": "2", "batch_size": "64"}


def test_names_with_hyphens_and_values_with_commas_and_blanks() -> None:
    text = "batch-size=64,sizes=1,2,3 note='a, b=c'"
    assert read([], {"mlflow_entrypoint_args": text}).parameters == {
        "batch-size": "64", "sizes": "1,2,3", "note": "a, b=c"}


def test_arguments_win_and_add_to_the_environment() -> None:
    environ = {"mlflow_entrypoint": "one", "mlflow_entrypoint_args": "a=1 b=1",
               "mlflow_experiment": "one"}
    asked = read(["run", "--entrypoint=two", "--mlflow_experiment", "two", "--verbose",
                  "b=2,c=3", "note=a 'quote', and more"], environ)
    assert (asked.entry_point, asked.experiment, asked.verbose) == ("two", "two", True)
    assert asked.parameters == {"a": "1", "b": "2", "c": "3", "note": "a 'quote', and more"}


@pytest.mark.parametrize(("arguments", "environ", "message"), [
    (["--entrypont=x"], {}, "did you mean 'entrypoint'"),
    (["--experiment"], {}, "--experiment has no value"),
    (["run", "main"], {}, "neither an option nor NAME=VALUE: 'main'"),
    (["run", "=1"], {}, "neither an option nor NAME=VALUE"),
    ([], {"verbose": "loud"}, "verbose is yes or no, not 'loud'"),
    ([], {"mlflow_artifact_path": "../../other"}, "leaves the run"),
    ([], {"mlflow_entrypoint_args": "a='1"}, "a quote is not closed"),
    ([], {"mlflow_entrypoint_args": "alpha"}, "fix: write mlflow_entrypoint_args="),
])
def test_mistakes_are_named(arguments: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises((ConfigError, SpecError)) as caught:
        read(arguments, environ)
    assert message in str(caught.value)
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize(("argument", "own"), [
    ("run", True), ("--help", True), ("epochs=3", True), ("batch-size=1", True),
    ("python", False), ("bash", False), ("/bin/a=b", False), ("", False), ("run.sh", False)])
def test_the_first_argument_says_whether_the_runner_is_meant(argument: str, own: bool) -> None:
    assert is_own(argument) is own


def test_a_result_is_a_name_or_an_absolute_path(tmp_path: Path) -> None:
    assert result.place({}) == ""
    assert result.place({"TASK_RESULT": str(tmp_path / "url")}) == str(tmp_path / "url")
    assert result.checked("url", str(tmp_path)) == str(tmp_path / "url")
    for name in ("a/b", "..", "."):
        with pytest.raises(ConfigError, match="no file name"):
            result.checked(name, str(tmp_path))
    with pytest.raises(ConfigError, match="does not exist"):
        result.checked("url", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="cannot be written"):
        result.checked(str(tmp_path), "/")


def test_secrets_are_blotted_out() -> None:
    environ = {"MLFLOW_TRACKING_PASSWORD": "hunter22", "AWS_SECRET_ACCESS_KEY": "abc/def",
               "HOME": "/home/me", "TOKEN": "x"}
    text = secret.hidden("hunter22 abc/def /home/me x http://me:pw@host/", environ)
    assert text == "*** *** /home/me x http://host/"
    assert secret.shown("postgresql://u:p@h/db?password=p") == "postgresql://h/db"
    assert secret.without_password("sftp://u:p@h/x") == "sftp://u@h/x"
    assert secret.without_password("wasbs://c@a.blob/x") == "wasbs://c@a.blob/x"


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    for environ in ({"A_TOKEN": "hunter", "B_TOKEN": "hunter22"},
                    {"A_TOKEN": "hunter22", "B_TOKEN": "hunter"}):
        assert secret.hidden("hunter22 and hunter", environ) == "*** and ***"

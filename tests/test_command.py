"""A value is one literal word wherever it stands in a command; parameters are read as meant."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SpecError
from toolchain.spec import EntryPoint, Parameter, Spec
from toolchain.spec.command import (
    call,
    check_value,
    parse_params,
    refuse_formatting,
)
from toolchain.spec.commandline import stripped
from toolchain.spec.placeholder import refuse_backticks, substitute

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)


def spec(command: str, **parameters: Parameter) -> Spec:
    return Spec(name="one", environment="python_env", python="", requirements=(), constraints=(),
                hashes={}, files={},
                entry_points={"main": EntryPoint(command=command, parameters=parameters)})


def bash(line: str, variables: Mapping[str, str]) -> bytes:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    return subprocess.run(["bash", "-c", line], capture_output=True, check=True,
                          env=environment).stdout


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_a_value_is_one_literal_word_in_every_kind_of_quotes(value: str) -> None:
    line = substitute("printf '%s|' {x} '{x}' \"{x}\" pre{x}post", {"x": "VALUE"})
    text = value.encode()
    assert bash(line, {"VALUE": value}) == b"|".join(
        [text, text, text, b"pre" + text + b"post", b""])


@pytest.mark.parametrize(("template", "expected"), [
    ("# don't shuffle\nprintf '%s' {x}", "VALUE"),
    ("printf '%s' {x} # it's so\nprintf '%s' {x}", "VALUEVALUE"),
    ("printf '%s|' \\\n  `# don't` \\\n  {x}", "VALUE|"),
    ("printf '%s|' a#b'{x}' \\#'{x}' \"${#HOME}\" {x}", "a#bVALUE|#VALUE|0|VALUE|"),
    ("printf '%s' \"$(printf '%s' {x} # don't\n)\" {x}", "VALUEVALUE"),
    ("printf '%s' \"`printf '%s' {x}`\"", "VALUE"),
    ("printf '%s|' $'a\\'b' {x} $'c\\'{x}\\t'", "a'b|VALUE|c'VALUE\t|"),
    ("cat <<END\n{x} \"{x}\" don't\nEND\nprintf '%s' {x}",
     "VALUE \"VALUE\" don't\nVALUE"),
    ("cat <<-END # don't\n\t{x}\n\tEND", "VALUE\n"),
    ("cat <<'END'\n{x} ${HOME} `{x}` \\$ \\\\ \"'\nEND",
     "VALUE ${HOME} `VALUE` \\$ \\\\ \"'\n"),
    ("cat <<E\"N\"'D'; printf '%s' {x}\n$x {x}\nEND", "$x VALUE\nVALUE"),
    ("cat <<-'THE END'\n\t$x {x}\n\tTHE END\nprintf '%s' {x}", "$x VALUE\nVALUE"),
    ("cat - /dev/fd/3 <<A 3<<'B' 4<<\\C\n{x}\nA\n$(no) {x}\nB\nC\nprintf '%s' {x}",
     "VALUE\n$(no) VALUE\nVALUE"),
    ("printf '%s' \"$(cat <<'END'\n{x} $x don't\nEND\n)\" {x}", "VALUE $x don'tVALUE"),
    ("printf '%s|' $((1 << 2)) {x}", "4|VALUE|"),
])
@pytest.mark.parametrize("value", ["plain", "two  words", "it's \"$HOME\" `x` \\ * END"])
def test_a_program_gets_the_value_wherever_the_placeholder_stands(
    template: str, expected: str, value: str,
) -> None:
    line = substitute(template, {"x": "V"})
    assert bash(line, {"V": value, "HOME": ""}).decode() == expected.replace("VALUE", value)


def test_a_quoted_here_document_in_backticks_cannot_have_a_placeholder() -> None:
    command = "echo `cat <<'END'\n{x}\nEND\n`"
    refuse_backticks(command, {}, "here")
    with pytest.raises(SpecError, match="here-document") as caught:
        refuse_backticks(command, {"x": None}, "MLproject:4")
    assert (caught.value.where, bool(caught.value.fix)) == ("MLproject:4", True)


@pytest.mark.parametrize("name", ["learning rate", "data/train", "b-c.d", "größe", "1"])
def test_every_name_that_mlflow_takes_can_be_a_placeholder(name: str) -> None:
    line = substitute(f"printf '%s|' {{{name}}} '{{{name}}} {{other name}}'", {name: "V"})
    assert bash(line, {"V": "a b"}).decode() == "a b|a b {other name}|"


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT)
def test_undeclared_parameters_are_appended_as_options(name: str, value: str) -> None:
    settled = call(spec("printf '%s|'"), "main", {f"x{name}": value}, lambda _: None)
    assert bash(settled.command(), settled.variables()) == f"--x{name}|{value}|".encode()


@pytest.mark.parametrize("template", [
    'echo "$(echo {x})"', "echo `echo {x}`", 'echo "`echo {x}`"', "# don't\necho {x}",
    "echo $'a\\'b' {x}", "cat <<END\n{x}\nEND", "echo ${y:-{x}}", "echo \"${y:-'{x}'}\"",
])
@pytest.mark.parametrize("value", [
    "a; echo INJECTED", "$(echo INJECTED)", "`echo INJECTED`", "' ; echo INJECTED '",
    '"; echo INJECTED; "', "a\necho INJECTED", "&& echo INJECTED",
])
def test_a_value_is_never_run_whatever_is_around_it(template: str, value: str) -> None:
    output = bash(substitute(template, {"x": "VALUE"}), {"VALUE": value}).decode()
    for line in output.splitlines():
        assert line.strip() != "INJECTED"


@pytest.mark.parametrize(("template", "expected"), [
    ("echo ${HOME}", "echo ${HOME}"),
    ("echo ${x}", "echo ${x}"),
    ("awk '{print $1}'", "awk '{print $1}'"),
    ("echo {{x}}", "echo {x}"),
    ("echo ${{HOME}}", "echo ${HOME}"),
    ("echo {y} {x.__class__}", "echo {y} {x.__class__}"),
    ("find . -exec ls {} +", "find . -exec ls {} +"),
    ("python a.py --rate {x}", 'python a.py --rate "${V}"'),
    ("echo '{x}'", "echo ''\"${V}\"''"),
    ('echo "a {x}"', 'echo "a ${V}"'),
    ("awk '{if($1){print}}'", "awk '{if($1){print}}'"),
    ("run --json '{\"a\":{\"b\":1}}'", "run --json '{\"a\":{\"b\":1}}'"),
    ("run '{\"a\":{\"b\":{x}}}'", "run '{\"a\":{\"b\":'\"${V}\"'}}'"),
    ("echo ${a:-${b}}", "echo ${a:-${b}}"),
    ("awk '{{if($1){{print}}}}' {x}", "awk '{if($1){print}}' \"${V}\""),
    ("awk '{{if($1){print}}}' ${HOME}", "awk '{if($1){print}}' ${HOME}"),
    ("run '{{\"a\":{\"b\":1}}}'", "run '{\"a\":{\"b\":1}}'"),
    ("run {{{x}}} {{{{y}}}}", "run {\"${V}\"} {{y}}"),
    ("run {{ }} }}", "run { } }"),  # MLflow takes it
    ("run {{ {y}", "run {{ {y}"),  # MLflow does not
    ("run \\{{x}}", "run \\{x}"),
])
def test_only_declared_names_in_braces_are_replaced(template: str, expected: str) -> None:
    assert substitute(template, {"x": "V"}) == expected


def test_defaults_fill_in_and_given_values_win() -> None:
    one = spec("run {a} {b}", a=Parameter(type="float", default="0.5"), b=Parameter(default="x"))
    settled = call(one, "main", {"b": "y z"}, lambda _: None)
    assert settled.command() == 'run "${TOOLCHAIN_PARAMETER_1}" "${TOOLCHAIN_PARAMETER_2}"'
    assert settled.variables() == {"TOOLCHAIN_PARAMETER_1": "0.5", "TOOLCHAIN_PARAMETER_2": "y z"}
    assert settled.texts == {"a": "0.5", "b": "y z"}


def test_a_default_of_another_type_is_passed_on_and_a_value_is_checked() -> None:
    """`None` is what many programs know as "not given"."""
    made = spec("run {level} {data}", level=Parameter(type="int", default="None"),
                data=Parameter(type="uri", default="raw.csv"))
    settled = call(made, "main", {"data": "s3://b"}, lambda _: None)
    assert settled.texts == {"level": "None", "data": "s3://b"}
    assert settled.identity() == {"level": "None", "data": "s3://b"}
    assert call(made, "main", {"data": "s3://b", "level": "None"}, lambda _: None) == settled
    assert call(made, "main", {"data": "s3://b", "level": "3"}, lambda _: None).identity()[
        "level"] == 3
    with pytest.raises(SpecError, match="'level' is int, not 'none'"):
        call(made, "main", {"data": "s3://b", "level": "none"}, lambda _: None)
    with pytest.raises(SpecError, match=r"'data' is a URI, not 'raw\.csv'"):
        call(made, "main", {}, lambda _: None)


def test_a_name_may_have_any_letters() -> None:
    made = spec("run {größe}", größe=Parameter(type="int", default="3"))
    settled = call(made, "main", {}, lambda _: None)
    assert bash(settled.command().replace("run", "printf %s"), settled.variables()) == b"3"


def test_a_missing_value_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        call(spec("run {a}", a=Parameter(type="int")), "main", {}, lambda _: None)
    assert "parameter 'a' has no value" in str(caught.value)
    assert 'params="a=…"' in str(caught.value)


def test_missing_values_are_named_together() -> None:
    one = spec("run {a}", **{"a": Parameter(type="int"), "b": Parameter(default="1"),
                             "learning rate": Parameter()})
    with pytest.raises(SpecError, match="2 parameters have no value: 'a', 'learning rate'") as e:
        call(one, "main", {}, lambda _: None)
    assert """params="a=… 'learning rate'=…\"""" in e.value.fix
    assert parse_params("a=… 'learning rate'=…") == {"a": "…", "learning rate": "…"}


def test_an_unknown_name_is_warned_about_with_the_near_one() -> None:
    warnings: list[str] = []
    one = spec("run {l1_ratio}", l1_ratio=Parameter(type="float", default="1"))
    settled = call(one, "main", {"l1-ratio": "2"}, warnings.append)
    assert warnings == ["one: main declares no parameter 'l1-ratio' (did you mean 'l1_ratio'?); "
                        "it is passed on as --l1-ratio"]
    assert settled.command().endswith(' --l1-ratio "${TOOLCHAIN_PARAMETER_2}"')


@pytest.mark.parametrize(("command", "expected"), [
    ("echo run", "run --x v"),
    ("echo one\necho two", "one\ntwo --x v"),
    ("echo a \\\n  --b c", "a --b c --x v"),
    ("echo run # done", "run --x v"),
    ("echo run\n# done\n  # indeed", "run --x v"),
    ("echo '# none' \"# none\" a#b", "# none # none a#b --x v"),
    ("echo run;", "run --x v"),
    ("echo run & # in the background\nwait", "run"),  # `wait` takes it
    ("echo run &", "run --x v"),
    ("false || echo run", "run --x v"),
    ("echo $((1 << 2))\necho run", "4\nrun --x v"),
    ("show() { cat; echo $@; }; show <<END\nthe body\nEND", "the body\n--x v"),
    ("show() { cat; echo $@; }; show <<-'END' # why\n\tthe # body\n\tEND\n",
     "the # body\n--x v"),
    ("cat <<< text | cat - && echo run", "text\nrun --x v"),
    ("echo run >&1", "run --x v"),
    ("echo run \\;", "run ; --x v"),
    ("(echo run)\ntrue \\\n", "run"),
])
def test_options_go_to_the_last_command_line(command: str, expected: str) -> None:
    settled = call(spec(stripped(command)), "main", {"x": "v"}, lambda _: None)
    done = subprocess.run(["bash", "-c", settled.command()], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], **settled.variables()})
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("echo a \\\n", "echo a"), ("echo a \\\n  \\\n\n", "echo a"), ("echo a \\", "echo a \\"),
    ("\n echo a \\\\\n", "echo a \\\\"), ("echo a\\ \n", "echo a\\ "), ("", ""), ("\\\n", ""),
])
def test_a_line_that_is_continued_nowhere_ends(text: str, expected: str) -> None:
    assert stripped(text) == expected


@pytest.mark.parametrize("text", [":", ".a", "[", "[]", "!r", "a.", "{a:", "{a."])
def test_braces_are_judged_in_no_time(text: str) -> None:
    started = time.process_time()
    refuse_formatting("{a" + text * 3000, {"a": None}, "here")
    with pytest.raises(SpecError):
        refuse_formatting("{a" + text * 3000 + "{a:x}", {"a": None}, "here")
    assert time.process_time() - started < 1


def test_equal_numbers_are_one_identity() -> None:
    one = spec("run {a} {n}", a=Parameter(type="float"), n=Parameter(type="int"))
    identities = [call(one, "main", {"a": a, "n": n}, lambda _: None).identity()
                  for a, n in (("0.10", "1"), ("1e-1", "01"), (".1", "+1"))]
    assert identities == [identities[0]] * 3
    other = call(one, "main", {"a": "0.2", "n": "1"}, lambda _: None).identity()
    assert other != identities[0]


def test_scripts_are_entry_points_too() -> None:
    script = call(spec("x"), "sub dir/go.py", {}, lambda _: None)
    assert script.command() == "python 'sub dir/go.py'"
    assert call(spec("x"), "go.sh", {}, lambda _: None).command() == "bash go.sh"
    r = call(spec("x"), "it's.R", {"a": "1"}, lambda _: None).command()
    assert bash(r.replace("Rscript", "printf '%s|'"), {"TOOLCHAIN_PARAMETER_1": "1"}) == (
        b"-e|mlflow::mlflow_source('it\\'s.R')|--args|--a|1|")
    with pytest.raises(SpecError, match=r"no entry point 'mian' \(did you mean 'main'\?\)"):
        call(spec("x"), "mian", {}, lambda _: None)


@pytest.mark.parametrize(("text", "expected"), [
    ("", {}),
    ("a=1 b=2", {"a": "1", "b": "2"}),
    ("a=1,b=2", {"a": "1", "b": "2"}),
    ("a=1, b=2", {"a": "1", "b": "2"}),
    ("sizes=1,2,3 b=4", {"sizes": "1,2,3", "b": "4"}),
    ("note=\"a, b=c\" x='y z'", {"note": "a, b=c", "x": "y z"}),
    ("l1-ratio=0.5", {"l1-ratio": "0.5"}),
    ("--a=1", {"a": "1"}),
    ('"learning rate"=1 b=2', {"learning rate": "1", "b": "2"}),
    ("a=", {"a": ""}),
    ("url=s3://b/k?x=1", {"url": "s3://b/k?x=1"}),
    ("  a=1\n b=2 ", {"a": "1", "b": "2"}),
])
def test_params_are_read_by_blank_or_comma(text: str, expected: dict[str, str]) -> None:
    assert parse_params(text) == expected


@pytest.mark.parametrize("text", ["a", "=1", "a=1 b", "a='open", 'b="'])
def test_params_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_params(text)


@pytest.mark.parametrize(("kind", "good", "bad"), [
    ("int", ["1", "-3", "+4"], ["1.5", "x", ""]),
    ("float", ["1", "1e-1", ".0", "inf", "nan"], ["x", "", "1,5"]),
    ("bool", ["true", "False", "0", "on", "N"], ["maybe", ""]),
    ("uri", ["s3://a/b", "file:///x", "dbfs:/x"], ["no scheme", "/path"]),
    ("string", ["", "anything"], ["with \0"]),
])
def test_values_are_checked_against_their_type(kind: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        check_value("p", kind, text, "here")
    for text in bad:
        with pytest.raises(SpecError):
            check_value("p", kind, text, "here")


def test_an_entry_point_without_a_command_is_an_error_when_it_is_called() -> None:
    empty = Spec(name="one", environment="python_env", python="", requirements=(), constraints=(),
                 hashes={}, files={}, entry_points={"main": EntryPoint("true", {}),
                                                    "check": EntryPoint("", {})})
    assert call(empty, "main", {}, lambda _: None).command() == "true"
    with pytest.raises(SpecError, match="has no command") as caught:
        call(empty, "check", {}, lambda _: None)
    assert caught.value.where == "one, entry_points.check"
    assert caught.value.fix

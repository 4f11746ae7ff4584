"""Whatever the reader of shell scripts is sure of, dash does.

Scripts are put together by chance. Of `maybe` and `text` the reader knows nothing; dash runs them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.services import need
from toolchain.layer.postinst import Read, read

_FUZZ = settings(max_examples=int(os.environ.get("SHELL_EXAMPLES", "150")), deadline=None,
                 derandomize=True, database=None)
_CALL = "update-alternatives --install /usr/bin/l n"
_THERE = {"/": True, "/none": False, "/no": None, "/tmp": None}  # None: the reader cannot tell

Draw = Callable[[st.SearchStrategy[str]], str]


def _one(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


_LITERALS = _one("a", "b", "c", "'a b'", "''", "xyz", "-n", "\\*", "'*'", "a\\ b", "a.b.c", "1",
                 "2")
_VALUES = _one("$x", '"$x"', "$y", '"$y"', "${z}", "${x:-b}", '"${y-c}"', "${z-a}", "${z:=c}",
               "${x%b}", '"${x%b*}"', "${1:-a}", "$1", '"$2"', '"$#"', '"$@"', "$@", '"$*"', '$*',
               'a"$@"b', "p$x", '"$x"y', "$v", "$(text a b)", '"$(text a)"', "$((1 + 1))", "*",
               "[ab]", "~", "$(echo a b)", '"$(echo -n $x)"', "`echo $y c`", "$(false)",
               '"$(false; echo a)"', "$(x=b; echo $x; exit 0; echo c)", "$(maybe 0 && echo a)",
               "$(text)", "${x+b}", "a{b,c}")
_WORDS = st.one_of(_LITERALS, _VALUES)
_PATTERNS = st.one_of(_LITERALS, _one("*", "a*", "?", "[ab]", "[!a]", '"*"', "$x", '"$y"', "*b*",
                                      "$(text a)", "a|b", "[a-c]*", "\\[a]"))
_LEVEL = _one("", "", " 1", " 2", " 3", " $x", " $(text 2)")


@st.composite
def _condition(draw: Draw) -> str:
    word, other = draw(_WORDS), draw(_WORDS)
    return draw(_one("true", "false", ":", "maybe 0", "maybe 1", f"[ {word} = {other} ]",
                     f'test -n {word}', f"[ -z {word} ]", f"[ {word} != {other} ]", "[ $# -gt 1 ]",
                     f'[ "$x" = a -o "$y" = {other} ]', '[ -n "$1" -a "$1" != b ]',
                     "[ ! -e /none ]", "[ -e / ]", "[ -e /no ]", "[ -e /tmp ]",
                     f"echo {word} >/dev/null",
                     "f", f"g {word}", "x=$(maybe 0)", "x=$(maybe 1)", "y=$(false)", "(exit 1)",
                     "{ false; }", "! true", "false || true", "false && true", "maybe 1 || true",
                     "maybe 0 && false", "true | false", "command -v f >/dev/null"))


@st.composite
def _simple(draw: Draw) -> str:
    word, other = draw(_WORDS), draw(_WORDS)
    return draw(_one(
        *[f"{_CALL} /p/{word} 1", f"{_CALL} /p/{word}/{other} 2"] * 4,
        f"x={word}", f"y={word}", f"x={word} y={other}", f"x={word} f {other}", f"x={word} :",
        f"f {word}", f"g {word} {other}", "f", f"set -- {word} {other}", f"set -- {word}", "set -e",
        "set +e", f"set {word} {other} c", "shift", f"shift{draw(_LEVEL)}", f"break{draw(_LEVEL)}",
        f"continue{draw(_LEVEL)}", "continue", "break", f"return {draw(_one('0', '1', '', '$x'))}",
        f"exit {draw(_one('0', '1', ''))}", "unset x", f"export y={word}", "unset -f f", "IFS=a",
        f"exec {_CALL} /e/{word} 1", f"env A=b {_CALL} /v/{word} 1", f"command {_CALL} /c/{word} 1",
        f"x=b {_CALL} /x/$x 1", f"echo {word}", f"IFS=b read y <<E\n{word} b c\nE\n", "false",
        f"eval x={word}", f"eval {_CALL} /l/{word} 1",
        f"u=update-alternatives; $u {_CALL[20:]} /u 1",
        f"$(text update-alternatives) {_CALL[20:]} /u 1", f"read x <<E\n{word}\nE\n",
        f"update-alternatives $(text {_CALL[20:]} /t 1)", f"local x={word}", "local y", f"{word}",
        f"trap '{_CALL} /trap 1' EXIT", f"text {_CALL} /s 1 | sh", f"sh -c '{_CALL} /i 1'",
        f"$(maybe {draw(_one('0', '1'))})", f": ${{y:={draw(_one('a', 'b'))}}}"))


@st.composite
def _compound(draw: Draw, inner: st.SearchStrategy[str]) -> str:
    body, second, condition = draw(inner), draw(inner), draw(_condition())
    word, other = draw(_WORDS), draw(_WORDS)
    number = draw(st.integers(0, 10**9).map(str))
    return draw(_one(
        f"if {condition}; then {body}\nelse {second}\nfi",
        f"if {condition}; then {body}\nelif {draw(_condition())}; then {second}\nfi",
        *[f"for {draw(_one('x', 'y', 'v'))} in {word} {other} b; do {body}\ndone"] * 2,
        f"for x; do {body}\ndone", f"for v in {word}; do {body}\ndone",
        f"for v in a b c; do {condition} || continue; {body}\ndone",
        f"for v in a b c; do if [ $v = {word} ]; then break; fi; {body}\ndone",
        f'n{number}=; while [ "x$n{number}" != xaa ]; do n{number}=a$n{number}; {body}\ndone',
        f'n{number}=; until [ "x$n{number}" = xa ]; do n{number}=a$n{number}; {body}\ndone',
        f'n{number}=; while [ "x$n{number}" != xaa ] && {{ {condition}; }}; do '
        f"n{number}=a$n{number}; {body}\ndone",
        f'n{number}=; while {{ {condition}; }} && [ "x$n{number}" != xaa ]; do '
        f"n{number}=a$n{number}; {body}\ndone",
        f"text {word} | while read v; do {body}\ndone",
        f"while read v; do {body}\ndone <<E\na\nb\nE\n",
        f"case {word} in {draw(_PATTERNS)}) {body}\n;; {draw(_PATTERNS)}) {second}\n;; esac",
        f"case {word} in {draw(_PATTERNS)}) {body}\n;; *) {second}\n;; esac",
        f"( {body}\n)", f"{{ {body}\n}}", f"( {body}\n) | cat", f"text a | {{ {body}\n}}",
        f"{{ {body}\n}} & wait",
        f"{condition} && {{ {body}\n}}", f"{condition} || {{ {body}\n}}", f"! {{ {body}\n}}",
        f"{condition} && {draw(_condition())} || {{ {body}\n}}",
        f"{{ {body}\n}} || {{ {second}\n}}",
        f"eval {shlex.quote(body)}", f"x=$({body}\n)", f"{{ {body}\n}} >/dev/null",
        f"{body}\n{second}", f"{body}\n{second}"))


_STATEMENTS = st.recursive(_simple(), _compound, max_leaves=8)


def _callers(text: str) -> bool:
    return not any(f"{name} " in text or text.endswith(name) or f"{name}\n" in text or f"{name};" in
                   text or f"{name})" in text for name in (" f", " g", "\nf", "\ng"))


@st.composite
def _scripts(draw: Draw) -> str:
    lines = draw(st.lists(_STATEMENTS, min_size=1, max_size=5).map("\n".join))
    functions = "".join(
        f"{name}() {{\n{draw(_STATEMENTS.filter(lambda text: _callers(f' {text}')))}\n}}\n"
        for name in "fg")
    return f"#!/bin/sh{draw(_one('', ' -e'))}\n{functions}{lines}\n"


class _Dash:
    """Runs scripts; update-alternatives only says how it was called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        self._work = folder / "work"
        self._work.mkdir()
        (self._work / "a").touch()
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (
                ("update-alternatives", f"{{ printf '%s\\037' \"$@\"; echo; }} >> {self._calls}"),
                ("maybe", "exit $1"), ("text", "echo \"$@\"")):
            (programs / name).write_text(f"#!{need('dash')}\n{text}\n")
            (programs / name).chmod(0o755)
        self._path = f"{programs}:/usr/bin:/bin"

    def run(self, script: str) -> tuple[list[list[str]], bool, bool]:
        """The calls; whether it failed; whether it ran only what the reader knows, too."""
        self._calls.write_text("")
        (self._folder / "script").write_text(script)
        options = ["-e"] if script.startswith("#!/bin/sh -e") else []
        done = subprocess.run(
            [need("dash"), *options, str(self._folder / "script"), "configure", ""],
            env={"PATH": self._path}, cwd=self._work, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=5, check=False)
        calls = [line.split("\x1f")[:-1] for line in self._calls.read_text().split("\n") if line]
        is_known = not any(word in script for word in ("maybe", "text")) and (
            b"not found" not in done.stderr)
        return calls, done.returncode != 0, is_known


@pytest.fixture(scope="module")
def dash(tmp_path_factory: pytest.TempPathFactory) -> _Dash:
    return _Dash(tmp_path_factory.mktemp("dash"))


def _read(script: str) -> Read:
    return read(script, "tool", "amd64", lambda path: _THERE.get(path))


def _is_within(part: list[list[str]], whole: list[list[str]]) -> bool:
    rest = iter(whole)
    return all(call in rest for call in part)


def _compare(script: str, dash: _Dash) -> None:
    found = _read(script)
    offers = [["--install", offer.link, offer.name, offer.path, str(offer.priority)]
              for offer in found.offers]
    calls, has_failed, is_known = dash.run(script)
    if has_failed and not is_known:
        # A script that fails installs nothing: of a failure that is not sure, nothing is said.
        assert found.notes or offers[:len(calls)] == calls
    elif found.notes:
        assert _is_within(offers, calls), found.notes
    else:
        assert offers == calls


@_FUZZ
@given(_scripts())
def test_what_the_reader_is_sure_of_dash_does(dash: _Dash, script: str) -> None:
    _compare(script, dash)


_LINKS = "update-alternatives --install /usr/bin/a a"


@pytest.mark.parametrize(("text", "paths"), [
    (f"for x in a b c; do if [ $x = a ]; then continue; fi; {_LINKS} /x/$x 1; done", "/x/b /x/c"),
    (f"for x in /none /; do [ -e $x ] || continue; {_LINKS} /y$x 1; done", "/y/"),
    (f"for x in a b; do for y in c d; do continue 2; done; {_LINKS} /$x 1; done; {_LINKS} /z 1",
     "/z"),
    (f"for x in a b; do for y in c d; do {_LINKS} /$x/$y 1; break 2; done; done", "/a/c"),
    (f"for x in a b; do f() {{ break; }}; f; {_LINKS} /$x 1; done", "/a /b"),
    (f"for x in a b; do (break); {_LINKS} /$x 1; done", "/a /b"),
    (f"for x in a b; do maybe 1 && break; done; {_LINKS} /z 1", "/z"),
    (f"set -- /x /usr/lib/a /usr/lib/b; shift 2; {_LINKS} $1 1", "/usr/lib/b"),
    (f"set -x /usr/lib/a; {_LINKS} $1 1", "/usr/lib/a"),
    (f"exec {_LINKS} /a 1; {_LINKS} /b 1", "/a"),
    (f"env A=b C=d {_LINKS} /a 1", "/a"),
    (f"eval '{_LINKS} /a 1'", "/a"),
    (f"x=/b; f() {{ local x=/c; }}; f; {_LINKS} $x 1", "/b"),
    (f"f() {{ {_LINKS} $x 1; }}; x=/c f", "/c"),
    (f"f() {{ return 1; }}; f || {_LINKS} /a 1", "/a"),
    (f"set -e; false || false && true; {_LINKS} /a 1; false; {_LINKS} /b 1", "/a"),
    (f": ${{x:=/a}}; {_LINKS} $x 1", "/a"),
    (f"{_LINKS} /b${{1-c}}${{y-a}} 1; set --; {_LINKS} /c${{1-/d}} 1", "/bconfigurea /c/d"),
    (f"case 'a*' in 'b*'|'a?') exit;; a'*') {_LINKS} /a 1;; esac", "/a"),
    (f"until [ $# = 0 ]; do {_LINKS} /$1/x 1; shift; done", "/configure/x //x"),
    (f"x=1 & wait; {_LINKS} /a$x 1", "/a"),
    (f"f() {{ {_LINKS} /a 1; }}; command -v f >/dev/null && f", "/a"),
    (f"maybe 0 || exit 1; {_LINKS} /a 1", "/a"),
])
def test_it_is_sure_and_right(dash: _Dash, text: str, paths: str) -> None:
    script = f"#!/bin/sh\n{text}\n"
    assert [call[3] for call in dash.run(script)[0]] == paths.split()
    found = _read(script)
    assert ([offer.path for offer in found.offers], found.notes) == (paths.split(), ())


@pytest.mark.parametrize("text", [
    f"for f in /usr/lib/jvm/*/bin/java; do {_LINKS} $f 1; done",
    f'for f in /usr/lib/jvm/*/bin/java; do [ -x "$f" ] || continue; {_LINKS} $f 1; done',
    f"{_LINKS} /usr/lib/[ab]/c 1", f"{_LINKS} /usr/lib/?/c 1", f"x=/usr/*; {_LINKS} $x 1",
    f"{_LINKS} ~/c 1", f"{_LINKS} /{{a,b}} 1",
    f"for x in $(text); do {_LINKS} /a 1; done",
    f"maybe 1 && shift; {_LINKS} /$2 1", f"set -- a b c; shift $(text 2); {_LINKS} /$1 1",
    f"set -- $(text a b) c; {_LINKS} /$2 1",
    f"for x in a b; do for y in c d; do break $(text 2); done; {_LINKS} /$x 1; done",
    f"for x in a b; do maybe 0 && continue; {_LINKS} /$x 1; done",
    f"x=a; while maybe 1; do if [ $x = b ]; then {_LINKS} /a 1; fi; x=b; done",
    f"if maybe 1; then f() {{ {_LINKS} /a 1; }}; else f() {{ :; }}; fi; f",
    f"x=$(maybe 1 && echo a); {_LINKS} /$x 1",
    f"IFS=:; x=/a:b; {_LINKS} $x 1",
    f"x=; {_LINKS} /b${{x-/a}} 1",
    "UA=$(maybe 0); $UA --install /usr/bin/a a /a 1",
    "update-alternatives $(text --install /usr/bin/a a /a 1)",
    'eval "$(maybe 0)" # update-alternatives', f"env -i {_LINKS} /a 1", f"sh -c '{_LINKS} /a 1'",
    f"echo {_LINKS} /a 1 | sh", f"trap '{_LINKS} /a 1' EXIT", f"nice {_LINKS} /a 1",
    f"maybe 0 &>/dev/null && {_LINKS} /a 1",
    f"set -eo pipefail; if false | true; then {_LINKS} /a 1; fi",
    f"x=(a b); {_LINKS} /$x 1", f"((x++)); {_LINKS} /$x 1", f": $((x = 1)); {_LINKS} /$x 1",
])
def test_it_is_not_sure_and_says_so(text: str) -> None:
    found = _read(f"#!/bin/sh\n{text}\n")
    assert found.offers == ()
    assert len(found.notes) == 1
    assert found.notes[0].startswith("tool: its script ")


@pytest.mark.parametrize("text", [
    "grep -q update-alternatives /etc/x", "printf 'no update-alternatives'", "$(text) a b",
    "update-alternatives --remove-all $x $(text)", "env", "eval", "$(text) --remove b; sh -c true",
])
def test_what_offers_nothing_is_no_note(text: str) -> None:
    found = _read(f"#!/bin/sh\n{text}\n")
    assert (found.offers, found.notes) == ((), ())

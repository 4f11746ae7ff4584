"""EntryPoint + parameters -> a command line for `bash -c`, and the variables that it names.

As MLflow: `{name}` stands for the parameter's value, as one literal word; parameters that the
entry point does not declare are appended to the last command line as `--name value`. Unlike
MLflow: other braces are left alone, and a value is no part of the line. The line holds
`"${TOOLCHAIN_PARAMETER_1}"` (toolchain.spec.placeholder), and the value is in the environment: bash
does not read it as code, in whatever context the author put the placeholder (quotes, `$(…)`,
backticks, comments, here-documents).
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from toolchain.errors import SpecError, nearest
from toolchain.spec import EntryPoint, Spec, Warn
from toolchain.spec.commandline import split
from toolchain.spec.placeholder import substitute

# A word of params: up to a blank, or a comma that `name=` follows. Group 1 is empty between words.
_WORD = re.compile(r"""\s+|,(?=\s*[\w.-]+=)|((?:[^\s"',]|"[^"]*"|'[^']*'|,(?!\s*[\w.-]+=))+)""")
_QUOTED = re.compile(r""""[^"]*"|'[^']*'""")
# What str.format takes behind a name: `{a.b}`, `{a[0]}`, `{a!r}`, `{a:>9}`.
_BRACES = re.compile(r"(?<![${])\{(\w[^{}\n]*)\}(?!\})")
_FORMAT = re.compile(r"(?:\.[A-Za-z_]\w*|\[[^][]*\])*(?:![rsa])?(?::.*)?")
_PROGRAMS = {".py": "python", ".sh": "bash"}
SCRIPTS = (*_PROGRAMS, ".R")
_BOOLS = frozenset({"true", "false", "1", "0", "yes", "no", "y", "n", "t", "f", "on", "off"})


@dataclass(frozen=True)
class Call:
    """An entry point with its parameters settled. `parameters` maps name -> (type, text)."""

    entry_point: EntryPoint
    parameters: Mapping[str, tuple[str, str]]

    @property
    def texts(self) -> dict[str, str]:
        return {name: text for name, (_, text) in self.parameters.items()}

    def identity(self) -> dict[str, object]:
        """What the training key sees: 0.10 and 1e-1 are one float."""
        return {name: _identity(kind, text) for name, (kind, text) in self.parameters.items()}

    def with_paths(self, paths: Mapping[str, str]) -> Call:
        """A copy whose `path` parameters have these texts."""
        return Call(entry_point=self.entry_point, parameters={
            name: (kind, paths.get(name, text)) for name, (kind, text) in self.parameters.items()
        })

    def command(self) -> str:
        """The line for `bash -c`, which wants `variables` in its environment."""
        declared = self.entry_point.parameters
        line = substitute(self.entry_point.command, self._names())
        extra = [
            f'--{shlex.quote(name)} "${{{variable}}}"'
            for name, variable in self._names().items()
            if name not in declared
        ]
        command, rest = split(line) if extra else (line, "")
        return " ".join([command, *extra]) + rest

    def variables(self) -> dict[str, str]:
        """The environment that `command` needs: variable -> value."""
        return {variable: self.parameters[name][1] for name, variable in self._names().items()}

    def _names(self) -> dict[str, str]:
        return {name: f"TOOLCHAIN_PARAMETER_{number}"
                for number, name in enumerate(self.parameters, start=1)}


def call(spec: Spec, entry_point: str, given: Mapping[str, str], warn: Warn) -> Call:
    """Settle an entry point and its parameters; check each value against its type.

    Raises SpecError for an unknown entry point, a missing parameter or a value of another type.
    """
    entry = find_entry_point(spec, entry_point)
    where = f"{spec.name}, entry_points.{entry_point}"
    settled: dict[str, tuple[str, str]] = {}
    _refuse_missing(entry, given, where)
    for name, parameter in entry.parameters.items():
        text = given.get(name, parameter.default)
        assert text is not None
        if text != parameter.default or parameter.type == "uri":  # what the file says, it may say
            check_value(name, parameter.type, text, f"{where}.parameters.{name}")
        settled[name] = (parameter.type, text)
    for name, text in given.items():
        if name not in settled:
            hint = nearest(name, entry.parameters)
            warn(f"{spec.name}: {entry_point} declares no parameter {name!r}{hint}; "
                 f"it is passed on as --{name}")
            settled[name] = ("string", text)
    return Call(entry_point=entry, parameters=settled)


def _refuse_missing(entry: EntryPoint, given: Mapping[str, str], where: str) -> None:
    missing = [name for name, parameter in entry.parameters.items()
               if parameter.default is None and name not in given]
    if missing:
        named = ", ".join(map(repr, missing))
        what = (f"parameter {named} has no value" if len(missing) == 1
                else f"{len(missing)} parameters have no value: {named}")
        example = " ".join(f"{_in_quotes(name)}=…" for name in missing)
        raise SpecError(what, where=where,
                        fix=f'give it: params="{example}", or a default in MLproject')


def _in_quotes(name: str) -> str:
    """As `params` takes a name."""
    return f"'{name}'" if " " in name else name


def find_entry_point(spec: Spec, name: str) -> EntryPoint:
    """A declared entry point, or a script of the project as MLflow takes it."""
    if name in spec.entry_points:
        if not spec.entry_points[name].command:
            raise no_command(f"{spec.name}, entry_points.{name}")
        return spec.entry_points[name]
    extension = posixpath.splitext(name)[1]
    if extension in _PROGRAMS:
        return EntryPoint(command=f"{_PROGRAMS[extension]} {shlex.quote(name)}", parameters={})
    if extension == ".R":
        text = name.replace("\\", "\\\\").replace("'", "\\'")
        source = shlex.quote(f"mlflow::mlflow_source('{text}')")
        return EntryPoint(command=f"Rscript -e {source} --args", parameters={})
    known = ", ".join(spec.entry_points) or "none"
    raise SpecError(
        f"no entry point {name!r}{nearest(name, spec.entry_points)}", where=spec.name,
        fix=f"entry points of this project: {known}; or name a .py, .sh or .R file",
    )


def no_command(where: str) -> SpecError:
    return SpecError("an entry point has no command", where=where,
                     fix="add `command: python train.py`")


def refuse_formatting(command: str, parameters: Mapping[str, object], where: str) -> None:
    """Raise SpecError where a command asks str.format for more than a parameter's value.

    MLflow would give it what the value's Python object holds, or a cut value.
    """
    for found in _BRACES.findall(command):
        for name in parameters:
            more = found.removeprefix(name)
            if found not in parameters and more != found and _FORMAT.fullmatch(more):
                raise SpecError(
                    f"a placeholder is a parameter's name and nothing more: {{{found}}}",
                    where=where, fix=f"write {{{name}}}, or {{{{{found}}}}} if the braces are "
                                     "meant for the command itself")


def parse_params(text: str) -> dict[str, str]:
    """`alpha=0.1 l1_ratio=0.5` or `alpha=0.1,l1_ratio=0.5` -> values by name.

    Quotes are respected: `note="a, b"` is one value. A comma separates only where `name=`
    follows it, so `sizes=1,2,3` is one value too. Raises SpecError.
    """
    if not _is_utf8(text):
        raise SpecError("not UTF-8", where="params", fix="give values in UTF-8")
    given: dict[str, str] = {}
    position = 0
    while position < len(text):
        word = _WORD.match(text, position)
        if word is None:
            raise SpecError(f"a quote is not closed: {text[position:]}", where="params",
                            fix="close it, or put the other kind of quote around it")
        position = word.end()
        if not word[1]:
            continue
        name, equals, value = word[1].partition("=")
        name = _QUOTED.sub(lambda quoted: quoted[0][1:-1], name).removeprefix("--")
        if not equals or not name:
            raise SpecError(f"not name=value: {word[1]!r}", where="params",
                            fix='write params="alpha=0.1 l1_ratio=0.5"')
        if name in given:
            raise SpecError(f"{name!r} is given twice", where="params", fix="give it once")
        given[name] = _QUOTED.sub(lambda quoted: quoted[0][1:-1], value)
    return given


def check_value(name: str, kind: str, text: str, where: str) -> None:
    """Raise SpecError unless `text` is a value of the parameter type `kind`."""
    try:
        if kind == "int":
            int(text)
        elif kind == "float":
            float(text)
    except ValueError:
        raise SpecError(f"parameter {name!r} is {kind}, not {text!r}", where=where,
                        fix=f"give a number, as in params=\"{name}=1\"") from None
    if kind == "bool" and text.lower() not in _BOOLS:
        raise SpecError(f"parameter {name!r} is bool, not {text!r}", where=where,
                        fix=f"give true or false, as in params=\"{name}=true\"")
    if kind == "uri" and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
        raise SpecError(f"parameter {name!r} is a URI, not {text!r}", where=where,
                        fix="give it with its scheme, as in s3://bucket/key")
    if "\0" in text or not _is_utf8(text):
        raise SpecError(f"parameter {name!r} holds a character that no program can be given",
                        where=where, fix="take NUL characters and half surrogates out")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_utf8(text: str) -> bool:
    # Python keeps other bytes of a command line as lone surrogates (PEP 383).
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _identity(kind: str, text: str) -> object:
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return repr(float(text))  # text, since JSON has no infinity
    except ValueError:  # a default such as `None`
        return text
    return text

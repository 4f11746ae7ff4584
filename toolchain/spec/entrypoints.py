"""entry_points of MLproject -> EntryPoints: commands, their parameters, types and defaults."""

from __future__ import annotations

import re
from dataclasses import replace

from toolchain.errors import SpecError, nearest
from toolchain.spec import PARAMETER_TYPES, EntryPoint, Parameter, Warn
from toolchain.spec.command import check_value, is_number, no_command, refuse_formatting
from toolchain.spec.commandline import stripped
from toolchain.spec.placeholder import NAME, refuse_backticks
from toolchain.spec.yamltext import Located

_ENTRY_KEYS = ("command", "parameters", "description")
_PARAMETER_KEYS = ("type", "default", "description")
_NAME = re.compile(NAME)
_PLACEHOLDER = re.compile(rf"(?<![${{])\{{({NAME})\}}(?!\}})")
_NO_VALUE = frozenset({"", "None", "none", "null", "nil"})
# `{type:int}` and `{type int}` are for YAML one key without a value.
_RUN_TOGETHER = re.compile(r"(type|default|description)\s*[:=\s]\s*(.+)", re.DOTALL)


def entry_points(value: Located | None, path: str, warn: Warn) -> dict[str, EntryPoint]:
    """Read the whole section. Raises SpecError with file, line and key."""
    if value is None or value.value is None:
        return {}
    if not isinstance(value.value, dict):
        raise SpecError("entry_points is not a mapping", where=f"{path}:{value.line}",
                        fix="write `entry_points:` and below it `main:` with `command: …`")
    found = {name: _entry_point(name, entry, path, warn) for name, entry in value.value.items()}
    broken = [name for name, entry in found.items() if not entry.command]
    for name in broken:
        error = no_command(f"{path}:{value.value[name].line}, entry_points.{name}")
        if len(broken) == len(found):
            raise error
        warn(f"{error.where}: {error.what}; the others can be run")
    return found


def _entry_point(name: str, value: Located, path: str, warn: Warn) -> EntryPoint:
    """An entry point; one without a command has an empty one, and is an error if it is called."""
    where = f"{path}:{value.line}, entry_points.{name}"
    if not isinstance(value.value, dict):
        raise SpecError("an entry point is a mapping with `command`", where=where,
                        fix=f"write `{name}: {{command: python train.py}}`")
    for key, item in value.value.items():
        if key not in _ENTRY_KEYS:
            warn(f"{path}:{item.line}: unknown key {key!r}{nearest(key, _ENTRY_KEYS)}")
    command = value.value.get("command", value)
    text = command.value if isinstance(command.value, str) else ""
    declared = _parameters(name, value.value.get("parameters"), path, warn)
    for word in _PLACEHOLDER.findall(text):
        if word not in declared and (hint := nearest(word, declared)):
            warn(f"{path}:{command.line}: the command has {{{word}}}, which is no parameter{hint}")
    at = f"{path}:{command.line}, entry_points.{name}.command"
    refuse_formatting(text, declared, at)
    refuse_backticks(text, declared, at)
    if "\0" in text:
        raise SpecError("a command holds a NUL character", where=at, fix="take it out")
    return EntryPoint(command=stripped(text), parameters=declared,
                      description=_description(value.value.get("description"), where, warn))


def _parameters(name: str, value: Located | None, path: str, warn: Warn) -> dict[str, Parameter]:
    if value is None or value.value is None:
        return {}
    if not isinstance(value.value, dict):
        raise SpecError("parameters is not a mapping", where=f"{path}:{value.line}, "
                        f"entry_points.{name}.parameters",
                        fix="write each as `alpha: {type: float, default: 0.5}`")
    return {
        key: _parameter(key, item, f"{path}:{item.line}, entry_points.{name}.parameters.{key}",
                        warn)
        for key, item in value.value.items()
    }


def _parameter(name: str, value: Located, where: str, warn: Warn) -> Parameter:
    if not _NAME.fullmatch(name):
        raise SpecError(f"not a parameter name: {name!r}", where=where,
                        fix="use letters, digits, blanks, '_', '.' and '-'")
    if isinstance(value.value, str):  # `alpha: float`, as MLflow's shorthand
        together = _RUN_TOGETHER.fullmatch(value.value)
        if together and together[1] == "type":
            _warn_of_run_together(value.value, where, warn)
            return Parameter(type=_type(together[2], where, warn))
        return Parameter(type=_type(value.value, where, warn))
    if not isinstance(value.value, dict):
        raise SpecError("a parameter is a type or a mapping with `type` and `default`",
                        where=where, fix=f"write `{name}: {{type: float, default: 0.5}}`")
    fields = _fields(value.value, where, warn)
    given = fields.get("type")
    kind = "string" if given is None or given.value is None else _type(given.text, where, warn)
    parameter = Parameter(
        type=kind, description=_description(fields.get("description"), where, warn))
    default = fields.get("default")
    if default is None or default.value is None:
        return parameter
    text = _default_text(default, where, warn)
    _check_default(name, kind, text, where, warn)
    return replace(parameter, default=text)


def _check_default(name: str, kind: str, text: str, where: str, warn: Warn) -> None:
    """Raise SpecError for a default that is a mistake; warn of one that programs get along with.

    MLflow checks no default, and `None` for a number is what many programs know as "not given".
    """
    try:
        check_value(name, kind, text, where)
    except SpecError as error:
        if kind == "uri" and error.what.startswith(f"parameter {name!r} is a URI"):
            warn(f"{where}: the default {text!r} is no URI; a run needs another value")
        elif text in _NO_VALUE or is_number(text):
            warn(f"{where}: the default {text!r} is no {kind}; it is passed on as it stands")
        else:
            raise SpecError(error.what, where=error.where, fix="write another default, or none: "
                            "then each run must give a value") from None


def _fields(mapping: dict[str, Located], where: str, warn: Warn) -> dict[str, Located]:
    """The mapping of a parameter as it was meant: `type:int` is no key of its own."""
    from toolchain.spec.yamltext import load

    fields: dict[str, Located] = {}
    for key, item in mapping.items():
        together = _RUN_TOGETHER.fullmatch(key) if item.value is None else None
        if together and together[1] not in mapping:
            _warn_of_run_together(key, where, warn)
            fields[together[1]] = load(together[2], where)
        else:
            if key not in _PARAMETER_KEYS:
                warn(f"{where}: unknown key {key!r}{nearest(key, _PARAMETER_KEYS)}")
            fields[key] = item
    return fields


def _warn_of_run_together(text: str, where: str, warn: Warn) -> None:
    together = _RUN_TOGETHER.fullmatch(text)
    assert together is not None
    warn(f"{where}: {text!r} is one word for YAML, and MLflow takes no notice of it; read as "
         f"`{together[1]}: {together[2]}` — put a colon and a blank there")


def _default_text(default: Located, where: str, warn: Warn) -> str:
    # MLflow substitutes str() of the YAML value: `yes` becomes `True`, `1_000` becomes `1000`.
    if isinstance(default.value, (dict, list)):
        text = str(default.plain())
        warn(f"{where}: the default has several parts; it is passed on as the text {text!r}")
        return text
    return default.text if isinstance(default.value, str) else str(default.value)


def _type(text: str, where: str, warn: Warn) -> str:
    text = text.strip()
    if text in PARAMETER_TYPES:
        return text
    warn(f"{where}: unknown type {text!r}{nearest(text, PARAMETER_TYPES)}; taken as string")
    return "string"


def _description(value: Located | None, where: str, warn: Warn) -> str:
    if value is None or value.value is None:
        return ""
    if isinstance(value.value, (dict, list)):
        warn(f"{where}: a description that is not text is left out")
        return ""
    return " ".join(value.text.split())

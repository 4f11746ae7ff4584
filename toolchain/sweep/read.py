"""sweep.yaml -> Sweep: the grammar of W&B's sweep configuration, as far as it goes here.

https://docs.wandb.ai/guides/sweeps/define-sweep-configuration has the names. What is ours beside
them: `trials`, `parallel`, `engine`, `budget`, `max_failures`, `seed`, `log`, and the methods and
rules that Optuna has and W&B has not (`cmaes`, `median`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from toolchain.errors import SpecError, nearest
from toolchain.spec import yamltext
from toolchain.spec.yamltext import Located
from toolchain.sweep import Early, Metric, Sweep, budget
from toolchain.sweep.dimension import parameter
from toolchain.sweep.space import Space

METHODS = ("grid", "random", "bayes", "cmaes")
GOALS = ("minimize", "maximize")
_KEYS = ("method", "metric", "parameters", "early_terminate", "trials", "run_cap", "parallel",
         "engine", "budget", "max_failures", "entry_point", "seed", "name", "description")
# W&B's that say what is settled elsewhere: a file that has them is read, and it is said.
_ELSEWHERE = {"program": "MLproject's entry point is what runs",
              "project": "runs go to the experiment that `experiment` names, or the project's",
              "entity": "the tracking server knows who you are"}
# W&B's that would change what a trial is, if they were passed over.
_REFUSED = {
    "command": "write it as `command` of an entry point in MLproject, and name that with "
               "entry_point",
    "controller": "take it out: this call is what draws trials and runs them",
    "launch": "take it out: `engine` says where trials run",
    "job": "take it out: the image is built from the project", "image_uri":
    "take it out: the image is built from the project",
}
_EARLY = ("type", "min_iter", "max_iter", "s", "eta", "startup", "strict")
_LARGEST_GRID = 1_000_000  # points, where nothing says how many of them
# What of a sweep can be given for one call.
CALL = ("trials", "parallel", "budget", "max_failures")


def read(text: str, path: str) -> Sweep:
    """Parse and check the file. Raises SpecError with file and line."""
    top = yamltext.load(text, path)
    _refuse_wandb(top, path)
    fields = _mapping(top, path, "the file", (*_KEYS, *_ELSEWHERE))
    method = _word(fields, "method", METHODS, path, top.line)
    found = Sweep(
        path=path, method=method, metric=_metric(fields, path, top.line),
        space=_space(fields, path, top.line, grid=method == "grid"),
        early=_early(fields["early_terminate"], path) if _has(fields, "early_terminate") else None,
        trials=_trials(fields, path),
        parallel=_count(fields, "parallel", path) or 1,
        engine=_text(fields, "engine", path),
        max_failures=_count(fields, "max_failures", path, least=0),
        entry_point=_text(fields, "entry_point", path), seed=_count(fields, "seed", path, least=0),
        budget=budget.read(_scalar(fields["budget"], path, "budget"), _at(path, fields["budget"]))
        if _has(fields, "budget") else None,
        notes=tuple(f"{_at(path, fields[name])}: {name} is not used: {why}"
                    for name, why in _ELSEWHERE.items() if _has(fields, name)),
    )
    if found.method == "cmaes" and any(item.choices for item in found.space.parameters):
        named = next(item.name for item in found.space.parameters if item.choices)
        raise SpecError(f"cmaes draws numbers, and {named!r} is a choice",
                        where=_at(path, fields["method"]),
                        fix="give it min and max, or use method: bayes")
    return found


def given(sweep: Sweep, call: Mapping[str, str], *, to_run: bool = True) -> Sweep:
    """A copy with what this call asks for: texts by name, of those in CALL. Raises SpecError, also
    for a sweep without an end, if it is `to_run`."""
    where = "command line"
    changes: dict[str, Any] = {
        name: budget.read_count(name, call[name], where, least=0 if name == "max_failures" else 1)
        for name in ("trials", "parallel", "max_failures") if call.get(name)}
    if call.get("budget"):
        changes["budget"] = budget.read(call["budget"], where)
    changed = replace(sweep, **changes)
    if to_run and changed.most is None and changed.budget is None:
        raise SpecError(f"method {sweep.method} has no end", where=sweep.path,
                        fix="say how many: trials: 20 in the file, or trials=20; or a budget")
    if (to_run and sweep.method == "grid" and changed.trials is None and changed.budget is None
            and sweep.space.size > _LARGEST_GRID):
        raise SpecError(f"the grid has {sweep.space.size:,} points", where=sweep.path,
                        fix="give fewer values or a larger q, or say how many: trials: 20 in the "
                            "file, or trials=20; or a budget; or use method: bayes")
    return changed


def _refuse_wandb(top: Located, path: str) -> None:
    for name, value in top.value.items() if isinstance(top.value, dict) else ():
        if name in _REFUSED and value.value is not None:
            raise SpecError(f"{name} is W&B's, and not known here", where=_at(path, value),
                            fix=_REFUSED[name])


def _trials(fields: Mapping[str, Located], path: str) -> int | None:
    trials, cap = _count(fields, "trials", path), _count(fields, "run_cap", path)
    if trials is not None and cap is not None:
        raise SpecError("trials and run_cap are given, which mean the same",
                        where=_at(path, fields["run_cap"]), fix="keep one of them")
    return trials if cap is None else cap


def _metric(fields: Mapping[str, Located], path: str, line: int) -> Metric:
    if not _has(fields, "metric"):
        raise SpecError("no metric is named", where=f"{path}:{line}",
                        fix="write metric: {name: rmse, goal: minimize}, as the script logs it")
    metric = fields["metric"]
    inner = _mapping(metric, path, "metric", ("name", "goal", "target"))
    name = _text(inner, "name", path)
    if not name:
        raise SpecError("the metric has no name", where=_at(path, metric),
                        fix="write metric: {name: rmse, goal: minimize}, as the script logs it")
    goal = _word(inner, "goal", GOALS, path, metric.line) if _has(inner, "goal") else GOALS[0]
    return Metric(name=name, goal=goal, target=_number(inner, "target", path))


def _space(fields: Mapping[str, Located], path: str, line: int, *, grid: bool) -> Space:
    if not _has(fields, "parameters") or not fields["parameters"].value:
        raise SpecError("the search space is empty", where=f"{path}:{line}, parameters",
                        fix="write parameters: {alpha: {min: 0.001, max: 1.0}}")
    named = _mapping(fields["parameters"], path, "parameters", None)
    return Space(tuple(parameter(name, value, path, grid=grid) for name, value in named.items()))


def _early(early: Located, path: str) -> Early:
    inner = _mapping(early, path, "early_terminate", _EARLY)
    kind = _word(inner, "type", ("hyperband", "median"), path, early.line)
    low = _count(inner, "min_iter", path, least=0)
    high = _count(inner, "max_iter", path)
    eta = _count(inner, "eta", path, least=2)
    startup = _count(inner, "startup", path, least=0)
    if _has(inner, "strict") and inner["strict"].value is not False:
        raise SpecError("strict is W&B's, and not known here", where=_at(path, inner["strict"]),
                        fix="take it out: Optuna's hyperband compares trials of one bracket alone")
    if kind == "median":
        for name in ("max_iter", "eta", "s"):
            if _has(inner, name):
                raise SpecError(f"{name} belongs to hyperband", where=_at(path, inner[name]),
                                fix="take it out; median has startup and min_iter")
        return Early(type=kind, low=low or 0, startup=5 if startup is None else startup)
    if _has(inner, "startup"):
        raise SpecError("startup belongs to median", where=_at(path, inner["startup"]),
                        fix="take it out; hyperband has min_iter, max_iter, s and eta")
    low = _first_bracket(inner, path, high, eta or 3) or low
    if high is not None and high < (low or 1):
        raise SpecError(f"min_iter is more than max_iter: {low or 1} > {high}",
                        where=_at(path, inner["max_iter"]), fix="give them in order")
    return Early(type=kind, low=low or 1, high=high or 0, eta=eta or 3)


def _first_bracket(inner: Mapping[str, Located], path: str, high: int | None, eta: int
                   ) -> int | None:
    """W&B's other way to say min_iter: `s` brackets below max_iter, each an eta-th of the next."""
    brackets = _count(inner, "s", path)
    if brackets is None:
        return None
    where = _at(path, inner["s"])
    if high is None or _has(inner, "min_iter"):
        raise SpecError("s counts brackets down from max_iter" if high is None else
                        "s and min_iter are given, which say the same", where=where,
                        fix="give max_iter and s, or min_iter")
    if eta ** brackets > high:
        raise SpecError(f"{brackets} brackets do not go into max_iter: {high} < {eta}^{brackets}",
                        where=where, fix="give a smaller s, or a larger max_iter")
    return max(1, round(high / float(eta ** brackets)))


def _mapping(at: Located, path: str, what: str, known: Iterable[str] | None) -> dict[str, Located]:
    if not isinstance(at.value, dict):
        raise SpecError(f"{what} is not a mapping", where=_at(path, at),
                        fix="write `name: value` pairs, as in docs/guides/sweeps.md")
    for name, value in at.value.items() if known is not None else ():
        if name not in (known or ()):
            raise SpecError(f"unknown key {name!r}{nearest(name, known or ())}",
                            where=_at(path, value), fix=f"known keys: {', '.join(known or ())}")
    return at.value


def _has(fields: Mapping[str, Located], name: str) -> bool:
    return name in fields and fields[name].value is not None


def _word(fields: Mapping[str, Located], name: str, known: tuple[str, ...], path: str,
          line: int) -> str:
    if not _has(fields, name):
        raise SpecError(f"no {name} is given", where=f"{path}:{line}",
                        fix=f"write {name}: {known[0]}; known: {', '.join(known)}")
    word = _scalar(fields[name], path, name)
    if word not in known:
        raise SpecError(f"unknown {name} {word!r}{nearest(word, known)}",
                        where=_at(path, fields[name]), fix=f"known: {', '.join(known)}")
    return word


def _text(fields: Mapping[str, Located], name: str, path: str) -> str:
    return _scalar(fields[name], path, name) if _has(fields, name) else ""


def _number(fields: Mapping[str, Located], name: str, path: str) -> float | None:
    if not _has(fields, name):
        return None
    text = _scalar(fields[name], path, name)
    try:
        # YAML 1.1 takes 1e-3 for text; whoever writes it means the number.
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SpecError(f"{name} is not a number: {text!r}", where=_at(path, fields[name]),
                        fix=f"as in {name}: 0.1")
    return found


def _count(fields: Mapping[str, Located], name: str, path: str, least: int = 1) -> int | None:
    if not _has(fields, name):
        return None
    return budget.read_count(name, _scalar(fields[name], path, name), _at(path, fields[name]),
                             least)


def _scalar(at: Located, path: str, name: str) -> str:
    if isinstance(at.value, (dict, list)):
        _refuse(f"{name} is not a single value", at, path)
    return at.text.strip()


def _refuse(what: str, at: Located, path: str) -> NoReturn:
    raise SpecError(what, where=_at(path, at), fix="see docs/guides/sweeps.md for what it may be")


def _at(path: str, at: Located) -> str:
    return f"{path}:{at.line}"

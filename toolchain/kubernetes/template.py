"""A job template's text -> a Job with nothing but what its author decided.

MLflow's templates have text like `"{replaced with MLflow Project name}"` where something is put in;
it may stand without quotes, which YAML reads as a mapping, and among the items of `env`. MLflow
leaves it there, and the cluster refuses it; here it is taken out.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from toolchain.errors import SpecError
from toolchain.spec.yamltext import Located, load

_PLACEHOLDER = re.compile(r"\{?\s*(replaced|appended) with\b.*\}?\s*\Z", re.DOTALL)
_POD = ("spec", "template", "spec")
Json = dict[str, Any]


def parse(text: str, where: str) -> Json:
    """Raises SpecError with the line that is wrong."""
    whole = load(text, where)
    if not isinstance(whole.value, dict):
        _refuse("the template is not a mapping", where, whole,
                "begin it with `apiVersion: batch/v1`")
    fields: dict[str, Located] = whole.value
    for name, wanted in (("kind", "Job"), ("apiVersion", "batch/v1")):
        if name in fields and fields[name].value != wanted:
            _refuse(f"the template's {name} is {fields[name].text or 'no text'}, not {wanted}",
                    where, fields[name], f"write `{name}: {wanted}`")
    pod = whole
    for number, name in enumerate(_POD):
        inner: Any = pod.value.get(name) if isinstance(pod.value, dict) else None
        if inner is None or not isinstance(inner.value, dict):
            _refuse(f"the template has no {'.'.join(_POD[:number + 1])}", where, inner or pod,
                    "write it as in docs/guides/kubernetes.md")
        pod = inner
    inside: Any = pod.value
    containers = inside.get("containers")
    if (containers is None or not isinstance(containers.value, list) or not containers.value
            or not all(isinstance(item.value, dict) for item in containers.value)):
        _refuse("the template has no containers", where, containers or pod,
                "write one below spec.template.spec.containers; its image and command are put in")
    if "metadata" in fields and not isinstance(fields["metadata"].value, (dict, type(None))):
        _refuse("the template's metadata is not a mapping", where, fields["metadata"],
                "write `metadata:` and below it `namespace: …`")
    cleaned: Json = _without_placeholders(whole.plain())
    return cleaned


def _without_placeholders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_placeholders(item) for key, item in value.items()
                if not _is_placeholder(item)}
    if isinstance(value, list):
        return [_without_placeholders(item) for item in value if not _is_placeholder(item)]
    return value


def _is_placeholder(value: Any) -> bool:
    if isinstance(value, dict) and value and not any(value.values()):
        return bool(_PLACEHOLDER.match(next(iter(value))))  # a comma in it makes two keys
    return (isinstance(value, str) and value.startswith("{")
            and bool(_PLACEHOLDER.match(value)))


def _refuse(what: str, where: str, at: Located, fix: str) -> NoReturn:
    raise SpecError(what, where=f"{where}:{at.line}", fix=fix)

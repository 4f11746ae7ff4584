"""conda.yaml's channels, packages and variables -> what conda is asked for, in canonical form.

Formats: conda's documentation of environment files and of match specifications. What they mean is
conda's own business (toolchain.adapters.rattler); here their shape is checked, so that a mistake
is named with its line.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from toolchain.errors import SpecError, without_credentials
from toolchain.spec.yamltext import Located, canonical
from toolchain.values import dataclass

_PACKAGE = re.compile(
    r"(?:(?P<channel>[^\s\[\]]+)::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*?)"
    r"\s*(?P<wanted>(?:[=<>!~ ][\w.*+!<>=~|,()$^ -]*)?)\s*(?P<more>\[[^\[\]]*\])?")
_CHANNEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)*")
_FROM_ENVIRONMENT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_TOKEN = re.compile(r"/t/([^/]+)/")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEMES = ("file", "http", "https", "oci", "s3", "gcs")
NO_DEFAULTS = "nodefaults"
DEFAULTS = "defaults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One package that is asked for. `wanted` is version and build as conda writes them; `text`
    is the whole in canonical form."""

    name: str
    channel: str
    wanted: str
    text: str
    where: str
    line: int


def package(item: Located, where: str) -> Asked:
    """Read an entry of `dependencies`. Raises SpecError."""
    if re.match(r"[\w.-]+\s*\[[^=\]]*\]", item.text.strip()):
        raise SpecError(f"conda's packages have no extras: {item.text.strip()[:80]}", where=where,
                        fix="write it below `pip:`, or name the packages that the extra brings")
    match = _PACKAGE.fullmatch(item.text.strip()) if not isinstance(item.value, list) else None
    if match is None:
        raise SpecError(f"not a conda package: {without_credentials(item.text)[:80]}", where=where,
                        fix="write it as in `numpy=1.26`, `numpy >=1.20,<2`, "
                            "`conda-forge::numpy` or `numpy=1.26=py311h1_0`")
    channel = _channel(match["channel"], where, "") if match["channel"] else ""
    wanted = re.sub(r"\s*([<>=!~|,]+)\s*", r"\1", match["wanted"]).strip()
    # A blank before the first operator means nothing, and neither does one within brackets.
    wanted = " ".join(wanted.split())
    more = (match["more"] or "").replace(" ", "")
    _refuse_misspelt(wanted, item.text.strip(), where)
    name = match["name"].lower()
    blank = "" if not wanted or wanted[0] in "=<>!~" else " "
    prefix = f"{channel}::" if channel else ""
    return Asked(name=name, channel=channel, wanted=wanted + more,
                 text=f"{prefix}{name}{blank}{wanted}{more}", where=where, line=item.line)


def _refuse_misspelt(wanted: str, text: str, where: str) -> None:
    """What pip would take, or nearly; conda would say so without a line."""
    if re.search(r"=[<>]", wanted):
        raise SpecError(f"no comparison of conda's: {text}", where=where, fix="write >= or <=")
    if wanted[-1:] in "=<>!~" and wanted:
        raise SpecError(f"a version is missing: {text}", where=where,
                        fix="write one, as in `numpy=1.26`, or take the sign away")


def is_needed(asked: Iterable[Asked]) -> bool:
    """Whether conda is: for any package but python and pip, and for a build of those two."""
    return any(item.name not in ("python", "pip") or _has_build(item.wanted) for item in asked)


def channels(value: Located | None, path: str) -> tuple[str, ...]:
    """The channels in order; `defaults` where none is named. Raises SpecError."""
    if value is None or value.value is None:
        return (DEFAULTS,)
    if not isinstance(value.value, list):
        raise SpecError("channels is not a list", where=f"{path}:{value.line}, channels",
                        fix="write each channel on a line of its own, after `- `")
    found: list[str] = []
    for number, item in enumerate(value.value):
        where = f"{path}:{item.line}, channels[{number}]"
        if not isinstance(item.value, str) or not item.text.strip():
            raise SpecError("a channel is not text", where=where, fix="name it, or give its URL")
        found.append(_channel(item.text.strip(), where, posixpath.dirname(path)))
    kept = tuple(dict.fromkeys(name for name in found if name != NO_DEFAULTS))
    return kept or (DEFAULTS,)


def with_named(order: tuple[str, ...], asked: Iterable[Asked]) -> tuple[str, ...]:
    """The channels, and after them those that only a package names."""
    return tuple(dict.fromkeys([*order, *sorted(
        item.channel for item in asked if item.channel)]))


def variables(value: Located | None, path: str) -> dict[str, str]:
    """`variables:` as text, as conda sets them. Raises SpecError."""
    if value is None or value.value is None:
        return {}
    if not isinstance(value.value, dict):
        raise SpecError("variables is not a mapping", where=f"{path}:{value.line}, variables",
                        fix="write each as `NAME: value`")
    found = {}
    for name, item in value.value.items():
        where = f"{path}:{item.line}, variables.{name}"
        if not _VARIABLE.fullmatch(name) or isinstance(item.value, (dict, list)) \
                or "\0" in item.text:
            raise SpecError(f"not a variable: {name}", where=where, fix="write it as `NAME: value`")
        found[name] = item.text
    return dict(sorted(found.items()))


def canonical_text(data: Mapping[str, Located], order: tuple[str, ...], asked: Iterable[Asked],
                   pip_lines: Iterable[str]) -> str:
    """The environment file as it is put into the image. `prefix` is a path of the machine that
    exported it, so it stays out."""
    plain = {key: item.plain() for key, item in data.items() if key != "prefix"}
    if "variables" in plain:
        plain["variables"] = variables(data["variables"], "")
    if "channels" in plain:
        plain["channels"] = list(order)
    plain["dependencies"] = [*sorted(item.text for item in asked), {"pip": sorted(pip_lines)}]
    return canonical(plain)


def _has_build(wanted: str) -> bool:
    return bool(re.match(r"={1,2}[^=]+=[^=]", wanted)) or " " in wanted or "[" in wanted


def _channel(text: str, where: str, folder: str) -> str:
    """A channel's name, URL or path, checked. Raises SpecError; never shows a password."""
    if text.startswith(("./", "../", "/")):
        if text.startswith("/"):
            return f"file://{posixpath.normpath(text)}"
        path = posixpath.normpath(posixpath.join(folder, text))
        return path if path.startswith("../") else f"./{path}"
    if "://" not in text:
        if not _CHANNEL_NAME.fullmatch(text):
            raise SpecError(f"not a channel: {text[:80]}", where=where,
                            fix="give its name, as in conda-forge, its URL, or a path "
                                "that begins with ./")
        return text
    try:
        url = urlsplit(text)
        scheme = url.scheme
        held = url.netloc.rpartition("@")[0].split(":") if "@" in url.netloc else []
    except ValueError:
        raise SpecError("not a channel's URL", where=where, fix="check its brackets") from None
    secrets = [*held, *_TOKEN.findall(f"{url.path}/")]
    if not all(_FROM_ENVIRONMENT.fullmatch(secret) for secret in secrets) or url.query:
        raise SpecError(
            "a channel's URL holds a password or token", where=where,
            fix="write ${NAME} in its place and set that variable, or keep it in the file that "
                "RATTLER_AUTH_FILE names")
    if scheme not in _SCHEMES or re.search(r"\s", text):
        raise SpecError(f"not a channel's URL: {without_credentials(text)[:80]}", where=where,
                        fix=f"it begins with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    return text.rstrip("/")

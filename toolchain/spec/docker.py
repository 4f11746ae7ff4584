"""docker_env of MLproject -> Docker: an image to stand on, what is mounted and what is set.

MLflow pastes these into a command line; here they are data that an engine hands over as arguments.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from toolchain.errors import SpecError, nearest
from toolchain.spec import Docker, Warn
from toolchain.spec.yamltext import Located

_KEYS = ("image", "volumes", "environment", "build_image")
_DOCKERFILE = "dockerfile:"
# How people write the project's folder, where MLflow has a shell take it.
_HERE = re.compile(r"(?:\$\(pwd\)|`pwd`|\$\{PWD\}|\$PWD\b|\.(?=[/:])|(?=\.\./))")
# And where it is to be mounted at the same path.
_HERE_TOO = re.compile(r"\$\(pwd\)|`pwd`|\$\{PWD\}|\$PWD\b")
# What only a shell could tell; names of variables are for the engine.
_SHELL = re.compile(r"\$\(|`|\$\{[^}]*[^\w}]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_docker(value: Located, path: str, warn: Warn) -> Docker:
    """Raises SpecError with file, line and key."""
    if not isinstance(value.value, dict):
        _refuse("docker_env is not a mapping", path, value, "write `docker_env:` and below it "
                "`image: python:3.11`")
    fields: dict[str, Located] = value.value
    for key, item in fields.items():
        if key not in _KEYS:
            warn(f"{path}:{item.line}: unknown key {key!r}{nearest(key, _KEYS)}")
    environment, copied = _environment(fields.get("environment"), path)
    built = _built(fields.get("build_image"), path)
    return Docker(image=built or _image(fields.get("image"), path, value),
                  volumes=_volumes(fields.get("volumes"), path, warn),
                  environment=environment, copied=copied)


def placed(docker: Docker, folder: Path) -> Docker:
    """The same where the project is in `folder`: `$(pwd)/data:/data` is a folder of it.

    MLflow hands volumes to a shell in that folder. Variables and `~` are the engine's, which knows
    where the run is started; nothing else of what a shell does is done. Raises SpecError for a
    folder that no volume can name.
    """
    return replace(docker, volumes=tuple(_placed(volume, folder) for volume in docker.volumes))


def _placed(volume: str, folder: Path) -> str:
    here = _HERE.match(volume)
    if here is None:
        return volume
    if re.search(r"[:$`]", str(folder)):
        raise SpecError("no volume can name a folder with :, $ or ` in its path",
                        where=f"{folder}, docker_env.volumes: {volume}",
                        fix="rename that folder")
    source, _, rest = volume[here.end():].partition(":")
    rest = _HERE_TOO.sub(lambda _: str(folder), rest)
    return f"{posixpath.normpath(posixpath.join(str(folder), source.lstrip('/')))}:{rest}"


def _built(value: Located | None, path: str) -> str:
    """`build_image: true` is the Dockerfile beside MLproject; a text names another one."""
    if value is None or value.value in (None, False):
        return ""
    if value.value is True:
        return f"{_DOCKERFILE}Dockerfile"
    if not isinstance(value.value, str) or not value.value.strip() \
            or _CONTROL.search(value.value):
        _refuse("build_image is neither true nor a Dockerfile's name", path, value,
                "write `build_image: true`, with a Dockerfile beside MLproject")
    return f"{_DOCKERFILE}{value.value.strip()}"


def _image(value: Located | None, path: str, whole: Located) -> str:
    if value is None or value.value is None:
        _refuse("docker_env names no image", path, whole, "add `image: python:3.11`")
    image = value.value.strip() if isinstance(value.value, str) else ""
    if not image or re.search(r"\s", image) or _CONTROL.search(image):
        _refuse("docker_env.image is not the name of an image", path, value,
                "write it as in `image: registry.example/team/trainer:1.0`")
    return image


def _volumes(value: Located | None, path: str, warn: Warn) -> tuple[str, ...]:
    volumes = []
    for item in _items(value, "volumes", path):
        text = item.value.strip() if isinstance(item.value, str) else ""
        if ":" not in text.strip(":") or _CONTROL.search(text):
            _refuse("a volume is not `source:target`", path, item,
                    'write it as in `volumes: ["/data:/data"]`')
        if _SHELL.search(_HERE_TOO.sub("", text)):
            warn(f"{path}:{item.line}: no shell reads a volume here, as MLflow's does: {text}; "
                 "$(pwd), $NAME and ~ are understood")
        volumes.append(text)
    return tuple(volumes)


def _environment(value: Located | None, path: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables that are set, and the names of those that are copied."""
    settings: dict[str, str] = {}
    copied = []
    for item in _items(value, "environment", path):
        pair = item.value if isinstance(item.value, list) else [item]
        name = pair[0].text if pair and isinstance(pair[0].value, str) else ""
        if not _VARIABLE.fullmatch(name) or len(pair) > 2 or not all(map(_is_text, pair)):
            _refuse("an entry of environment is neither a name nor a pair", path, item,
                    'write `environment: [["NAME", "value"], "NAME_TO_COPY"]`')
        if len(pair) == 1:
            copied.append(name)
        else:
            settings[name] = pair[1].text
    return settings, tuple(dict.fromkeys(copied))


def _is_text(item: Located) -> bool:
    return not isinstance(item.value, (dict, list)) and "\0" not in item.text


def _items(value: Located | None, key: str, path: str) -> list[Located]:
    if value is None or value.value is None:
        return []
    if not isinstance(value.value, list):
        _refuse(f"docker_env.{key} is not a list", path, value,
                f"write each entry of {key} on a line of its own, after `- `")
    return list(value.value)


def _refuse(what: str, path: str, at: Located, fix: str) -> NoReturn:
    raise SpecError(what, where=f"{path}:{at.line}", fix=fix)

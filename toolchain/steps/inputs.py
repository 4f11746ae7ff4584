"""arguments and environment -> the settings of one build. The names are FuseML's builder's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from toolchain.config import reference
from toolchain.errors import ConfigError, nearest
from toolchain.runner.inputs import is_yes, variable
from toolchain.values import dataclass

# FuseML's name -> the setting that it is here.
_SETTINGS = {"registry": "registry", "pull_registry": "pull_registry",
             "repository": "repository", "base_image": "image.base"}
# Inputs that ask for nothing here, and why.
_WITHOUT_MEANING = {
    "miniconda_version": "Python comes from the base image, in the version that the project names",
    "intel_optimized": "packages are those of the project's lock; name Intel's builds there",
    "compressed_caching": "memory does not grow with the image",
}
_OWN = (*_SETTINGS, *_WITHOUT_MEANING, "verbose")
# What a builder of FuseML does not have, and a cluster needs: a plain registry, Debian's packages.
_ALSO_IN_ENVIRONMENT = {"insecure": "insecure", "image_insecure": "image.insecure",
                        "image_mirror": "image.mirror", "image_keyring": "image.keyring"}
_CACHE = "TOOLCHAIN_CACHE"
_CALLS = ("projects", "entry_point", "params", "force")  # settings that mean nothing to a build


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """`settings`: name -> value as the user wrote it."""

    settings: Mapping[str, str]
    verbose: bool


def read(arguments: Sequence[str], environ: Mapping[str, str],
         warn: Callable[[str], None]) -> Inputs:
    """Arguments, as `--name=value` or `name=value`, win over the environment.

    Every setting of this tool can be an argument too. Raises ConfigError.
    """
    given = {name: variable(environ, name) for name in (*_OWN, *_ALSO_IN_ENVIRONMENT)}
    given["cache"] = environ.get(_CACHE) or default_cache(environ)
    for argument in arguments:
        name, value = _pair(argument)
        given[name] = value
    for name, why in _WITHOUT_MEANING.items():
        text = given.pop(name)
        asks = bool(text) if name == "miniconda_version" else is_yes(text, name)
        if asks:
            warn(f"{name} has no meaning here: {why}")
    verbose = is_yes(given.pop("verbose"), "verbose")
    names = {**_SETTINGS, **_ALSO_IN_ENVIRONMENT}
    settings = {names.get(name, name): text for name, text in given.items() if text}
    return Inputs(settings=settings, verbose=verbose)


def default_cache(environ: Mapping[str, str]) -> str:
    """Outside the codeset, whose files become part of the image.

    See the XDG base directory specification for the variable.
    """
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "mlproject-toolchain")


def _pair(argument: str) -> tuple[str, str]:
    written, equals, value = argument.partition("=")
    name = written.removeprefix("--")
    own = name.replace("-", "_")
    name = own if own in _OWN else name
    known = [*_OWN, *(row[0] for row in reference() if row[0] not in _CALLS)]
    if name not in known:
        raise ConfigError(f"unknown input {written}{nearest(name, known)}", where="arguments",
                          fix=f"inputs: {', '.join(_OWN)}; and this tool's settings")
    if not equals:
        raise ConfigError(f"{written} has no value", where="arguments", fix=f"--{name}=VALUE")
    return name, value

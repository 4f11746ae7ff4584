"""text -> a result file, as Tekton reads it: no line end, below /tekton/results."""

from __future__ import annotations

import os
from collections.abc import Mapping

from toolchain.errors import ConfigError

FOLDER = "/tekton/results"


def place(environ: Mapping[str, str]) -> str:
    """The file that TASK_RESULT names; empty if it names none. Raises ConfigError."""
    name = environ.get("TASK_RESULT", "")
    return checked(name, environ.get("TASK_RESULTS_DIR") or FOLDER) if name else ""


def checked(name: str, folder: str) -> str:
    """The path of a result, which can be written now: nobody wants to train in vain."""
    path = name if os.path.isabs(name) else os.path.join(folder, name)
    if not os.path.isabs(name) and ("/" in name or name in (".", "..")):
        raise ConfigError(f"a result's name is no file name: {name!r}", where="TASK_RESULT",
                          fix=f"give a name below {folder}, or an absolute path")
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        raise ConfigError(f"the folder of results does not exist: {above}", where="TASK_RESULT",
                          fix="mount it, or give an absolute path in a folder that exists")
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else above, os.W_OK):
        raise ConfigError(f"the result cannot be written: {path}", where="TASK_RESULT",
                          fix="make it writable for the user that runs here")
    return path


def write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as sink:
            sink.write(text)
    except OSError as error:
        raise ConfigError(f"the result cannot be written: {error.strerror}", where=path,
                          fix="make it writable for the user that runs here") from None

"""A program of the image instead of an entry point: quick, since nothing is imported for it."""

from __future__ import annotations

import os
import signal
import sys


def is_own(argument: str) -> bool:
    """Whether a first argument is for the runner, and not the name of a program."""
    if argument == "run" or argument.startswith("-"):
        return True
    name, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in name and bool(name)


def become(command: list[str]) -> int:
    """Be that program. Returns a shell's exit status if it cannot be started."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and so would it
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        from toolchain.errors import EngineError

        sys.stderr.write(str(EngineError(
            f"no program {command[0]!r} in this image" if missing
            else f"{command[0]!r} cannot be started: {error.strerror}", where="arguments",
            fix="name a program of the image, or `run` for the project's entry point; "
                "`--help` says more")) + "\n")
        return 127 if missing else 126

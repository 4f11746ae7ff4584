"""A file that a line of another file names: if it may not be read, that line is what is wrong."""

from __future__ import annotations

from toolchain.errors import SpecError
from toolchain.spec import Reader


class OutOfReach(SpecError):
    """A Reader's word for a path that no project may name."""


def read_named(reader: Reader, path: str, where: str) -> str | None:
    """The file's text, or None where there is none. Raises SpecError, at `where` if the name is at
    fault and in the file if its content is."""
    try:
        return reader.read(path)
    except OutOfReach as error:
        raise SpecError(error.what, where=where, fix=error.fix) from None

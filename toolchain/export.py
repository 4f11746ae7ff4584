"""Image -> FILE: an OCI archive, for where no registry reaches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from toolchain import bundle
from toolchain.errors import ConfigError, StoreError
from toolchain.image import Image
from toolchain.progress import Progress

PLACEHOLDER = "{project}"


def destination(to: str, project: str, folder: Path) -> Path:
    """The file that `to` means for a project; relative to `folder`. Raises ConfigError."""
    if not to:
        raise ConfigError("export needs a file to write", where="to",
                          fix=f"give one, as in `doit export project={project} to=image.tar`")
    path = folder / to.replace(PLACEHOLDER, project)
    if to.endswith("/"):
        path = path / f"{project}.tar"
    elif path.is_dir():
        raise ConfigError("this is a folder", where=f"to={to}",
                          fix=f"name a file, or end it in '/' for {path.name}/{project}.tar")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder does not exist: {path.parent}", where=f"to={to}",
                          fix="make it, or name a file in another")
    return path


def check(to: str, projects: tuple[str, ...], folder: Path) -> None:
    """Raise ConfigError if `to` cannot hold all these projects, each in a file of its own."""
    if len(projects) > 1 and to and PLACEHOLDER not in to and not to.endswith("/"):
        raise ConfigError(f"one file for {len(projects)} projects", where=f"to={to}",
                          fix=f"put {PLACEHOLDER} into the name, name a folder that ends in '/', "
                              "or choose one project with project=NAME")
    for project in projects:
        destination(to, project, folder)


def make(image: Image, names: tuple[str, ...], target: Path, fetch: bundle.Fetch,
         progress: Progress, attached: tuple[bundle.Attached, ...] = (),
         several: bundle.Several | None = None) -> int:
    """Write the bundle of an image and of what is attached to it; the number of bytes.

    With `several`, every image of that index is in it.

    The file is there whole or not at all. Raises StoreError for what cannot be written, and what
    `fetch` raises.
    """
    planned = bundle.make(image, names, attached=attached, several=several)
    progress.expect(planned.size)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with contextlib.ExitStack() as stack:
            with _explained(target):
                stream = stack.enter_context(open(temporary, "wb"))
            for piece in bundle.pieces(planned, fetch):
                with _explained(target):  # the source's own trouble is not this file's
                    written += stream.write(piece)
            with _explained(target):
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return written


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(error, target) from None


def _unwritable(error: OSError, target: Path) -> StoreError:
    return StoreError(f"the archive cannot be written: {error.strerror}", where=str(target),
                      fix="make the folder writable, free some space, or name another with to=")

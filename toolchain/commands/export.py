"""Pushed -> FILE."""

from __future__ import annotations

from pathlib import Path

from toolchain import export
from toolchain.chain import Chain
from toolchain.commands.pushed import attached_to, fetcher, image_of, names_of, several_of
from toolchain.digest import Digest
from toolchain.errors import ConfigError
from toolchain.stages import size

NAME = "export"


def run(chain: Chain, folder: Path) -> str:
    """Write the archive that `to` names, relative to `folder`; words for people."""
    target = destination(chain, folder)
    several = several_of(chain)
    image = image_of(chain.here)
    subjects = [one.digest for one in several.images] if several else [image.digest]
    if several:
        subjects.append(Digest.of(several.index))
    names = names_of(chain)
    with chain.session.progress(f"{NAME} {chain.name}") as progress:
        written = export.make(
            image, names, target, fetcher(chain, progress), progress,
            tuple({one.manifest: one for subject in subjects
                   for one in attached_to(chain, subject)}.values()), several)
    return f"{size(written)} to {target}"


def destination(chain: Chain, folder: Path) -> Path:
    """The file to write. Raises ConfigError, also for one that would get into the image."""
    target = export.destination(chain.config.to, chain.name, folder)
    if target.resolve().is_relative_to(chain.folder.resolve()):
        raise ConfigError("the archive would become part of the project's image",
                          where=f"to={chain.config.to}",
                          fix=f"name a file outside of {chain.project.folder}")
    return target

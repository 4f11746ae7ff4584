"""The conda part of resolve: conda.lock is read if it is current, else made."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import lock
from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.errors import SpecError
from toolchain.lock import file, requirements
from toolchain.lock.base import Foundation
from toolchain.stages import parse, pins
from toolchain.values import dataclass

if TYPE_CHECKING:
    from toolchain.lock.conda import CondaLock, CondaRequest
    from toolchain.spec import Conda

# The embedded base under a conda environment is that of Debian which has this Python. conda brings
# its own, of whatever version.
BASE_PYTHON = "3.11"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """`request` is what is left for the package index; `lock` is None where conda is not used."""

    request: lock.Request
    lock: CondaLock | None
    words: str


def is_asked(chain: Chain) -> bool:
    return parse.result(chain).conda is not None


def plan(chain: Chain) -> dict[str, Any]:
    """What decides the conda packages; nothing for a project without."""
    if not is_asked(chain):
        return {}
    found: dict[str, Any] = {
        "request": _request(chain, "").plan(), "lock": lock_digest(chain, file.CONDA),
        "pip": chain.config.conda_pip}
    if chain.config.conda_pip:
        python = _instead(chain, lock.request(
            parse.result(chain), BASE_PYTHON, chain.config.image_platform)).python
        found["base"] = pins.plan(chain, python)
    return {"conda": found}


def settle(chain: Chain, request: lock.Request) -> Settled:
    """The conda packages, found in conda.lock or chosen now, and what pip has to bring besides.

    `request` is for the base's C library. Raises ResolveError.
    """
    if not is_asked(chain):
        _say_no_channel(chain)
        return Settled(request=request, lock=None, words="")
    from toolchain.lock import conda as conda_lock
    from toolchain.lock import condafile

    path, wanted = lock_path(chain, file.CONDA), _request(chain, request.glibc)
    where = f"{chain.project.folder}/{path.name}"
    with chain.session.trace.holding("lock", Digest.of(where.encode()), chain.waiting):
        text = file.read(path, where)
        old = None if text is None else condafile.from_text(
            text, where, wanted, chain.project.folder)
        if (old is not None and not chain.config.upgrade
                and old.input == Digest.of_json(wanted.plan())):
            return _beside(request, old, "conda lock is current")
        if _is_on_pip(chain, request):
            return Settled(request=_instead(chain, request), lock=None,
                           words="from the package index, as pinned")
        preferred = () if old is None or chain.config.upgrade else old.packages
        try:
            with chain.session.progress(f"resolve {chain.name}"):
                made = conda_lock.make(wanted, preferred, chain.session.tools.conda(chain.config))
                made.python  # noqa: B018 - raises where there is none
        except conda_lock.Unreachable as error:
            if not chain.config.conda_pip:
                raise conda_lock.Unreachable(error.what, where=error.where, fix=(
                    f"{error.fix}; for packages that a package index has too, conda.pip=yes "
                    "takes them from there")) from None
            chain.session.say(f"{chain.name}: {error.what}; conda.pip is set, so its packages "
                              "are taken from the package index instead")
            return Settled(request=_instead(chain, request), lock=None,
                           words="from the package index, since a conda channel cannot be reached")
        file.replace(path, condafile.to_text(made, wanted.channels, chain.project.folder))
        return _beside(request, made, "conda pinned" if old is None else "conda pinned anew")


def bytecode(foundation: Foundation, locked: lock.Lock) -> str | None:
    """What compiles the modules of noarch packages and wheels. The embedded base's interpreter
    makes byte-code for its own minor version alone."""
    if locked.conda is not None and locked.python_minor != BASE_PYTHON:
        return None
    return pins.bytecode(foundation, locked.python_minor)


def without_compiler(chain: Chain, foundation: Foundation, python: str) -> str:
    """Why nothing compiles a project's modules."""
    if pins.own_image(chain):
        return "as the image is the project's own"
    if is_asked(chain):
        return f"as with conda packages there is a compiler for Python {BASE_PYTHON} alone"
    level = foundation.base.patch_level(python)
    if not level:
        return f"as the base image does not say which Python {python} it has"
    return (f"as base.lock names no compiler for the base image's Python {level} (upgrade=1 looks "
            "for one, here and by uv)")


def _say_no_channel(chain: Chain) -> None:
    """A file of conda's that only pip has work with."""
    if parse.result(chain).environment == "conda":
        chain.session.say(f"{chain.name}: its conda environment asks for python and pip alone, so "
                          "no channel is asked; its packages come from the package index")


def _beside(request: lock.Request, made: CondaLock, words: str) -> Settled:
    return Settled(lock=made, words=words, request=replace(
        request, python=made.python,
        provided=made.distributions if request.requirements or request.sources else ()))


def _instead(chain: Chain, request: lock.Request) -> lock.Request:
    """All of it from the package index. Raises SpecError."""
    from toolchain.spec.condapip import as_requirements

    wanted = parse.result(chain).conda
    assert wanted is not None
    try:
        python, wanted_of_pip = as_requirements(wanted, chain.config.python)
    except SpecError as error:
        raise SpecError(error.what, where=f"{chain.project.folder}/{error.where}, with "
                        "conda.pip = yes", fix=error.fix) from None
    return replace(request, python=python or chain.config.python, requirements=tuple(
        sorted({*request.requirements, *wanted_of_pip})))


def _is_on_pip(chain: Chain, request: lock.Request) -> bool:
    """Whether requirements.lock answers for the conda packages too, and may."""
    if not chain.config.conda_pip or chain.config.upgrade:
        return False
    instead = _instead(chain, request)
    path = lock_path(chain, file.REQUIREMENTS)
    known = requirements.read(path, f"{chain.project.folder}/{path.name}")
    if known is None:
        return False
    foundation, _ = pins.settle(chain, instead.python)
    return known.input == Digest.of_json(
        replace(instead, glibc=foundation.base.glibc).plan())


def _request(chain: Chain, glibc: str) -> CondaRequest:
    from toolchain.lock.conda import CondaRequest, virtual_packages

    spec = parse.result(chain)
    assert spec.conda is not None
    platform = chain.config.image_platform
    channels, packages = _placed(spec.conda, chain.project.folder,
                                 tuple(chain.config.conda_defaults.split(",")))
    return CondaRequest(
        channels=channels, packages=packages, platform=platform,
        pip=bool(spec.requirements or spec.sources),
        virtual=virtual_packages(platform, glibc, chain.session.tools.cuda(chain.config)))


def _placed(wanted: Conda, folder: str, defaults: tuple[str, ...]
            ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Channels and packages with `defaults` as what it stands for, and with paths from the
    workspace's root."""
    from toolchain.spec.conda import DEFAULTS

    def place(channel: str) -> str:
        if not channel.startswith(("./", "../")):
            return channel
        path = posixpath.normpath(posixpath.join(folder, channel))
        if path.startswith("../"):
            raise SpecError(f"a channel leaves the workspace: {channel}",
                            where=f"{folder}/{wanted.file}, channels",
                            fix="keep it within the workspace, or give it as file:///…")
        return f"./{path}"

    channels: list[str] = []
    for channel in wanted.channels:
        channels += defaults if channel == DEFAULTS else [place(channel)]
    packages = []
    for text in wanted.packages:
        channel, separator, rest = text.rpartition("::")
        if channel == DEFAULTS:  # of several channels none can be insisted on
            channel, separator = (defaults[0], "::") if len(defaults) == 1 else ("", "")
        packages.append(f"{place(channel) if channel else ''}{separator}{rest}")
    return tuple(dict.fromkeys(channels)), tuple(sorted(packages))


def lock_path(chain: Chain, kind: str) -> Path:
    """Where one of the project's two locks is."""
    return chain.folder / file.name(kind, chain.config.image_platform, is_first=chain.is_first)


def lock_digest(chain: Chain, kind: str) -> str | None:
    """The digest of that file's bytes; None if there is none. Raises ResolveError."""
    path = lock_path(chain, kind)
    return file.digest(path, f"{chain.project.folder}/{path.name}")

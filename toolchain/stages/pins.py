"""base.lock for a project: what its packages stand on, found there or chosen now."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from toolchain.chain import Chain
from toolchain.digest import Digest
from toolchain.errors import RegistryError, ResolveError, SpecError
from toolchain.layer import PREFIX
from toolchain.lock import base as base_lock
from toolchain.lock import file
from toolchain.lock.base import AptPins, BasePins, Foundation
from toolchain.lock.image import LOCAL, ImagePins
from toolchain.stages import parse

# Names the compiler all the same; a machine that cannot start it is told so when it builds.
_ANY_HOST = "linux/amd64"
_DOCKERFILE = "dockerfile:"
_Chosen = TypeVar("_Chosen", BasePins, ImagePins, AptPins)


def path(chain: Chain) -> Path:
    return chain.root / base_lock.FILE_NAME


def own_image(chain: Chain) -> str:
    """The image that has the project's packages (docker_env), unless the call names another."""
    docker = parse.result(chain).docker
    return "" if docker is None or "image.base" in chain.session.workspace.call else docker.image


def image_base(chain: Chain) -> str:
    """What the project stands on: image.base, or its own image. A Dockerfile is named with its
    place in the workspace and its content, so that another one is another base."""
    setting = own_image(chain) or chain.config.image_base
    if not setting.startswith(_DOCKERFILE):
        return setting
    path = posixpath.normpath(setting.removeprefix(_DOCKERFILE))
    if path not in chain.tree.found:
        raise SpecError(f"the project has no file {path!r}", where=f"{chain.name}: image.base",
                        fix="write image.base = \"dockerfile:PATH\", relative to the project")
    digest = Digest.of(chain.tree.read(path))
    return f"{_DOCKERFILE}{chain.project.folder}/{path}@{digest}"


def named_python(chain: Chain) -> str:
    """The Python that project, call or settings name; empty if the project's own image has it."""
    named = parse.result(chain).python
    if named or not own_image(chain) or "python" in chain.session.workspace.call:
        return named or chain.config.python
    return ""


def python(chain: Chain) -> str:
    """The Python that the project gets; empty while its own image, which decides, is not pinned."""
    if named := named_python(chain):
        return named
    pins = _read(chain).get(("image", image_base(chain), chain.config.image_platform))
    return pins.own_python(f"{chain.name}: docker_env.image") if isinstance(pins, ImagePins) else ""


def plan(chain: Chain, python: str) -> Any:
    """The entries of base.lock that Python `X.Y[.Z]` stands on, as digests; None where one is not
    there yet. Other projects' entries are no concern of this one."""
    known, platform = _read(chain), chain.config.image_platform
    reference = base_lock.image_for(image_base(chain), python)
    base = known.get(("image", reference, platform) if reference
                     else ("base", base_lock.suite_for(python), platform))
    wanted = _wanted(chain)
    more = None if base is None or not wanted else known.get(_apt(base, platform, wanted))
    compiler = known.get(_compiler(chain, python))
    return [entry and _digest(entry).hex for entry in (base, more, compiler)]


def found(chain: Chain, value: Any, python: str) -> Foundation:
    """The foundation in full. `value` is what `Foundation.to_json` made of it."""
    platform, known = chain.config.image_platform, _read(chain)
    name = (("image", value["image"], platform) if "image" in value
            else ("base", value["suite"], platform))
    base = known[name]
    assert isinstance(base, (BasePins, ImagePins))
    more = known[_apt(base, platform, _wanted(chain))] if "apt" in value else None
    assert more is None or isinstance(more, AptPins)
    compiler = known.get(_compiler(chain, python))
    assert compiler is None or isinstance(compiler, BasePins)
    return Foundation(base=base, apt=more, compiler=compiler or _version(chain, base, python))


def bytecode(foundation: Foundation, python: str) -> str | None:
    """What makes the byte-code of Python `X.Y`, by its version; the same on every machine."""
    from toolchain.layer.bytecode import identity

    own = foundation.base if isinstance(foundation.base, BasePins) else foundation.compiler
    return identity(own, python) if foundation.compiler else None


def settle(chain: Chain, python: str, *, is_used: bool = True) -> tuple[Foundation, list[str]]:
    """The foundation for Python `X.Y[.Z]`, or for that of the project's own image if it is empty,
    and the names of what was chosen now.

    is_used: whether the packages stand on the base's own Python.
    """
    platform, tools = chain.config.image_platform, chain.session.tools
    if platform not in base_lock.PLATFORMS:
        raise ResolveError(f"unknown platform {platform!r}", where="image.platform",
                           fix=f"known: {', '.join(base_lock.PLATFORMS)}")
    setting = image_base(chain)
    reference = base_lock.image_for(setting, python)
    if reference and reference != setting:
        chain.session.say(f"{chain.name}: no embedded base has Python {python}; it stands on "
                          f"{reference}")
    moved: list[str] = []
    base: BasePins | ImagePins
    if reference:
        base = _settle(chain, ("image", reference, platform), ImagePins,
                       lambda: _image(chain, reference, python if reference != setting else ""),
                       moved)
        where = f"{chain.name}: python {python}" if python else f"{chain.name}: docker_env.image"
        if is_used:
            _check_python(base.python(python or base.own_python(where), where), base, where)
    else:
        suite = base_lock.suite_for(python)
        base = _settle(chain, ("base", suite, platform), BasePins,
                       lambda: tools.archive().pin(suite, platform), moved)
    compiler: BasePins | str = _version(chain, base, python)
    if name := _compiler(chain, python):
        _, suite, host = name
        try:
            compiler = base if base.name == name and isinstance(base, BasePins) else _settle(
                chain, name, BasePins, lambda: tools.archive().pin(suite, host), moved)
        except ResolveError as error:  # all that is missing is what compiles
            raise ResolveError(
                error.what, where=error.where,
                fix=f"{error.fix}; or do without byte-code: image.bytecode=no") from None
    wanted = _wanted(chain)
    if not wanted:
        return Foundation(base=base, apt=None, compiler=compiler), moved
    if not base.suite:
        raise ResolveError(
            f"the base image {reference} is no Debian, so it cannot be given Debian packages",
            where=f"{chain.name}: apt", fix="name a Debian-based image.base, or leave out `apt`")
    on = base_lock.below_apt(base)
    more = _settle(chain, _apt(base, platform, wanted), AptPins,
                   lambda: tools.archive().pin_more(base, wanted), moved,
                   still=lambda pins: pins.on == on)
    return Foundation(base=base, apt=more, compiler=compiler), moved


def _check_python(interpreter: str, base: ImagePins, where: str) -> None:
    if interpreter.startswith(f"/{PREFIX}/"):  # the environment's own link would be in its place
        raise ResolveError(
            f"the Python of the base image {base.reference} is {interpreter}, in the folder of the "
            "packages that are put upon it", where=where,
            fix="pin it anew with upgrade=1; if it was, name an image whose Python is elsewhere, "
                "or is that of a virtual environment")


def _image(chain: Chain, reference: str, instead: str) -> ImagePins:
    """`instead`: the Python that no embedded base has, where that is why it is this image."""
    try:
        pins = chain.session.tools.images(chain.config).pin(reference, chain.config.image_platform)
    except (RegistryError, ResolveError) as error:
        what, where, fix = error.what, error.where, error.fix
        if instead:
            known = " or ".join(base_lock.SUITES)
            what = f"Python {instead} comes with the image {reference}, and {what}"
            where = f"{chain.name}: {where}"
            fix = f"ask for Python {known}, which need no image; or {fix}"
        elif own_image(chain):  # nobody wrote image.base
            where = f"{chain.name}: {where.replace('image.base =', 'docker_env.image =')}"
            if reference not in what:
                what = f"the image {reference} is not to be had: {what}"
            if not reference.startswith(LOCAL):
                fix += f"; or, for one of this machine's Docker engine, docker-daemon:{reference}"
        raise type(error)(what, where=where, fix=fix) from None
    return replace(pins, compilers=_compilers(chain, pins))


def _settle(chain: Chain, name: tuple[str, ...], kind: type[_Chosen],
            choose: Callable[[], _Chosen], moved: list[str],
            still: Callable[[_Chosen], bool] = lambda _: True) -> _Chosen:
    """The entry of base.lock, chosen now if it is not there. One process chooses for all."""
    question = Digest.of_json({"pin": list(name)})
    trace, seen = chain.session.trace, chain.session.pinned
    with trace.holding("pin", question, chain.waiting):
        known = _read(chain).get(name)
        # `upgrade=1` moves an entry once a call, not once a project.
        if (isinstance(known, kind) and still(known)
                and (not chain.config.upgrade or question in seen)):
            return known
        seen.add(question)
        with chain.session.progress(f"pin {' '.join(name[1:])}"):
            chosen = choose()
        with trace.holding("pin", Digest.of(base_lock.FILE_NAME.encode())):
            others = {**_read(chain), name: chosen}
            if name[1].startswith(_DOCKERFILE):  # what the file said before is no base any more
                place = name[1].rpartition("@")[0]
                others = {key: value for key, value in others.items()
                          if key == name or key[1].rpartition("@")[0] != place
                          or key[2] != name[2]}
            file.replace(path(chain), base_lock.to_text(tuple(others.values())))
        if chosen != known:
            moved.append(name[1] if kind is not AptPins else ", ".join(name[3:]))
        return chosen


def _compiler(chain: Chain, python: str) -> tuple[str, ...]:
    """Whose interpreter compiles on this machine: that of the embedded base for this platform,
    where Debian has that Python; empty where nothing is compiled."""
    if not chain.config.image_bytecode or own_image(chain) or base_lock.image_for("auto", python):
        return ()
    return "base", base_lock.suite_for(python), chain.session.host or _ANY_HOST


def _version(chain: Chain, base: BasePins | ImagePins, python: str) -> str:
    """The version of the interpreter, of whatever machine, that compiles for a base image; empty
    where nothing is compiled, or Debian has that Python."""
    if not chain.config.image_bytecode or own_image(chain) or isinstance(base, BasePins):
        return ""
    return base.compilers.get(".".join(python.split(".")[:2]), "")


def _compilers(chain: Chain, pins: ImagePins) -> dict[str, str]:
    """What can be had to compile for an image's Pythons that no embedded base has. Chosen when it
    is pinned, so that it is the same on every machine."""
    known, found = _read(chain).get(pins.name), {}
    for minor in pins.runnable() - {*base_lock.SUITES}:
        version = pins.patch_level(minor)
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            continue
        if not chain.config.image_bytecode:  # but another project may need it
            is_known = isinstance(known, ImagePins) and known.compilers.get(minor) == version
        else:
            is_known = chain.session.tools.has_python(version)
        if is_known:
            found[minor] = version
    return found


def _wanted(chain: Chain) -> tuple[str, ...]:
    """The Debian packages that the project asks for."""
    return tuple(sorted(filter(None, chain.config.apt.split(","))))


def _apt(base: base_lock.Pins, platform: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    assert isinstance(base, (BasePins, ImagePins))
    return "apt", base_lock.apt_name(base), platform, *wanted


def _read(chain: Chain) -> dict[tuple[str, ...], base_lock.Pins]:
    """Every entry of base.lock; of a thousand projects, the first to ask parses it."""
    text = file.read(path(chain), base_lock.FILE_NAME, fix="take it from version control")
    return {} if text is None else _entries(text)


@lru_cache(maxsize=4)
def _entries(text: str) -> dict[tuple[str, ...], base_lock.Pins]:
    return {entry.name: entry for entry in base_lock.from_text(text, base_lock.FILE_NAME)}


def _digest(entry: base_lock.Pins) -> Digest:
    return Digest.of_json(entry.to_json())

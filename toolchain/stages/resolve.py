"""Spec -> Lock, and what it stands on: requirements.lock and base.lock are this stage's results."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import lock
from toolchain.chain import Chain, Made, once
from toolchain.digest import Digest
from toolchain.errors import UnmetError
from toolchain.lock import base as base_lock
from toolchain.lock import file, requirements
from toolchain.spec.source import FILE, FOLDER
from toolchain.stages import conda, count, parse, pins
from toolchain.tree import watched

NAME = "resolve"


def plan(chain: Chain) -> Any:
    """The request, and what answers it: the lock, and its entries of base.lock."""
    request = _request(chain)
    places = {str(source): chain.session.tools.sources().look(source, _place(chain))
              for source in request.sources if source.kind in (FOLDER, FILE)}
    more = {"places": places} if places else {}
    return {"request": request.plan(), **more, "base image": pins.image_base(chain),
            "apt": chain.config.apt, "bytecode": chain.config.image_bytecode,
            "lock": conda.lock_digest(chain, file.REQUIREMENTS),
            "base": pins.plan(chain, request.python), **conda.plan(chain)}


def stands(chain: Chain, value: Any) -> bool:
    if chain.config.upgrade:
        return False
    # What was built of a folder can be had from there alone.
    return all(
        chain.session.tools.wheels().here(package, value["python"], value["platform"])
        for package in map(lock.Package.from_json, value["packages"]) if package.is_folder)


def make(chain: Chain) -> Made:
    try:
        return _make(chain)
    except UnmetError as error:
        places = parse.places(chain, error.what)
        where = f"{places} ({error.where})" if places else error.where
        raise UnmetError(error.what, where=where, fix=error.fix) from None


def _make(chain: Chain) -> Made:
    is_conda = conda.is_asked(chain)
    python = conda.BASE_PYTHON if is_conda else pins.named_python(chain)
    foundation, moved = pins.settle(chain, python, is_used=not is_conda)
    # Afterwards: an image of the project's own, pinned now, says which Python it is.
    request = replace(_request(chain), glibc=foundation.base.glibc)
    found = conda.settle(chain, request)
    if is_conda and found.lock is None:
        foundation, more = pins.settle(chain, found.request.python)
        moved += [name for name in more if name not in moved]
        found = replace(found, request=replace(found.request, glibc=foundation.base.glibc))
    request = found.request
    sources = chain.session.tools.sources()
    with _titled(chain, request):
        request = replace(request, settled=tuple(
            sources.settle(source, request, ()) for source in request.sources
            if source.kind in (FOLDER, FILE)))
    if found.lock is None:
        _say_other_patch(chain, foundation, request.python)
    locked, words = _lock(chain, request)
    locked = replace(locked, conda=found.lock)
    if found.words:
        words = f"{found.words}; {words}"
    if moved:
        words += f"; {base_lock.FILE_NAME}: {', '.join(moved)}"
    value: dict[str, Any] = {
        **foundation.to_json(), "bytecode": conda.bytecode(foundation, locked)}
    if value["bytecode"] is None and chain.config.image_bytecode and locked.packages:
        why = conda.without_compiler(chain, foundation, locked.python_minor)
        chain.session.say(f"{chain.name}: no byte-code is made, {why}; a job compiles what it "
                          "imports")
    if pins.own_image(chain):
        value["own packages"] = True
    named = {"input": locked.input.hex} if request.sources else {}
    return Made(value={**locked.to_json(), **named, "base": value},
                words=f"{count(_number(locked), 'package')}, {words}")


def _say_other_patch(chain: Chain, foundation: base_lock.Foundation, wanted: str) -> None:
    """Images are made with the patch level that their base has (docs/decisions/0004)."""
    minor = ".".join(wanted.split(".")[:2])
    if wanted == minor:
        return
    have = foundation.base.patch_level(minor)
    if have != wanted:
        chain.session.say(f"warning: {chain.name}: Python {wanted} is asked for; its image has "
                          f"{f'Python {have}' if have else 'another patch level, perhaps'}")


def _number(locked: lock.Lock) -> int:
    return len(locked.packages) + (len(locked.conda.packages) if locked.conda else 0)


def _lock(chain: Chain, request: lock.Request) -> tuple[lock.Lock, str]:
    """The lock that answers the request, made and written if need be, and what became of it."""
    path = conda.lock_path(chain, file.REQUIREMENTS)
    where = f"{chain.project.folder}/{path.name}"
    with chain.session.trace.holding("lock", Digest.of(where.encode()), chain.waiting):
        old = requirements.read(path, where)
        if (old is not None and not chain.config.upgrade
                and old.input == Digest.of_json(request.plan())):
            return old.with_folders(request.settled), "lock is current"
        preferred = () if old is None or chain.config.upgrade else old.packages
        with chain.session.progress(f"resolve {chain.name}"):
            sources = chain.session.tools.sources()
            known = {item.source: item for item in request.settled}
            request = replace(request, settled=tuple(
                known.get(source) or sources.settle(source, request, preferred)
                for source in request.sources))
            made = lock.make(request, preferred, chain.session.tools.resolver())
        file.replace(path, requirements.to_text(made))
        return made, lock.changes(old, made)


@once
def result(chain: Chain) -> lock.Lock:
    value = chain.value(NAME, plan)
    request = replace(_request(chain), glibc=value["base"]["glibc"])
    answers = (Digest(value["input"]) if "input" in value
               else Digest.of_json(request.plan()))
    return replace(lock.Lock.from_json(value, answers), options=_absolute(request, chain.folder))


def evidence(chain: Chain) -> set[Path]:
    """The files and folders outside the project that decide what its folders' wheels are."""
    found: set[Path] = set()
    for source in _request(chain).sources:
        if source.kind == FILE:
            found.add(chain.folder / source.location)
        elif source.kind == FOLDER:
            found |= watched(chain.folder / source.location, _place(chain).skipped)
    return found


def base(chain: Chain) -> Any:
    """What the layers under the packages are made of, as JSON."""
    return chain.value(NAME, plan)["base"]


def foundation(chain: Chain) -> base_lock.Foundation:
    """The same in full, from base.lock."""
    return pins.found(chain, base(chain), result(chain).python_minor)


def _request(chain: Chain) -> lock.Request:
    spec = parse.result(chain)
    python = conda.BASE_PYTHON if spec.conda else pins.python(chain)
    return lock.request(spec, python, chain.config.image_platform, _place(chain))


def _place(chain: Chain) -> lock.Place:
    workspace = chain.session.workspace
    return lock.Place(folder=chain.folder, root=chain.boundary, skipped=(
        workspace.cache, Path(os.path.normpath(workspace.root / workspace.config.projects))))


def _absolute(request: lock.Request, folder: Path) -> tuple[str, ...]:
    """The options with their paths as they are on this machine."""
    return tuple(f"--find-links {folder / line.split(' ', 1)[1]}"
                 if line.startswith("--find-links .") else line for line in request.options)


def _titled(chain: Chain, request: lock.Request) -> Any:
    """Progress, where something is to be built."""
    return (chain.session.progress(f"resolve {chain.name}") if request.sources
            else contextlib.nullcontext())

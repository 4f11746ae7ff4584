"""Spec -> Lock, and the base's pins: requirements.lock and base.lock are this stage's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain import lock
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import base as base_lock
from toolchain.stages import count, parse

NAME = "resolve"


def plan(chain: Chain) -> Any:
    """The request and the two lock files that answer it."""
    return {"request": _request(chain).plan(), "base image": chain.config.image_base,
            "lock": _digest_of(_lock_path(chain)), "base": _digest_of(base_lock_path(chain)),
            "compiler": _compiler_platform(chain)}


def stands(chain: Chain, value: Any) -> bool:
    return not chain.config.upgrade


def make(chain: Chain) -> Made:
    request = _request(chain)
    if chain.config.image_base != "auto":
        raise ResolveError(f"base image {chain.config.image_base!r} is not supported yet",
                           where="image.base", fix='leave it at "auto", the Debian base')
    suite = base_lock.suite_for(request.python, f"{chain.name}: python {request.python}")
    where = f"{chain.project.folder}/{lock.FILE_NAME}"
    locked = lock.read(_lock_path(chain), where)
    words = "lock is current"
    if (locked is None or chain.config.upgrade
            or locked.input != Digest.of_json(request.plan())):
        old = locked
        preferred = () if old is None or chain.config.upgrade else old.packages
        with chain.session.progress(f"resolve {chain.name}"):
            locked = lock.make(request, preferred, chain.session.tools.resolver())
        words = lock.changes(old, locked)
        lock.replace_text(_lock_path(chain), lock.to_text(locked))
    chosen, moved = _pins(chain, suite, chain.config.image_platform)
    if other := _compiler_platform(chain):
        moved |= _pins(chain, suite, other)[1]
    if moved:
        words += f"; {base_lock.FILE_NAME}: {len(chosen.packages)} packages of {suite}"
    return Made(value={**locked.to_json(), "base": {
        "suite": suite, "packages": {p.name: p.sha256.hex for p in chosen.packages},
    }}, words=f"{count(len(locked.packages), 'package')}, {words}")


def result(chain: Chain) -> lock.Lock:
    return lock.Lock.from_json(chain.value(NAME, plan), Digest.of_json(_request(chain).plan()))


def debian_packages(chain: Chain) -> dict[str, str]:
    """The base's packages: name -> sha256 in hexadecimal."""
    packages: dict[str, str] = chain.value(NAME, plan)["base"]["packages"]
    return packages


def pins(chain: Chain) -> base_lock.BasePins:
    """The base's pins in full, from base.lock."""
    return _pinned(chain, chain.config.image_platform)


def host_pins(chain: Chain) -> base_lock.BasePins:
    """The pins of the same suite for this machine, whose interpreter can be started here."""
    platform = chain.session.tools.platform()
    if not platform:
        raise ResolveError("this machine cannot start an interpreter of Debian's",
                           where="image.bytecode", fix="do without: image.bytecode=no")
    return _pinned(chain, platform)


def _pinned(chain: Chain, platform: str) -> base_lock.BasePins:
    suite = chain.value(NAME, plan)["base"]["suite"]
    return next(entry for entry in base_lock.read(base_lock_path(chain))
                if (entry.suite, entry.platform) == (suite, platform))


def _compiler_platform(chain: Chain) -> str | None:
    """This machine's platform, if the image is for another and its byte-code is made here."""
    platform = chain.session.tools.platform() if chain.config.image_bytecode else ""
    return platform if platform and platform != chain.config.image_platform else None


def base_lock_path(chain: Chain) -> Path:
    return chain.root / base_lock.FILE_NAME


def _lock_path(chain: Chain) -> Path:
    return chain.folder / lock.FILE_NAME


def _request(chain: Chain) -> lock.Request:
    return lock.request(parse.result(chain), chain.config.python, chain.config.image_platform)


def _pins(chain: Chain, suite: str, platform: str) -> tuple[base_lock.BasePins, bool]:
    """The base's pins, and whether they were chosen now. One process chooses for all."""
    path = base_lock_path(chain)
    question = Digest.of_json({"pin": suite, "platform": platform})
    trace, seen = chain.session.trace, chain.session.pinned
    with trace.holding("pin", question, chain.waiting):
        found = [p for p in base_lock.read(path) if (p.suite, p.platform) == (suite, platform)]
        # `upgrade=1` moves a suite once a call, not once a project.
        if found and (not chain.config.upgrade or question in seen):
            return found[0], False
        seen.add(question)
        with chain.session.progress(f"pin {suite}"):
            chosen = chain.session.tools.archive().pin(suite, platform)
        with trace.holding("pin", Digest.of(base_lock.FILE_NAME.encode())):
            others = [p for p in base_lock.read(path)
                      if (p.suite, p.platform) != (suite, platform)]
            lock.replace_text(path, base_lock.to_text((*others, chosen)))
        return chosen, [chosen] != found


def _digest_of(path: Path) -> str | None:
    try:
        return Digest.of(path.read_bytes()).hex
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResolveError(f"cannot be read: {error.strerror}", where=str(path)) from None

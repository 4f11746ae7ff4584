"""Spec -> Lock, and what it stands on: requirements.lock and base.lock are this stage's results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import lock
from toolchain.chain import Chain, Made
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.lock import base as base_lock
from toolchain.stages import count, parse, pins

NAME = "resolve"


def plan(chain: Chain) -> Any:
    """The request, and what answers it: the lock, and its entries of base.lock."""
    request = _request(chain)
    return {"request": request.plan(), "base image": pins.image_base(chain),
            "apt": chain.config.apt, "bytecode": chain.config.image_bytecode,
            "lock": _digest_of(_lock_path(chain)), "base": pins.plan(chain, request.python)}


def stands(chain: Chain, value: Any) -> bool:
    return not chain.config.upgrade


def make(chain: Chain) -> Made:
    foundation, moved = pins.settle(chain, pins.named_python(chain))
    # Afterwards: an image of the project's own, pinned now, says which Python it is.
    request = replace(_request(chain), glibc=foundation.base.glibc)
    locked, words = _lock(chain, request)
    if moved:
        words += f"; {base_lock.FILE_NAME}: {', '.join(moved)}"
    value: dict[str, Any] = {
        **foundation.to_json(), "bytecode": pins.bytecode(foundation, locked.python_minor)}
    if pins.own_image(chain):
        value["own packages"] = True
    return Made(value={**locked.to_json(), "base": value},
                words=f"{count(len(locked.packages), 'package')}, {words}")


def _lock(chain: Chain, request: lock.Request) -> tuple[lock.Lock, str]:
    """The lock that answers the request, made and written if need be, and what became of it."""
    path = _lock_path(chain)
    where = f"{chain.project.folder}/{path.name}"
    with chain.session.trace.holding("lock", Digest.of(where.encode()), chain.waiting):
        old = lock.read(path, where)
        if (old is not None and not chain.config.upgrade
                and old.input == Digest.of_json(request.plan())):
            return old, "lock is current"
        preferred = () if old is None or chain.config.upgrade else old.packages
        with chain.session.progress(f"resolve {chain.name}"):
            made = lock.make(request, preferred, chain.session.tools.resolver())
        lock.replace_text(path, lock.to_text(made))
        return made, lock.changes(old, made)


def result(chain: Chain) -> lock.Lock:
    value = chain.value(NAME, plan)
    request = replace(_request(chain), glibc=value["base"]["glibc"])
    return lock.Lock.from_json(value, Digest.of_json(request.plan()))


def base(chain: Chain) -> Any:
    """What the layers under the packages are made of, as JSON."""
    return chain.value(NAME, plan)["base"]


def foundation(chain: Chain) -> base_lock.Foundation:
    """The same in full, from base.lock."""
    return pins.found(chain, base(chain), result(chain).python_minor)


def _lock_path(chain: Chain) -> Path:
    return chain.folder / lock.file_name(chain.config.image_platform, is_first=chain.is_first)


def _request(chain: Chain) -> lock.Request:
    return lock.request(parse.result(chain), pins.python(chain), chain.config.image_platform)


def _digest_of(path: Path) -> str | None:
    try:
        return Digest.of(path.read_bytes()).hex
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResolveError(f"cannot be read: {error.strerror}", where=str(path)) from None

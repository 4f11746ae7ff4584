"""A stage of one platform -> the stage of a project that is built for several.

With one platform a stage is as its module says. With several, resolve, base and push are done
for each: the value is the first platform's, with all of them under `platforms`. Push makes an
image index of them. Train and register use the platform that this machine runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from toolchain.chain import Chain, Made, Stage

_EACH = ("resolve", "base", "push")
_HERE = ("train", "register")


class Module(Stage, Protocol):
    """A module of toolchain.stages; its functions take a project for one platform."""

    def join(self, chain: Chain, values: dict[str, Any], /) -> Any: ...


def of(module: Module) -> Stage:
    """The stage of a whole project."""
    if module.NAME in _EACH:
        return _Each(module)
    return _Here(module) if module.NAME in _HERE else module


def whole(module: Module, chain: Chain) -> Any:
    """The stage's value on record for the project as a whole. Raises NotYet."""
    return chain.value(module.NAME, of(module).plan)


class _Here:
    def __init__(self, module: Module) -> None:
        self.NAME = module.NAME
        self._module = module

    def plan(self, chain: Chain) -> Any:
        return self._module.plan(chain.here)

    def stands(self, chain: Chain, value: Any) -> bool:
        return self._module.stands(chain.here, value)

    def make(self, chain: Chain) -> Made:
        return self._module.make(chain.here)


class _Each:
    def __init__(self, module: Module) -> None:
        self.NAME = module.NAME
        self._module = module

    def plan(self, chain: Chain) -> Any:
        if len(chain.platforms) == 1:
            return self._module.plan(chain)
        return {"platforms": {platform: self._module.plan(chain.on(platform))
                              for platform in chain.platforms}}

    def stands(self, chain: Chain, value: Any) -> bool:
        if len(chain.platforms) == 1:
            return self._module.stands(chain, value)
        return self._module.stands(chain.on(chain.platforms[0]), value) and all(
            self._module.stands(chain.on(platform), value["platforms"][platform])
            for platform in chain.platforms)

    def make(self, chain: Chain) -> Made:
        if len(chain.platforms) == 1:
            return self._module.make(chain)
        values, words = {}, []
        for platform in chain.platforms:
            values[platform], _, said = chain.on(platform).bring(self._module)
            words.append(f"{platform}: {said}")
        join = cast("Callable[[Chain, dict[str, Any]], Any] | None",
                    getattr(self._module, "join", None))
        joined = join(chain, values) if join else values[chain.platforms[0]]
        return Made(value={**joined, "platforms": values}, words="; ".join(words))

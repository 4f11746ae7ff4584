"""A sweep against the project that it is of: what its trials share, and whether its values fit."""

from __future__ import annotations

from collections.abc import Callable

from toolchain.chain import Chain
from toolchain.errors import SpecError
from toolchain.spec import command
from toolchain.stages import parse, push
from toolchain.sweep import Sweep, identity
from toolchain.sweep.space import Parameter


def identity_of(chain: Chain, sweep: Sweep) -> str:
    """What this sweep's trials have in common: all but the values of what it varies. Where it
    varies less, trials that had another value of the rest are no trials of it."""
    varied = {item.name for item in sweep.space.parameters}
    fixed = {name: text for name, text in command.parse_params(chain.config.params).items()
             if name not in varied}
    entry = command.find_entry_point(parse.result(chain), chain.config.entry_point)
    return identity({
        "image": str(push.result(chain).config), "entry_point": chain.config.entry_point,
        "command": entry.command, "params": fixed, "varied": sorted(varied),
        "tracking": chain.session.tools.tracking_identity(chain.config)}, sweep.metric)


def check(chain: Chain, sweep: Sweep, warn: Callable[[str], None] = lambda _: None) -> None:
    """Every parameter's ends, against the types of the entry point. Raises SpecError."""
    given = command.parse_params(chain.config.params)
    for item in sweep.space.parameters:
        if item.name in given:
            raise SpecError(f"params= gives {item.name!r}, which the sweep varies",
                            where="command line", fix="take it out of one of them")
    spec = parse.result(chain)
    first = {item.name: _ends(item)[0] for item in sweep.space.parameters}
    for item in sweep.space.parameters:
        for text in _ends(item):
            try:
                command.call(spec, chain.config.entry_point,
                             {**given, **first, item.name: text}, warn)
                warn = _silent
            except SpecError as error:
                raise SpecError(error.what, where=f"{sweep.path}, parameters.{item.name}"
                                if repr(item.name) in error.what else error.where,
                                fix=error.fix) from None


def _ends(item: Parameter) -> tuple[str, ...]:
    if item.choices:
        return item.choices
    return (item.text(item.low), item.text(item.low + (item.high - item.low) * 0.37),
            item.text(item.high))


def _silent(text: str) -> None:
    """What was said once is not said for each value."""

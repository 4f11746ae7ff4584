"""Pushed projects -> their sweeps, run to the end together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from toolchain.chain import Chain, Session
from toolchain.commands import entry
from toolchain.commands.contest import Contest
from toolchain.digest import Digest
from toolchain.errors import SpecError, SweepError, ToolchainError
from toolchain.spec.reader import TreeReader
from toolchain.sweep import FILE, Sweep, budget, read
from toolchain.sweep.board import Board
from toolchain.sweep.schedule import Schedule
from toolchain.values import dataclass

NAME = "sweep"
# Shows the board while the block runs; the callable in it redraws.
Display = Callable[[Board], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A project's sweep, and the chain that its trials are of."""

    chain: Chain
    sweep: Sweep


def asked(chain: Chain, *, to_run: bool = True) -> Asked:
    """What sweep.yaml and this call ask for, which has to have an end if it is `to_run`. Raises
    SpecError."""
    reader = TreeReader(chain.tree, chain.boundary)
    text = reader.read(FILE)
    where = f"{chain.project.folder}/{FILE}"
    if text is None:
        raise SpecError("there is no sweep.yaml", where=where,
                        fix="write one beside MLproject, as docs/guides/sweeps.md shows")
    config, call = chain.config, chain.session.workspace.call
    sweep = read.given(read.read(text, where), {
        name: call.get(name, "") for name in read.CALL}, to_run=to_run)
    changes: dict[str, Any] = {}
    if sweep.engine and "engine" not in call:
        if chain.project.root:  # somebody else's: as of its pyproject.toml, see toolchain.workspace
            sweep = dataclasses.replace(sweep, notes=(*sweep.notes, (
                f"{where}: engine is not used: a repository's settings cannot choose it; "
                f"engine={sweep.engine} for this call does")))
        else:
            changes["engine"] = sweep.engine
    if sweep.entry_point and "entry_point" not in call:
        changes["entry_point"] = sweep.entry_point
    chain = Chain(chain.session, chain.project, dataclasses.replace(config, **changes)).here
    return Asked(chain, sweep)


def check(chain: Chain, *, to_run: bool = True) -> None:
    """What can be said before anything is built. Raises ToolchainError."""
    found = asked(chain, to_run=to_run)
    found.chain.session.tools.engine(found.chain.config)
    for note in found.sweep.notes:
        chain.session.say(f"warning: {note}")
    entry.check(found.chain, found.sweep)
    check_register(chain)
    session, config = found.chain.session, found.chain.config
    session.tools.tracking(config).check()


def _say_waiting(session: Session, name: str, who: str) -> None:
    session.say(f"{NAME} {name}: {who} runs it; waiting")


def check_register(chain: Chain) -> None:
    if chain.config.register not in ("", "best"):
        raise SpecError(f"register is `best`, not {chain.config.register!r}",
                        where="command line", fix="register=best, or leave it out")


def run(chains: Sequence[Chain], display: Display, emit: Callable[[str], None],
        table: Callable[[list[tuple[str, ...]]], None]) -> dict[str, ToolchainError]:
    """Run the sweeps of these projects as one queue; why some failed, by project.

    One call at a time runs a project's sweep on this machine; another waits and finds it done.
    """
    session = chains[0].session
    errors: dict[str, ToolchainError] = {}
    with contextlib.ExitStack() as held:
        # In one order: else two calls could wait for each other.
        for name in sorted(chain.name for chain in chains):
            held.enter_context(session.trace.holding(
                NAME, Digest.of(name.encode()), partial(_say_waiting, session, name)))
        found = _asked(chains, errors)
        parallel = max((item.sweep.parallel for item in found), default=1)
        text = session.workspace.call.get("budget")
        shared = budget.read(text, "command line") if text else None
        contests: list[Contest] = []
        status = "KILLED"
        try:
            for item in found:
                try:
                    contests.append(Contest(item.chain, item.sweep, parallel))
                except ToolchainError as error:
                    errors[item.chain.name] = error
            if not contests:
                return errors
            board = Board(emit, parallel)
            board.scores = {each.name: each.score for each in contests}
            with display(board) as draw:
                board.on_show = draw
                errors |= Schedule(contests, parallel=parallel, budget=shared, board=board).run()
            status = "FINISHED"
        finally:
            for each in contests:
                failed = status == "FINISHED" and each.name in errors
                _close(each, "FAILED" if failed else status, errors)
        for each in contests:
            if each.score.best is None and each.name not in errors:
                errors[each.name] = SweepError(
                    "no trial of the sweep is complete", where=each.name,
                    fix="read what the failed ones say above; each has its log among its "
                        "run's artifacts")
        table(board.summary())
    return errors


def _asked(chains: Sequence[Chain], errors: dict[str, ToolchainError]) -> list[Asked]:
    found = []
    for chain in chains:
        try:
            found.append(asked(chain))
        except ToolchainError as error:
            errors[chain.name] = error
    return found


def _close(contest: Contest, status: str, errors: dict[str, ToolchainError]) -> None:
    try:
        contest.close(status)
    except ToolchainError as error:
        errors.setdefault(contest.name, error)

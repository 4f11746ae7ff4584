"""Where a script is followed: what it left, what it is in, and whether it comes there at all.

Rule 1: what is assigned in doubt is not known afterwards. What may have been left (a loop, a
function, the script) is in doubt up to its end.
Rule 2: a script that fails installs nothing, so no failure is reckoned with that is not sure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from toolchain.layer.shell import Command
from toolchain.layer.shell.condition import Exists, Value
from toolchain.layer.shell.expansion import Expansion
from toolchain.layer.shell.fields import Fields
from toolchain.layer.shell.scope import Scope

SCRIPT = 0  # the frame that `exit` leaves


class Leave(Exception):
    """What is followed ends: `exit`, `return`, `break`, or `continue` (is_turn).

    frame: the number of the loop or function that is left, 1 for the outermost, or SCRIPT.
    """

    def __init__(self, frame: int, status: bool | None, *, is_turn: bool = False) -> None:
        super().__init__(frame)
        self.frame = frame
        self.status = status
        self.is_turn = is_turn


class State(Expansion):
    """`_doubt` is above zero where it is not known whether that is reached.

    variables: those that the script finds; arguments: its own; stops: whether it is run with `-e`.
    """

    def __init__(self, exists: Exists, variables: Mapping[str, Value],
                 arguments: tuple[Value, ...], *, stops: bool) -> None:
        super().__init__(Scope(variables, Fields(arguments)))
        self._exists = exists
        self._doubt = 0
        self._nested = 0  # subshells around
        self._tested = 0  # commands around whose failure does not stop the script
        self._stops: bool | None = stops
        self._last: bool | None = True  # `$?`
        self._frames: list[str] = []  # "loop" or "function"
        self._left: frozenset[tuple[int, bool]] = frozenset()  # what may have been left: a Leave's
        self._functions: dict[str, Command | None] = {}
        self._output: list[Value] = []
        self._printing = self._place

    @property
    def is_sure(self) -> bool:
        """Whether it is known that the script comes here."""
        return not self._doubt and not self._left

    @property
    def _place(self) -> tuple[int, frozenset[tuple[int, bool]]]:
        return self._doubt, self._left

    def write(self, text: Value) -> None:
        """What a command prints, and a substitution takes."""
        self._output.append(text if self._place == self._printing else None)

    def assign(self, name: str, value: Value) -> None:
        self._scope.set(name, value if self.is_sure else None)

    @contextlib.contextmanager
    def _testing(self, is_tested: bool = True) -> Iterator[None]:
        self._tested += is_tested
        try:
            yield
        finally:
            self._tested -= is_tested

    @contextlib.contextmanager
    def _doubting(self) -> Iterator[None]:
        """Follow commands that may not be reached."""
        self._doubt += 1
        try:
            yield
        except Leave as leave:
            if leave.frame != SCRIPT or leave.status is not False or self._nested:
                self._left |= {(leave.frame, leave.is_turn)}
        finally:
            self._doubt -= 1

    @contextlib.contextmanager
    def _subshell(self) -> Iterator[None]:
        """What is assigned inside is gone afterwards; what is written is kept."""
        before = self._scope, self._left, self._functions, self._stops
        self._scope, self._functions = self._scope.copy(), dict(self._functions)
        self._nested += 1
        try:
            yield
        except Leave as leave:
            self._last = leave.status
        finally:
            if self._left != before[1]:
                self._last = None
            self._nested -= 1
            self._scope, self._left, self._functions, self._stops = before

    @contextlib.contextmanager
    def _frame(self, kind: str) -> Iterator[int]:
        """A loop or function; what may have left it, or what is in it, ends with it."""
        self._frames.append(kind)
        number = len(self._frames)
        try:
            yield number
        finally:
            self._frames.pop()
            self._left = frozenset(left for left in self._left if left[0] < number)

"""A script's commands, followed as data: what runs, and with which values, where that is known.

Rule 1: nothing is executed. What depends on a value that is not known is followed too, in doubt.
Rule 2: a script is distrusted: its steps, its depth and the length of its values are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from toolchain.layer.shell import (
    AndOr,
    Background,
    Body,
    Case,
    Command,
    For,
    Function,
    Group,
    If,
    NotShell,
    Output,
    Pipeline,
    Simple,
    While,
)
from toolchain.layer.shell.condition import Exists, Value
from toolchain.layer.shell.fields import Fields
from toolchain.layer.shell.state import SCRIPT, Leave, State

_MOST_STEPS = 50_000
_DEEPEST = 60
_SPECIAL = frozenset({".", ":", "eval", "exec", "exit", "export", "readonly", "return", "set",
                      "shift", "unset", "break", "continue"})
class Walk(State):
    """Follows a script."""

    def __init__(self, exists: Exists, variables: Mapping[str, Value],
                 arguments: tuple[Value, ...], *, stops: bool) -> None:
        super().__init__(exists, variables, arguments, stops=stops)
        self._depth = 0
        self._steps = 0

    def run(self, name: Value, arguments: Fields) -> bool | None:
        """Follow a command that is no function: its exit status, where it is known."""
        raise NotImplementedError

    def body(self, body: Body) -> bool | None:
        """Follow commands; the exit status of the last, where it is known."""
        status: bool | None = True
        for item in body:
            status = self._and_or(item)
        return status

    def _and_or(self, item: AndOr) -> bool | None:
        pipelines = (item.first, *(pipeline for _, pipeline in item.rest))
        operators = ("", *(operator for operator, _ in item.rest))
        status: bool | None = None
        for operator, pipeline in zip(operators, pipelines, strict=True):
            wanted = operator == "&&"
            is_last = pipeline is pipelines[-1]
            if not operator or status == wanted:
                status = self._pipeline(pipeline, is_tested=not is_last)
            elif status is None:
                got = None
                with self._doubting():
                    got = self._pipeline(pipeline, is_tested=not is_last)
                status = got if got is not wanted else None
        self._last = status
        return status

    def _pipeline(self, pipeline: Pipeline, *, is_tested: bool) -> bool | None:
        with self._testing(is_tested or pipeline.is_negated):
            for command in pipeline.commands[:-1]:
                with self._subshell():
                    self._command(command)
            if len(pipeline.commands) > 1:
                with self._subshell():
                    self._last = self._command(pipeline.commands[-1])
                self.write(None)
                status = None if self._stops is None else self._last  # `-o pipefail`
            else:
                status = self._command(pipeline.commands[0])
            self._last = status
            command = pipeline.commands[-1]
            if status is False and not self._tested and (
                    len(pipeline.commands) > 1 or isinstance(command, Simple)
                    or (isinstance(command, Group) and (command.is_subshell or command.is_mute))):
                self._fail()
        if pipeline.is_negated:
            self._last = status = None if status is None else not status
        return status

    def _fail(self) -> None:
        """A command fails, whose failure nothing looks at."""
        if self._stops is None:
            self._left |= {(SCRIPT, False)}
        elif self._stops:
            raise Leave(SCRIPT, False)

    def _command(self, command: Command) -> bool | None:
        self._steps += 1
        self._depth += 1
        if self._steps > _MOST_STEPS or self._depth > _DEEPEST:
            raise NotShell("it does too much")
        try:
            return self._follow(command)
        finally:
            self._depth -= 1

    def _follow(self, command: Command) -> bool | None:
        if isinstance(command, Simple):
            return self._simple(command)
        if isinstance(command, If):
            return self._if(command)
        if isinstance(command, (For, While)):
            with self._frame("loop") as number:
                status = self._for(command, number) if isinstance(
                    command, For) else self._while(command, number)
                return status if self.is_sure else None
        if isinstance(command, Case):
            return self._case(command)
        if isinstance(command, Function):
            self._functions[command.name] = command.body if self.is_sure else None
            return True
        if isinstance(command, Background):
            with self._subshell():
                self.body(command.body)
            return True
        before = len(self._output)
        if command.is_subshell:
            with self._subshell():
                self._last = self.body(command.body)
            status = self._last
        else:
            status = self.body(command.body)
        if command.is_mute:
            del self._output[before:]
        return status

    def _if(self, command: If) -> bool | None:
        doubts = 0
        for condition, body in command.branches:
            status = self._condition(condition, doubts)
            if status is False:
                continue
            if status is True:
                return self._maybe(body, doubts)
            self._maybe(body, 1)
            doubts += 1
        return self._maybe(command.otherwise, doubts)

    def _condition(self, body: Body, doubts: int) -> bool | None:
        status = None
        with self._testing():
            if not doubts:
                return self.body(body)
            with self._doubting():
                status = self.body(body)
        return status

    def _maybe(self, body: Body, doubts: int) -> bool | None:
        if not doubts:
            return self.body(body)
        with self._doubting():
            self.body(body)
        return None

    def _for(self, command: For, number: int) -> bool | None:
        def any_turn() -> None:
            self.assign(command.name, None)
            self.body(command.body)

        fields = self.fields(command.words)
        status: bool | None = True
        for value in fields.values:
            if value is None and not fields.is_counted:
                self._repeat(any_turn, number)
                status = None
                continue
            self.assign(command.name, value)
            goes_on, status = self._turn(lambda: self.body(command.body), number)
            if not goes_on:
                break
        return status if fields.is_counted else None

    def _while(self, command: While, number: int) -> bool | None:
        status: bool | None = True

        def once() -> bool | None:
            """None: whether it goes on is not known; else the condition's answer."""
            nonlocal status
            holds = self._condition(command.condition, 0)
            if holds is not None and holds == command.is_until:
                return False
            if holds is None or not self.is_sure:
                return None
            status = self.body(command.body)
            return True

        def again() -> None:
            self._condition(command.condition, 0)
            self.body(command.body)

        while self.is_sure:
            goes_on, answer = self._turn(once, number)
            if not goes_on or (answer is False and self.is_sure):
                return status if goes_on else True
            if answer is None:
                break
        self._repeat(again, number)
        return None

    def _turn(self, follow: Callable[[], bool | None], number: int) -> tuple[bool, bool | None]:
        """One turn of a loop: whether that is not its last, and its exit status."""
        try:
            status = follow()
        except Leave as leave:
            if leave.frame != number:
                raise
            if not leave.is_turn:
                return False, True
            status = True
        self._left -= {(number, True)}
        return True, status

    def _repeat(self, follow: Callable[[], object], number: int) -> None:
        """Any number of turns: until another one changes nothing."""
        while True:
            before, functions = self._scope.copy(), dict(self._functions)
            with self._doubting():
                follow()
            self._left -= {(number, True)}
            if self._scope.is_like(before) and functions == self._functions:
                return

    def _case(self, command: Case) -> bool | None:
        value, doubts = self.text(command.word), 0
        for patterns, body in command.branches:
            matches = [self.is_matched(value, pattern) for pattern in patterns]
            if True in matches:
                return self._maybe(body, doubts)
            if None in matches:
                self._maybe(body, 1)
                doubts += 1
        return True if not doubts else None

    def _simple(self, command: Simple) -> bool | None:
        before, self._last = self._last, True
        fields = self.fields(command.words)
        if not fields.values:  # then the status is that of the last substitution
            for name, word in command.assigned:
                self.assign(name, self.text(word))
            return self._last
        if not any(isinstance(part, Output) for word in command.words for part in word):
            self._last = before
        return self._with(command, fields)

    def _with(self, command: Simple, fields: Fields) -> bool | None:
        """A command, with what is assigned for it alone."""
        saved = self._scope.saved(variable for variable, _ in command.assigned)
        for variable, word in command.assigned:
            self.assign(variable, self.text(word))
        start = len(self._output)
        name, arguments = fields.values[0], Fields(fields.values[1:], fields.is_counted)
        try:
            if name is not None and name in self._functions:
                status = self._call(name, arguments)
            else:
                status = self.run(name, arguments)
        finally:
            self._scope.restore(saved)
            if name in _SPECIAL:  # dash keeps it, bash does not
                for variable in saved:
                    self._scope.set(variable, None)
        if command.is_mute:
            del self._output[start:]
        return status

    def _call(self, name: str, arguments: Fields) -> bool | None:
        body, scope = self._functions[name], self._scope
        if body is None:  # it may be another
            scope.forget()
            with self._doubting():
                self.run(None, arguments)
            return None
        before = scope.arguments
        scope.arguments = arguments
        hidden, scope.hidden = scope.hidden, {}
        with self._frame("function") as number:
            try:
                status = self._command(body)
            except Leave as leave:
                if leave.frame != number:
                    raise
                status = leave.status
            finally:
                scope.restore(scope.hidden)
                scope.arguments, scope.hidden = before, hidden
            return status if self.is_sure else None

    def substituted(self, body: Body) -> Value:
        """What is printed; a blank line at its end is none of it."""
        before, self._output = self._output, []
        place, self._printing = self._printing, self._place
        tested, self._tested = self._tested, 0
        stops = self._stops
        try:
            with self._subshell():
                self._depth += 1
                self._stops = stops and None  # bash goes on in a substitution, dash does not
                self._last = self.body(body)
                if self._place != self._printing:
                    self.write(None)
            written = self._output
        finally:
            self._depth -= 1
            self._output, self._printing = before, place
            self._tested, self._stops = tested, stops
        known = [text for text in written if text is not None]
        return "".join(known).rstrip("\n") if len(known) == len(written) else None

"""The shell's own commands, as far as they matter to what is followed.

Source: POSIX, Shell & Utilities, 2.14 and chapter 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from toolchain.layer.shell import parser
from toolchain.layer.shell.condition import Value, test
from toolchain.layer.shell.fields import UNKNOWN, Fields
from toolchain.layer.shell.state import SCRIPT, Leave
from toolchain.layer.shell.walk import Walk

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=", re.DOTALL)
_PROGRAM = re.compile(r"/(?:usr/)?s?bin/([^/]+)")


class Shell(Walk):
    """Follows a script and its shell's own commands; other programs are for a subclass."""

    def other(self, name: Value, arguments: list[Value]) -> bool | None:
        """A program, or what cannot be followed: its exit status, where it is known."""
        raise NotImplementedError

    def run(self, name: Value, arguments: Fields) -> bool | None:
        if name in BUILT_IN:
            return BUILT_IN[name](self, arguments)
        return self._program(name, arguments)

    def _program(self, name: Value, arguments: Fields) -> bool | None:
        path = _PROGRAM.fullmatch(name or "")
        name = path[1] if path else name
        if name in _PROGRAMS:
            return _PROGRAMS[name](self, arguments)
        return self.other(name, list(arguments.values))

    def do_true(self, _: Fields) -> bool:
        return True

    def do_false(self, _: Fields) -> bool:
        return False

    def do_echo(self, arguments: Fields) -> bool:
        end = "" if arguments.values[:1] == ("-n",) else "\n"
        values = arguments.values[not end:]
        known = [value for value in values if value is not None]
        # Shells differ over options and backslashes.
        if len(known) < len(values) or any("\\" in value for value in known) or (
                known and re.fullmatch("-[neE]+", known[0])):
            self.write(None)
        else:
            self.write(" ".join(known) + end)
        return True

    def _status(self, arguments: Fields) -> bool | None:
        """Of `exit` and `return`: their argument, or the status of what was before."""
        if not arguments.values:
            return self._last
        status = arguments.at(0)
        return int(status) % 256 == 0 if status and re.fullmatch(r"\d{1,9}", status) else None

    def do_exit(self, arguments: Fields) -> bool:
        raise Leave(SCRIPT, self._status(arguments))

    def do_return(self, arguments: Fields) -> bool:
        frame = len(self._frames)
        while frame and self._frames[frame - 1] != "function":
            frame -= 1
        raise Leave(frame, self._status(arguments))

    def do_break(self, arguments: Fields) -> bool:
        return self._leave_loops(arguments, is_turn=False)

    def do_continue(self, arguments: Fields) -> bool:
        return self._leave_loops(arguments, is_turn=True)

    def _leave_loops(self, arguments: Fields, *, is_turn: bool) -> bool:
        innermost = outermost = len(self._frames)
        while outermost and self._frames[outermost - 1] == "loop":
            outermost -= 1
        outermost += 1
        if outermost > innermost:
            return True  # there is no loop
        levels = arguments.at(0) if arguments.values else "1"
        if levels is None or not re.fullmatch(r"0*[1-9]\d{0,8}", levels):
            self._left |= {(outermost, False)}
            raise Leave(innermost, True, is_turn=is_turn)
        raise Leave(max(outermost, innermost + 1 - int(levels)), True, is_turn=is_turn)

    def do_exec(self, arguments: Fields) -> bool | None:
        if arguments.values:
            raise Leave(SCRIPT, self._program(arguments.values[0], arguments.after(1)))
        self.write(None)  # where everything after it is printed to
        return True

    def do_env(self, arguments: Fields) -> bool | None:
        place = 0
        while _ASSIGNED.match(arguments.at(place) or ""):
            place += 1
        name = arguments.at(place)
        if not name or name.startswith("-"):
            return self.other("env", list(arguments.values))
        return self._program(name, arguments.after(place + 1))

    def do_eval(self, arguments: Fields) -> bool | None:
        known = [value for value in arguments.values if value is not None]
        if len(known) < len(arguments.values):
            self._scope.forget()
            return self.other("eval", list(arguments.values))
        text = " ".join(known)
        self.spend(8 * len(text))  # reading it takes longer than copying it
        return self.body(parser.parse(text))

    def do_source(self, _: Fields) -> bool | None:
        self._scope.forget()
        return None

    def do_read(self, arguments: Fields) -> bool | None:
        if None in arguments.values:
            self._scope.forget()
        for name in arguments.values:
            if name and _NAME.fullmatch(name):
                self._scope.set(name, None)
        return None

    def do_export(self, arguments: Fields) -> bool:
        for item in arguments.values:
            assigned = _ASSIGNED.match(item or "")
            if item and assigned:
                self.assign(assigned[1], item[assigned.end():])
        if None in arguments.values:
            self._scope.forget()
        return True

    def do_local(self, arguments: Fields) -> bool:
        for item in arguments.values:
            name = _NAME.match(item or "")
            if name and "function" in self._frames:
                self._scope.hide(name[0])
            if name and item == name[0] and self._scope.get(item) != "":
                self._scope.set(item, None)  # bash empties it, dash does not
        return self.do_export(arguments)

    def do_unset(self, arguments: Fields) -> bool:
        is_function = "-f" in arguments.values
        for name in arguments.values:
            if is_function and name in self._functions:
                if self.is_sure:
                    del self._functions[name]
                else:
                    self._functions[name] = None
            elif name and not is_function and _NAME.fullmatch(name):
                self.assign(name, "")
        return True

    def do_set(self, arguments: Fields) -> bool:
        place, values = 0, arguments.values
        while place < len(values):
            value = values[place]
            if value is None:
                self._stops, self._scope.arguments = None, UNKNOWN
                return True
            if value[:1] not in ("-", "+") or value in ("-", "--"):
                place += value in ("-", "--")
                if value != "-" or place < len(values):
                    given = arguments.after(place)
                    self._scope.arguments = given if self.is_sure else UNKNOWN
                return True
            option = arguments.at(place + 1) if value.endswith("o") else ""
            if option not in ("", "errexit", "nounset", "noglob", "xtrace"):
                self._stops = None  # such as `pipefail`
            elif option == "errexit" or "e" in value:
                is_on = value[0] == "-"
                self._stops = is_on if self.is_sure or self._stops == is_on else None
            place += 2 if option else 1
        return True

    def do_shift(self, arguments: Fields) -> bool | None:
        scope = self._scope
        count = arguments.at(0) if arguments.values else "1"
        if count is None or not re.fullmatch(r"\d{1,9}", count) or not self.is_sure:
            scope.arguments = UNKNOWN
            return None
        if scope.arguments.count is not None and int(count) > scope.arguments.count:
            self._left |= {(SCRIPT, False)}  # dash ends, bash goes on
            return None
        scope.arguments = scope.arguments.after(int(count))
        return True

    def do_command(self, arguments: Fields) -> bool | None:
        if arguments.values[:1] in (("-v",), ("-V",)):
            return self.do_type(arguments.after(1))
        if arguments.values[:1] == ("-p",):
            arguments = arguments.after(1)
        if not arguments.values:
            return True
        return self.run(arguments.values[0], arguments.after(1))

    def do_type(self, arguments: Fields) -> bool | None:
        name = arguments.at(0)
        if arguments.count == 1 and (name in BUILT_IN or name in self._functions):
            self.write(None)
            return True if name in BUILT_IN or self._functions[name or ""] else None
        return self.other("which", list(arguments.values))

    def do_bracket(self, arguments: Fields) -> bool | None:
        return test(list(arguments.values[:-1]), self._exists)

    def do_test(self, arguments: Fields) -> bool | None:
        return test(list(arguments.values), self._exists)


_PROGRAMS: dict[Value, Callable[[Shell, Fields], bool | None]] = {
    "true": Shell.do_true, "false": Shell.do_false, "echo": Shell.do_echo,
    "[": Shell.do_bracket, "test": Shell.do_test, "env": Shell.do_env,
}
BUILT_IN: dict[Value, Callable[[Shell, Fields], bool | None]] = {
    **{name: follow for name, follow in _PROGRAMS.items() if name != "env"},
    ":": Shell.do_true, "exit": Shell.do_exit, "return": Shell.do_return,
    "break": Shell.do_break, "continue": Shell.do_continue, "exec": Shell.do_exec,
    ".": Shell.do_source, "source": Shell.do_source, "eval": Shell.do_eval,
    "read": Shell.do_read, "getopts": Shell.do_source, "let": Shell.do_source,
    "mapfile": Shell.do_source, "readarray": Shell.do_source, "export": Shell.do_export,
    "readonly": Shell.do_export, "local": Shell.do_local, "declare": Shell.do_local,
    "typeset": Shell.do_local, "unset": Shell.do_unset, "set": Shell.do_set,
    "shift": Shell.do_shift, "command": Shell.do_command, "type": Shell.do_type,
}

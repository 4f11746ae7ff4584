"""A maintainer script's text -> its commands, as data. Nothing is ever executed.

The part of the POSIX shell (Shell & Utilities, chapter 2) that such scripts are written in: lists,
pipelines, `if`, `for`, `while`, `case`, functions, quotes, here-documents, `$name`, `$(...)`.
Whatever has a value that only a shell could compute is read as one that is not known.
"""

from __future__ import annotations

import re

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
    Part,
    Pipeline,
    Simple,
    Text,
    Unknown,
    Variable,
    While,
    Word,
)
from toolchain.layer.shell.tokens import OPERATORS, Tokens

LARGEST = 256 << 10  # characters of a script
_DEEPEST = 40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_FUNCTION = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\([ \t]*\)")
_REDIRECTED = re.compile(r"\d*(?=[<>])")
_REDIRECTION = re.compile(r"<<-?|>>|<&|>&|<>|>\||<|>")
_UNQUOTED = re.compile(r"[^ \t\n;&|()<>'\"$`\\]+")
_QUOTED = re.compile(r'[^"$`\\]+')
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])")
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*|[0-9@*#]+)((:?[-=])([\w./-]*))?\}")
_BACKQUOTED = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_CHANGES = re.compile(r"(?<![=!<>])=(?!=)|<<=|>>=|\+\+|--")  # of arithmetic
_ENDS = frozenset({"then", "else", "elif", "fi", "do", "done", "esac", "}"})


def parse(text: str) -> Body:
    """Raises NotShell."""
    if len(text) > LARGEST:
        raise NotShell("too long")
    parser = _Parser(text, 0)
    body = parser.body()
    if parser.at < len(text):
        raise NotShell(f"unexpected {text[parser.at:parser.at + 20]!r}")
    return body


class _Parser(Tokens):
    """Recursive descent. `depth` is that of what it is within."""

    def __init__(self, text: str, depth: int) -> None:
        super().__init__(text)
        self._depth = depth

    def body(self) -> Body:
        """Commands up to what ends them: a reserved word, `)`, `;;` or the end."""
        found: list[AndOr] = []
        while True:
            self.blanks(lines=True)
            if self.peek() in ("", ")", ";;") or self.reserved() in _ENDS:
                return tuple(found)
            item = self._and_or()
            self.blanks()
            after = self.peek()
            if self.text.startswith("&>", self.at):
                raise NotShell("`&>`, which shells read differently")
            if after == "&":
                item = _just(Background((item,)))[0]
            if after in (";", "&"):
                self.at += 1
            elif after not in ("\n", "", ")", ";;") and self.reserved() not in _ENDS:
                raise NotShell(f"unexpected {self.text[self.at:self.at + 20]!r}")
            found.append(item)

    def _and_or(self) -> AndOr:
        first, rest = self._pipeline(), []
        while (operator := self.peek()) in ("&&", "||"):
            self.at += 2
            self.blanks(lines=True)
            rest.append((operator, self._pipeline()))
        return AndOr(first, tuple(rest))

    def _pipeline(self) -> Pipeline:
        negated = False
        self.blanks()
        while self.reserved() == "!":
            self.at += 1
            negated = not negated
            self.blanks()
        commands = [self._command()]
        while self.peek() == "|":
            self.at += 1
            self.blanks(lines=True)
            commands.append(self._command())
        return Pipeline(tuple(commands), negated)

    def _command(self) -> Command:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotShell("too deep")
        self.blanks()
        compound = self._compound()
        if compound is not None:
            is_mute = self._redirections()
            command = Group(_just(compound), False, True) if is_mute else compound
        else:
            command = self._simple()
        self._depth -= 1
        self.blanks()
        return command

    def _compound(self) -> Command | None:
        if self.peek() == "(":
            self.at += 1
            if self.peek() == "(":
                raise NotShell("`((`, which shells read differently")
            body = self.body()
            self.expect(")")
            return Group(body, True)
        word = self.reserved()
        if word == "{":
            self.at += 1
            body = self.body()
            self.keyword("}")
            return Group(body, False)
        if word == "if":
            return self._if()
        if word == "for":
            return self._for()
        if word in ("while", "until"):
            self.keyword(word)
            condition = self.body()
            return While(condition, self._do(), word == "until")
        if word == "case":
            return self._case()
        function = self.match(_FUNCTION)
        if function is None:
            return None
        self.at = function.end()
        self.blanks(lines=True)
        return Function(function[1], self._command())

    def _if(self) -> If:
        branches: list[tuple[Body, Body]] = []
        otherwise: Body = ()
        self.keyword("if")
        while True:
            condition = self.body()
            self.keyword("then")
            branches.append((condition, self.body()))
            if self.reserved() != "elif":
                break
            self.keyword("elif")
        if self.reserved() == "else":
            self.keyword("else")
            otherwise = self.body()
        self.keyword("fi")
        return If(tuple(branches), otherwise)

    def _for(self) -> For:
        self.keyword("for")
        self.blanks()
        name = self.match(_NAME)
        if name is None:
            raise NotShell("a `for` without a name")
        self.at = name.end()
        self.blanks(lines=True)
        words: list[Word] = []
        if self.reserved() == "in":
            self.keyword("in")
            self.blanks()
            while self.peek() not in (";", "\n", ""):
                words.append(self._word())
                self.blanks()
        else:
            words.append((Variable("@", True),))
        if self.peek() == ";":
            self.at += 1
        return For(name[0], tuple(words), self._do())

    def _do(self) -> Body:
        self.keyword("do")
        body = self.body()
        self.keyword("done")
        return body

    def _case(self) -> Case:
        self.keyword("case")
        self.blanks()
        word = self._word()
        self.keyword("in")
        branches = []
        while True:
            self.blanks(lines=True)
            if self.reserved() == "esac":
                break
            if self.peek() == "(":
                self.at += 1
            patterns = []
            while True:
                self.blanks()
                patterns.append(self._word())
                self.blanks()
                if self.peek() != "|":
                    break
                self.at += 1
            self.expect(")")
            branches.append((tuple(patterns), self.body()))
            self.blanks(lines=True)
            if self.peek() == ";;":
                self.at += 2
        self.keyword("esac")
        return Case(word, tuple(branches))

    def _simple(self) -> Simple:
        assigned: list[tuple[str, Word]] = []
        words: list[Word] = []
        is_mute = False
        start = self.at
        while True:
            is_mute |= self._redirections()
            if self.peek() in OPERATORS or not self.peek():
                break
            name = self.match(_ASSIGNED)
            if name and not words:
                self.at = name.end()
                assigned.append((name[1], self._word(may_be_empty=True)))
            else:
                words.append(self._word())
        if self.at == start:
            raise NotShell(f"unexpected {self.text[start:start + 20]!r}")
        return Simple(tuple(assigned), tuple(words), is_mute)

    def _redirections(self) -> bool:
        """Skip them; whether one takes the standard output away."""
        is_mute = False
        while True:
            self.blanks()
            number = self.match(_REDIRECTED)
            if number is None:
                return is_mute
            operator = _REDIRECTION.match(self.text, number.end())
            assert operator is not None
            self.at = operator.end()
            self.blanks()
            start = self.at
            self._word()
            if operator[0].startswith("<<"):
                end = re.sub(r"[\\'\"]", "", self.text[start:self.at])
                self.documents.append((end, operator[0] == "<<-"))
            is_mute |= operator[0][0] == ">" and number[0] in ("", "1")

    def _word(self, may_be_empty: bool = False) -> Word:
        parts: list[Part] = []
        start = self.at
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in " \t\n;&|()<>":
                break
            if character == "'":
                end = self.text.find("'", self.at + 1)
                if end < 0:
                    raise NotShell("a quote that does not end")
                parts.append(Text(self.text[self.at + 1:end], True))
                self.at = end + 1
            elif character == '"':
                parts += self._double()
            elif character in "$`":
                parts.append(self._expansion(quoted=False))
            elif character == "\\":
                if self.text[self.at + 1:self.at + 2] != "\n":
                    parts.append(Text(self.text[self.at + 1:self.at + 2], True))
                self.at += 2
            else:
                plain = self.match(_UNQUOTED)
                assert plain is not None
                parts.append(Text(plain[0], False))
                self.at = plain.end()
        if self.at == start and not may_be_empty:
            raise NotShell(f"unexpected {self.text[start:start + 20]!r}")
        return tuple(parts)

    def _double(self) -> list[Part]:
        """What is between double quotes."""
        parts: list[Part] = [Text("", True)]
        self.at += 1
        while True:
            character = self.text[self.at:self.at + 1]
            if not character:
                raise NotShell("a quote that does not end")
            if character == '"':
                self.at += 1
                return parts
            if character in "$`":
                parts.append(self._expansion(quoted=True))
            elif character == "\\":
                after = self.text[self.at + 1:self.at + 2]
                if after != "\n":
                    parts.append(Text(after if after in '$`"\\' else f"\\{after}", True))
                self.at += 2
            else:
                plain = self.match(_QUOTED)
                assert plain is not None
                parts.append(Text(plain[0], True))
                self.at = plain.end()

    def _expansion(self, *, quoted: bool) -> Part:
        rest = self.text[self.at:self.at + 3]
        if rest[0] == "`":
            return self._backquoted(quoted)
        if rest == "$((":
            return self._skipped("))", quoted)
        if rest.startswith("$("):
            inner = _Parser(self.text, self._depth + 1)
            inner.at = self.at + 2
            body = inner.body()
            self.at = inner.at
            self.expect(")")
            return Output(body, quoted)
        if rest.startswith("${"):
            return self._braces(quoted)
        name = self.match(_VARIABLE)
        if name is None:
            self.at += 1
            after = self.text[self.at:self.at + 1]
            return Text("$", quoted) if quoted or after not in ("'", '"') else Unknown(False)
        self.at = name.end()
        return Variable(name[1], quoted)

    def _braces(self, quoted: bool) -> Variable | Unknown:
        plain = self.match(_BRACED)
        if plain is None:
            return self._skipped("}", quoted)
        self.at = plain.end()
        if plain[2] is None:
            return Variable(plain[1], quoted)
        return Variable(plain[1], quoted, (Text(plain[4], quoted),), plain[3])

    def _skipped(self, end: str, quoted: bool) -> Unknown:
        place = self.text.find(end, self.at)
        inside = self.text[self.at + 2:place]
        # What is nested is not followed, so that its end cannot be told.
        is_open = any(inside.count(mark) % 2 for mark in "'\"`") or (
            (end == "))" or "$(" in inside) and inside.count("(") != inside.count(")"))
        if place < 0 or "${" in inside or inside.endswith("\\") or is_open:
            raise NotShell("an expansion within an expansion")
        if _CHANGES.search(inside) if end == "))" else ":=" in inside:
            raise NotShell("an expansion that assigns")
        self.at = place + len(end)
        # `"${@:2}"` and `"${name[@]}"` are any number of values.
        return Unknown(quoted and "@" not in inside)

    def _backquoted(self, quoted: bool) -> Output:
        match = self.match(_BACKQUOTED)
        if match is None:
            raise NotShell("a quote that does not end")
        self.at = match.end()
        if self._depth > _DEEPEST:
            raise NotShell("too deep")
        inner = _Parser(re.sub(r"\\([`\\$])", r"\1", match[1]), self._depth + 1)
        body = inner.body()
        if inner.at < len(inner.text):
            raise NotShell("a substitution that does not end")
        return Output(body, quoted)


def _just(command: Command) -> Body:
    return (AndOr(Pipeline((command,), False), ()),)

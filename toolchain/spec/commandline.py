"""A command of MLproject as bash reads it: what is quoted, a comment or a here-document, and where
its last command line ends.

Options are appended to a command. Put behind its text, they would fall into a comment or after a
`;`, or spoil the end of a here-document. And a reference to a variable is written in one way
within quotes, in another within a here-document. What is not known here (`case`, arithmetic) is
taken as plain words.

In every image too, as toolchain.spec is: standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What a character of a command is, as `Reading.contexts` has it; the quotes stand for themselves.
PLAIN, ESCAPED, CONTINUED, COMMENT = " ", "\\", "-", "#"
ANSI = "$"  # $'…'
DOCUMENT, LITERAL = "<", "!"  # the body of <<END, and of <<'END', where nothing is expanded

_HERE = re.compile(r"<<(-?)[ \t]*((?:[^\s;&|<>()'\"\\]|'[^'\n]*'|\"[^\"\n]*\"|\\[^\n])+)")
_QUOTING = re.compile(r"'([^']*)'|\"([^\"]*)\"|\\(.)")
_BEFORE_COMMENT = " \t\n;&|()<>"


@dataclass(frozen=True)
class Document:
    """A here-document. operator: from `<<` to the end of its word. body: up to the last line, which
    `last` is. backticks: whether it stands within them."""

    operator: tuple[int, int]
    word: str
    tabs: bool
    literal: bool
    backticks: bool
    body: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Reading:
    """contexts: a letter for each of the command's. is_open: whether a quote is not closed."""

    contexts: str
    documents: tuple[Document, ...]
    is_open: bool


def stripped(text: str) -> str:
    """The command without blank ends, and without a `\\` that continues it on a line that is not
    there. MLflow hands that line end to bash, where it means nothing; alone, `\\` would be a word.
    """
    text = text.lstrip()
    while True:
        kept = text.rstrip()
        blanks = text[len(kept):]
        if (len(kept) - len(kept.rstrip("\\"))) % 2 == 0:
            return kept
        if not blanks.startswith("\n"):
            return kept + blanks[:1]  # a quoted blank
        text = kept[:-1]


def split(command: str) -> tuple[str, str]:
    """The command up to where options can be appended, and the rest."""
    end = _end(command)
    return command[:end], command[end:]


def read(command: str) -> Reading:
    """What each character is."""
    return _Reader(command).read()


def _end(command: str) -> int:
    """Where the last command line's last word ends; the length of the text if that is unclear."""
    reading = read(command)
    if reading.is_open:
        return len(command)
    for position in range(len(command) - 1, -1, -1):
        context = reading.contexts[position]
        if context == PLAIN and (command[position].isspace() or _is_separator(command, position)):
            continue
        if context not in (CONTINUED, COMMENT, DOCUMENT, LITERAL):
            return position + 1
    return len(command)


def _is_separator(command: str, position: int) -> bool:
    """Whether a `;` or `&` here ends a command, rather than being part of `&&`, `>&2` or `;;`."""
    letter = command[position]
    if letter == ";":
        return command[position - 1:position] != ";" and command[position + 1:position + 2] != ";"
    return (letter == "&" and command[position - 1:position] not in ("&", ">", "<")
            and command[position + 1:position + 2] not in ("&", ">"))


class _Reader:
    """One command on its way to a Reading.

    Within double quotes `$(` and a backtick begin a command of their own, with its own quotes:
    `_within` holds what is open, the innermost last.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._contexts: list[str] = []
        self._within: list[str] = []
        self._pending: list[Document] = []
        self._documents: list[Document] = []
        self._unclosed = False

    def read(self) -> Reading:
        while len(self._contexts) < len(self._command):
            if self._within[-1:] == ['"']:
                self._in_quotes()
            else:
                self._in_words()
        return Reading("".join(self._contexts), tuple(self._documents),
                       self._unclosed or '"' in self._within)

    def _take(self, context: str, stop: int) -> None:
        """The characters up to `stop` are all of one kind."""
        stop = min(stop, len(self._command))
        self._contexts += context * (stop - len(self._contexts))

    def _in_quotes(self) -> None:
        position = len(self._contexts)
        letter = self._command[position]
        self._take('"', position + (2 if letter == "\\" else 1))
        if letter == '"':
            self._within.pop()
        elif letter == "`":
            self._within.append("`")
        elif self._command.startswith("$(", position):
            self._take('"', position + 2)
            self._within.append("(")

    def _in_words(self) -> None:
        command, position = self._command, len(self._contexts)
        letter = command[position]
        if letter == "\\":
            self._take(CONTINUED if command[position + 1:position + 2] == "\n" else ESCAPED,
                       position + 2)
        elif letter == "'":
            self._single("'", re.compile(r"'[^']*'"), position)
        elif command.startswith("$'", position):
            self._single(ANSI, re.compile(r"\$'(?:[^'\\]|\\.)*'", re.DOTALL), position)
        elif letter == "#" and self._begins_word(position):
            self._take(COMMENT, self._end_of_comment(position))
        elif command.startswith("<<<", position):
            self._take(PLAIN, position + 3)
        elif letter == "<" and (here := _HERE.match(command, position)):
            self._announce(here)
        elif letter == "\n":
            self._take(PLAIN, position + 1)
            self._bodies()
        else:
            self._nest(letter)
            self._take('"' if letter == '"' else PLAIN, position + 1)

    def _single(self, context: str, pattern: re.Pattern[str], position: int) -> None:
        found = pattern.match(self._command, position)
        self._unclosed = self._unclosed or found is None
        self._take(context, found.end() if found else len(self._command))

    def _nest(self, letter: str) -> None:
        innermost = self._within[-1:]
        if letter in '("' or (letter == "`" and innermost != ["`"]):
            self._within.append(letter)
        elif innermost == [{")": "("}.get(letter, letter)]:
            self._within.pop()

    def _begins_word(self, position: int) -> bool:
        before = self._command[position - 1:position]
        if before == "`":  # as in: --a \ `# why` \ --b
            return self._within[-1:] == ["`"]
        return not before or (before in _BEFORE_COMMENT and self._contexts[-1] != ESCAPED)

    def _end_of_comment(self, position: int) -> int:
        ends = "\n`" if "`" in self._within else "\n"
        return next((at for at in range(position, len(self._command))
                     if self._command[at] in ends), len(self._command))

    def _announce(self, here: re.Match[str]) -> None:
        word = _QUOTING.sub(lambda quoted: quoted[1] or quoted[2] or quoted[3] or "", here[2])
        self._pending.append(Document(
            operator=here.span(), word=word, tabs=bool(here[1]), literal=word != here[2],
            backticks="`" in self._within))
        self._take(PLAIN, here.end())

    def _bodies(self) -> None:
        """The here-documents that the line before announced."""
        while self._pending:
            document, start = self._pending.pop(0), len(self._contexts)
            tabs = "\t*" if document.tabs else ""
            last = re.compile(f"^{tabs}{re.escape(document.word)}$", re.MULTILINE).search(
                self._command, start)
            if last is None:  # it was none: `$((1 << 2))`
                continue
            self._take(LITERAL if document.literal else DOCUMENT, last.end() + 1)
            self._documents.append(Document(
                operator=document.operator, word=document.word, tabs=document.tabs,
                literal=document.literal, backticks=document.backticks,
                body=(start, last.start()), last=last.span()))

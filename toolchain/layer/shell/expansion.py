"""A script's words -> the values that a command gets, where they are known.

Nothing of the machine is looked at: which files a pattern stands for is not known.
Source: POSIX, Shell & Utilities, 2.6.
"""

from __future__ import annotations

import fnmatch
import re

from toolchain.layer.shell import Body, NotShell, Output, Part, Text, Variable, Word
from toolchain.layer.shell.condition import Value
from toolchain.layer.shell.fields import Fields
from toolchain.layer.shell.scope import Scope

_MOST_TEXT = 8 << 20  # characters of all values together
_ALL = Variable("@", True)
_DECLARING = [(Text(name, False),) for name in ("export", "local", "readonly", "declare",
                                                "typeset")]
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_HOME = re.compile(r"(?:\A|[=:])~")
_CLASS = re.compile(r"\[!?[A-Za-z0-9_.:+/-]{1,80}\]")


class Expansion:
    """What is assigned and printed along the way is for a subclass to follow."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._text_left = _MOST_TEXT

    def assign(self, name: str, value: Value) -> None:
        raise NotImplementedError

    def substituted(self, body: Body) -> Value:
        """What `$(body)` stands for."""
        raise NotImplementedError

    def text(self, word: Word) -> Value:
        """A word as one value, as in an assignment."""
        parts = [None if _is_home(part) else self._part(part) for part in word]
        known = [part for part in parts if part is not None]
        return "".join(known) if len(known) == len(parts) else None

    def fields(self, words: tuple[Word, ...]) -> Fields:
        """Words as a command gets them: what is not quoted is split at blanks."""
        values: list[Value] = []
        is_counted = True
        is_declaring = words[:1] and words[0] in _DECLARING
        for word in words:
            if word in ((Text("", True), _ALL), (_ALL,)):
                values += self._scope.arguments.values
                is_counted &= self._scope.arguments.is_counted
            elif is_declaring and _ASSIGNED.match(_plain(word)):
                values.append(self.text(word))
            else:
                found = self._split(word)
                values += found.values
                is_counted &= found.is_counted
        return Fields(tuple(values), is_counted)

    def is_matched(self, value: Value, word: Word) -> bool | None:
        """Whether a pattern of `case` matches; None where that is not known."""
        pattern = ""
        for part in word:
            text = None if _is_home(part) else self._part(part)
            if text is None:
                return None
            if _is_quoted(part):
                pattern += re.sub(r"([*?\[])", r"[\1]", text)
            elif "\\" in text or "[" in _CLASS.sub("", text) or ("[" in text and "--" in text):
                return None
            else:
                pattern += text
        return None if value is None else fnmatch.fnmatchcase(value, pattern)

    def spend(self, characters: int) -> None:
        """Of the text that a script may make. Raises NotShell."""
        self._text_left -= characters
        if self._text_left < 0:
            raise NotShell("it does too much")

    def _part(self, part: Part) -> Value:
        value = self._expanded(part)
        self.spend(len(value or ""))
        return value

    def _expanded(self, part: Part) -> Value:
        if isinstance(part, Text):
            return part.text
        if isinstance(part, Variable):
            return self._variable(part)
        if isinstance(part, Output):
            return self.substituted(part.body)
        return None

    def _variable(self, part: Variable) -> Value:
        value = self._scope.get(part.name)
        if value != "" or part.default is None:
            return value
        if not part.operator.startswith(":"):
            is_unset = self._scope.is_unset(part.name)
            if not is_unset:
                return value if is_unset is False else None
        default = self.text(part.default)
        if part.operator.endswith("="):
            self.assign(part.name, default)
        return default

    def _split(self, word: Word) -> Fields:
        fields: list[Value] = []
        current: Value = ""
        is_open = False  # whether `current` is a field although it is empty
        is_counted = len(word) < 2 or _ALL not in word or (
            self._scope.arguments.count in (0, 1))  # "x$@" is as many as there are arguments
        bare = ""  # what of the word could be a pattern
        for part in word:
            value = None if _is_home(part) else self._part(part)
            bare += "" if _is_quoted(part) else value or ""
            if isinstance(part, Text) or _is_quoted(part):
                current = None if None in (current, value) else (current or "") + (value or "")
                is_open = True
            elif value is None or (value and self._scope.is_assigned("IFS")):
                current, is_open, is_counted = None, True, False
            else:
                pieces = re.split(r"[ \t\n]+", value)
                for number, piece in enumerate(pieces):
                    if number:
                        if is_open or current:
                            fields.append(current)
                        current, is_open = "", False
                    current = None if current is None else current + piece
                    is_open = is_open or bool(piece)
        if is_open:
            fields.append(current)
        if _is_pattern(bare):
            return Fields((None,), is_counted=False)
        return Fields(tuple(fields) if is_counted else (*fields, None), is_counted)


def _plain(word: Word) -> str:
    """What it begins with, as it is written."""
    first = word[0] if word else None
    return first.text if isinstance(first, Text) and not first.quoted else ""


def _is_pattern(text: str) -> bool:
    """Whether files may stand for it; bash has `{a,b}` besides, which dash leaves alone."""
    return bool({"*", "?"} & {*text}) or ("[" in text and "]" in text) or (
        "{" in text and "}" in text)


def _is_quoted(part: Part) -> bool:
    return part.quoted


def _is_home(part: Part) -> bool:
    """Whether it begins with somebody's home, `~`."""
    return isinstance(part, Text) and not part.quoted and bool(_HOME.search(part.text))

"""A script's characters -> its tokens, as far as they can be told before the grammar is known.

Blanks, comments, continued lines and here-documents are passed over here.
"""

from __future__ import annotations

import re

from toolchain.layer.shell import NotShell

OPERATORS = (";;", "&&", "||", ";", "&", "|", "(", ")", "\n")
_BLANK = re.compile(r"(?:[ \t]|\\\n)*(?:(?<![^\s;&|()])#[^\n]*)?")
_RESERVED = re.compile(r"[a-z]+(?=[\s;&|()<>]|\Z)|[{}!](?=[\s;&|)]|\Z)")


class Tokens:
    """`at` is the place of the next character of `text`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        # (last line, whether tabs are stripped) of here-documents that begin on the next line
        self.documents: list[tuple[str, bool]] = []

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What of the pattern is here; nothing is passed over."""
        return pattern.match(self.text, self.at)

    def blanks(self, *, lines: bool = False) -> None:
        """Skip blanks, comments and continued lines; newlines as well if asked to."""
        while True:
            blank = self.match(_BLANK)
            assert blank is not None
            self.at = blank.end()
            if self.text[self.at:self.at + 1] != "\n" or not lines:
                return
            self.at += 1
            self._skip_documents()

    def _skip_documents(self) -> None:
        for end, is_indented in self.documents:
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                stop = len(self.text) if stop < 0 else stop
                line = self.text[self.at:stop]
                self.at = stop + 1
                if (line.lstrip("\t") if is_indented else line) == end:
                    break
        self.documents = []

    def peek(self) -> str:
        """The operator here; else the next character; empty at the end."""
        for operator in OPERATORS:
            if self.text.startswith(operator, self.at):
                return operator
        return self.text[self.at:self.at + 1]

    def reserved(self) -> str:
        """The plain word here, which may be a reserved one."""
        word = self.match(_RESERVED)
        return word[0] if word else ""

    def keyword(self, word: str) -> None:
        self.blanks(lines=True)
        if self.reserved() != word:
            raise NotShell(f"no `{word}` before {self.text[self.at:self.at + 20]!r}")
        self.at += len(word)

    def expect(self, operator: str) -> None:
        self.blanks(lines=True)
        if self.peek() != operator:
            raise NotShell(f"no `{operator}` before {self.text[self.at:self.at + 20]!r}")
        self.at += len(operator)

"""A command of MLproject as bash reads it -> where its last command line ends.

Options are appended to a command. Put behind its text, they would fall into a comment or after a
`;`, or spoil the end of a here-document. This follows quotes, comments and here-documents; what it
does not know (`$(…)` over several lines, `case`) it takes as plain words.

In every image too, as toolchain.spec is: standard library only.
"""

from __future__ import annotations

import re

_HERE = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([^\s;&|<>()'\"\\]+))")


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


def _end(command: str) -> int:
    """Where the last command line's last word ends; the length of the text if that is unclear."""
    end, position, quote = 0, 0, ""
    pending: list[tuple[str, bool]] = []
    while position < len(command):
        letter = command[position]
        if quote:
            if letter == "\\" and quote == '"':
                position += 1
            elif letter == quote:
                quote = ""
        elif letter == "\\":
            position += 1
            if command[position:position + 1] == "\n":
                position += 1
                continue  # the line goes on
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (position == 0 or command[position - 1] in " \t\n;&|()"):
            newline = command.find("\n", position)
            position = len(command) if newline < 0 else newline
            continue
        elif letter == "\n":
            position = _after_documents(command, position + 1, pending)
            continue
        elif command.startswith("<<<", position):
            position += 2
        elif letter == "<" and (here := _HERE.match(command, position)):
            pending.append((here[2] or here[3] or here[4], bool(here[1])))
            position = here.end()
            end = position
            continue
        elif letter.isspace() or _is_separator(command, position):
            position += 1
            continue
        position += 1
        end = position
    return len(command) if quote or not end else min(end, len(command))


def _is_separator(command: str, position: int) -> bool:
    """Whether a `;` or `&` here ends a command, rather than being part of `&&`, `>&2` or `;;`."""
    letter = command[position]
    if letter == ";":
        return command[position - 1:position] != ";" and command[position + 1:position + 2] != ";"
    return (letter == "&" and command[position - 1:position] not in ("&", ">", "<")
            and command[position + 1:position + 2] not in ("&", ">"))


def _after_documents(command: str, position: int, pending: list[tuple[str, bool]]) -> int:
    """Where reading goes on after the here-documents that a line announced."""
    while pending:
        word, tabs = pending.pop(0)
        end = re.compile(f"^{chr(9) + '*' if tabs else ''}{re.escape(word)}$", re.MULTILINE
                         ).search(command, position)
        if end is not None:  # else it was none: `$((1 << 2))`
            position = min(end.end() + 1, len(command))
    return position

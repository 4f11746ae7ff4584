"""A command's `{name}` -> references to variables, which bash takes as one literal word.

Rule 1: a reference is written as its surroundings want it: `"${V}"` among words, `${V}` within
double quotes and here-documents. In a here-document whose end is quoted (`<<'END'`) bash expands
nothing: the quotes are taken off, and the body is escaped, so that it stays what it was.
Rule 2: a context that toolchain.spec.commandline does not follow may split a value, never run it.
Rule 3: `{{` and `}}` are one brace where MLflow, which uses str.format, takes the command. A
command at which it fails keeps its braces, but for a `{{` with the `}}` that belongs to it.

In every image too, as toolchain.spec is: standard library only.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping

from toolchain.errors import SpecError
from toolchain.spec.commandline import ANSI, DOCUMENT, LITERAL, Document, read

# A parameter's name: what str.format takes in braces, and MLflow takes into a run.
NAME = r"\w(?:[\w./ -]*[\w./-])?"
# A backslash takes its letter along, but for a double brace, which is no letter of the shell's.
_TOKEN = re.compile(
    rf"\\(?!\{{\{{|\}}\}}).|\$\{{(?!\{{)|\{{({NAME})\}}|\{{\{{|\}}\}}|\{{|\}}", re.DOTALL)
_REFERENCE = {'"': "{}", "'": "'\"{}\"'", ANSI: "'\"{}\"$'", DOCUMENT: "{}", LITERAL: "{}"}
_IN_WORDS = '"{}"'
_EXPANDED = re.compile(r"[\\$`]")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def substitute(template: str, variables: Mapping[str, str]) -> str:
    """Replace `{name}` by a reference to its variable; leave all other braces.

    `{{` and `}}` are one brace, as in MLflow's str.format; `${NAME}` is the shell's.
    """
    reading = read(template)
    # Where a replacement begins -> where it ends, and its text.
    edits = {start: (start + 2, brace) for start, brace in _doubled(template, variables)}
    for start, stop, name in _named(template, variables):
        reference = _REFERENCE.get(reading.contexts[start], _IN_WORDS)
        edits[start] = stop, reference.format(f"${{{variables[name]}}}")
    for document in _literal(template, variables):
        edits.update(_expanding(template, document))
    pieces, position = [], 0
    for start, (stop, text) in sorted(edits.items()):
        pieces += [template[position:start], text]
        position = stop
    return "".join([*pieces, template[position:]])


def refuse_backticks(command: str, names: Mapping[str, object], where: str) -> None:
    """Raise SpecError for a placeholder in a quoted here-document within backticks."""
    if any(document.backticks for document in _literal(command, dict.fromkeys(names, ""))):
        raise SpecError("a placeholder is in a here-document with a quoted end, within backticks",
                        where=where, fix="write $(…) in place of the backticks, or the "
                                         "here-document's end without quotes")


def _named(template: str, variables: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    for token in _TOKEN.finditer(template):
        if token[1] is not None and token[1] in variables:
            yield token.start(), token.end(), token[1]


def _literal(template: str, variables: Mapping[str, str]) -> list[Document]:
    """The here-documents that hold a placeholder where bash expands nothing."""
    if "<<" not in template:  # nearly always; reading a command takes its time
        return []
    places = [start for start, _, _ in _named(template, variables)]
    return [document for document in read(template).documents
            if document.literal and any(start in range(*document.body) for start in places)]


def _expanding(template: str, document: Document) -> Iterator[tuple[int, tuple[int, str]]]:
    """What makes a document one in which bash expands variables, and nothing that it held."""
    word = document.word if _WORD.fullmatch(document.word) else next(
        name for number in range(len(template) + 1)
        if (name := f"TOOLCHAIN_END_{number}") not in template)
    yield document.operator[0], (document.operator[1], f"<<{'-' if document.tabs else ''}{word}")
    yield document.last[0], (document.last[1], word)
    for found in _EXPANDED.finditer(template, *document.body):
        yield found.start(), (found.end(), f"\\{found[0]}")


def _doubled(template: str, variables: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """The double braces that stand for one, and where they are."""
    everywhere = _is_formatted(template, variables)
    is_open: list[tuple[int, str]] = []
    position = 0
    while token := _TOKEN.search(template, position):
        start, text, position = token.start(), token[0], token.end()
        if everywhere and text in ("{{", "}}"):
            yield start, text[0]
        elif text in ("{{", "{", "${"):
            is_open.append((start, text))
        elif text == "}}" and is_open and is_open[-1][1] == "{{":
            yield is_open.pop()[0], "{"
            yield start, "}"
        elif text in ("}}", "}"):
            position = start + 1
            if is_open and is_open[-1][1] != "{{":
                is_open.pop()


def _is_formatted(template: str, variables: Mapping[str, str]) -> bool:
    """Whether str.format takes it, as MLflow wants, with these names alone."""
    try:
        return all(name is None or (name in variables and not form and not conversion)
                   for _, name, form, conversion in string.Formatter().parse(template))
    except ValueError:
        return False

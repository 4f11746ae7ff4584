"""A shell script as data: what `toolchain.layer.shell.parser` reads.

Source: POSIX, Shell & Utilities, chapter 2.
"""

from __future__ import annotations

from toolchain.values import dataclass


class NotShell(ValueError):
    """The text cannot be read as a shell script."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`; `default` is what stands for it if it is empty (`${name:-default}`).

    operator: `:-` or `:=`, which assigns the default; without `:`, if it is not set.
    """

    name: str
    quoted: bool
    default: Word | None = None
    operator: str = ":-"


@dataclass(frozen=True, slots=True)
class Output:
    """`$(body)`."""

    body: Body
    quoted: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """An expansion that is not read, such as `$((1 + 1))`."""

    quoted: bool


Part = Text | Variable | Output | Unknown
Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Simple:
    """`NAME=value ... command argument ...`. is_mute: whether its output goes elsewhere."""

    assigned: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    is_mute: bool


@dataclass(frozen=True, slots=True)
class If:
    branches: tuple[tuple[Body, Body], ...]
    otherwise: Body


@dataclass(frozen=True, slots=True)
class For:
    name: str
    words: tuple[Word, ...]
    body: Body


@dataclass(frozen=True, slots=True)
class While:
    """is_until: whether it goes on for as long as the condition is false."""

    condition: Body
    body: Body
    is_until: bool


@dataclass(frozen=True, slots=True)
class Case:
    word: Word
    branches: tuple[tuple[tuple[Word, ...], Body], ...]


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Command


@dataclass(frozen=True, slots=True)
class Group:
    """`{ ...; }`, or `( ... )`, whose assignments stay inside."""

    body: Body
    is_subshell: bool
    is_mute: bool = False


@dataclass(frozen=True, slots=True)
class Background:
    """`... &`."""

    body: Body


Command = Simple | If | For | While | Case | Function | Group | Background


@dataclass(frozen=True, slots=True)
class Pipeline:
    commands: tuple[Command, ...]
    is_negated: bool


@dataclass(frozen=True, slots=True)
class AndOr:
    """Pipelines, each but the first with what stands before it: `&&` or `||`."""

    first: Pipeline
    rest: tuple[tuple[str, Pipeline], ...]


Body = tuple[AndOr, ...]

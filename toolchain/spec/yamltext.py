"""YAML text -> Located: values that know their line, so that errors can name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Union

from toolchain.errors import SpecError
from toolchain.values import dataclass

_MOST_NODES = 100_000
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value. `text` is a scalar as written (`3.10` stays `3.10`); `line` counts from 1.
    doubles: of a whole document, keys that a mapping has twice, each with its line."""

    value: Union[dict[str, Located], list[Located], Any]
    line: int
    text: str = ""
    doubles: tuple[tuple[str, int], ...] = ()

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def texts(self) -> Any:
        """As `plain`, but a number or a date is the text that was written."""
        if isinstance(self.value, dict):
            return {key: item.texts() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.texts() for item in self.value]
        return self.value if self.value is None or isinstance(self.value, bool) else self.text


def load(text: str, where: str) -> Located:
    """Parse one YAML document. Raises SpecError with file, line and column.

    Aliases and merge keys are expanded up to a bound, so that a small file cannot become a huge
    value.
    """
    import yaml

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = None
    try:
        _refuse_depth(yaml.parse(text, loader_class), where)
        loader = loader_class(text)
        node = loader.get_single_node()
        if node is None:
            raise SpecError("the file is empty", where=where,
                            fix="write what belongs there, or take the file away")
        reading = _Reading(loader, where)
        return replace(reading.convert(node, 0), doubles=tuple(dict.fromkeys(reading.doubles)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(
            f"not valid YAML: {error.problem}", where=_place(where, mark) if mark else where,
            fix=_remedy(text, mark),
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"not valid YAML: {error}".split("\n")[0], where=where,
                        fix="take the character out, or save the file as UTF-8") from None
    finally:
        if loader is not None:
            loader.dispose()


def _remedy(text: str, mark: Any) -> str:
    lines = text.splitlines()
    found = lines[mark.line][mark.column:] if mark and mark.line < len(lines) else ""
    if found.startswith("\t"):
        return "indent with blanks: a tab is no indentation in YAML"
    return "look there and just before it, at quotes, brackets and indentation"


def _refuse_depth(events: Iterable[Any], where: str) -> None:
    # The C composer calls itself for each level: enough of them overflow the stack, which no
    # exception tells.
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise _too_large(where, event)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reading:
    """One document on its way to a Located."""

    def __init__(self, loader: Any, where: str) -> None:
        self._loader = loader
        self._where = where
        self._left = _MOST_NODES
        self.doubles: list[tuple[str, int]] = []

    def convert(self, node: Any, depth: int) -> Located:
        import yaml

        self._spend(node, depth)
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Located] = {}
            self._note_doubles(node)
            for key, value in self._pairs(node, depth):
                if not isinstance(key, yaml.ScalarNode):
                    raise SpecError("a key is not a scalar", where=f"{self._where}:{line}",
                                    fix="write keys as plain words, as in `name: …`")
                mapping[str(key.value)] = self.convert(value, depth + 1)
            return Located(mapping, line)
        if isinstance(node, yaml.SequenceNode):
            return Located([self.convert(item, depth + 1) for item in node.value], line)
        try:
            return Located(self._loader.construct_object(node), line, node.value)
        except (yaml.constructor.ConstructorError, ValueError, KeyError, IndexError,
                AttributeError, TypeError):
            # A tag or a shape that promises a number or a date, and a text that is none.
            kind = node.tag.rpartition(":")[2]
            raise SpecError(f"not valid YAML: no {kind}: {node.value!r}",
                            where=_place(self._where, node.start_mark),
                            fix="write another value, or put it in quotes if it is text") from None

    def _note_doubles(self, node: Any) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    self.doubles.append((key.value, key.start_mark.line + 1))
                seen.add(key.value)

    def _pairs(self, node: Any, depth: int) -> Iterator[tuple[Any, Any]]:
        """The pairs of a mapping, the stronger later: those that `<<` merges come first."""
        import yaml

        # PyYAML's own flatten_mapping makes the whole of a merge before anyone can count it.
        own = []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
                continue
            several = isinstance(value, yaml.SequenceNode)
            for merged in reversed(value.value) if several else [value]:
                if not isinstance(merged, yaml.MappingNode):
                    raise SpecError("`<<` merges mappings only",
                                    where=_place(self._where, merged.start_mark),
                                    fix="name a mapping, as in `<<: *defaults`")
                self._spend(merged, depth + 1)
                yield from self._pairs(merged, depth + 1)
        yield from own

    def _spend(self, node: Any, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise _too_large(self._where, node)


def _too_large(where: str, at: Any) -> SpecError:
    return SpecError("the YAML is too large or too deep", where=f"{where}:{at.start_mark.line + 1}",
                     fix="write it without aliases, or make it smaller")


def _place(where: str, mark: Any) -> str:
    return f"{where}:{mark.line + 1}:{mark.column + 1}"


def canonical(value: Any) -> str:
    """One YAML text for one value, with sorted keys: what PyYAML's safe_dump writes."""
    try:
        return "".join(_block(value, "")) if value and isinstance(value, (dict, list)) else (
            _dumped(value))
    except _NotSimple:
        return _dumped(value)


# PyYAML takes ten times as long for the same text. These scalars look in a block as they are.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./=<>{}+-]*(?: [A-Za-z0-9_./=<>{}+-]+)*")
# What PyYAML and others take for something else than text.
WORDS = frozenset({"yes", "no", "true", "false", "on", "off", "null", "y", "n"})
_LONGEST_KEY = 100


class _NotSimple(Exception):
    """Something in a value has a look that depends on where it stands."""


def _block(value: Any, indent: str) -> Iterator[str]:
    """Lines of a mapping or list that is not empty."""
    if isinstance(value, dict):
        for key in sorted(value):
            if len(key) > _LONGEST_KEY or not _is_plain(key):
                raise _NotSimple
            item = value[key]
            if item and isinstance(item, (dict, list)):
                yield f"{indent}{key}:\n"
                # A list stands as far out as its key.
                yield from _block(item, f"{indent}  " if isinstance(item, dict) else indent)
            else:
                yield f"{indent}{key}: {_scalar(item)}\n"
        return
    for item in value:
        if item and isinstance(item, (dict, list)):
            first, *rest = _block(item, f"{indent}  ")
            yield f"{indent}- {first[len(indent) + 2:]}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(item)}\n"


def _is_plain(text: str) -> bool:
    return bool(_PLAIN.fullmatch(text)) and text.lower() not in WORDS


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _is_plain(value):
            return value
        if "\n" in value or not value.isascii():
            raise _NotSimple
        return _dumped_line(value)
    if isinstance(value, (dict, list)):
        return "[]" if isinstance(value, list) else "{}"
    if isinstance(value, set):  # `!!set` without content
        raise _NotSimple
    if isinstance(value, float):  # 0.0 and -0.0 are equal, and are two texts
        return _dumped_line.__wrapped__(value)
    return _dumped_line(value)


@lru_cache(maxsize=512, typed=True)
def _dumped_line(value: Any) -> str:
    text = _dumped(value).removesuffix("...\n").removesuffix("\n")
    if "\n" in text or text[:1] in ("!", "|", ">", "?"):
        raise _NotSimple
    return text


def _dumped(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=1 << 20)
    return text

"""YAML text -> Located: values that know their line, so that errors can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from toolchain.errors import SpecError

_MOST_NODES = 100_000
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value. `text` is a scalar as written (`3.10` stays `3.10`); `line` counts from 1."""

    value: Union[dict[str, Located], list[Located], Any]
    line: int
    text: str = ""

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def load(text: str, where: str) -> Located:
    """Parse one YAML document. Raises SpecError with file, line and column.

    Aliases are expanded up to a bound, so that a small file cannot become a huge value.
    """
    import yaml

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise SpecError("the file is empty", where=where,
                            fix="write what belongs there, or take the file away")
        return _convert(loader, node, where, [_MOST_NODES], 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise SpecError(f"not valid YAML: {error.problem}", where=place) from None
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML: {error}".split("\n")[0], where=where) from None
    except ValueError as error:  # for example 2001-99-99, which looks like a date
        raise SpecError(f"not valid YAML: {error}", where=where) from None
    finally:
        loader.dispose()


def _convert(loader: Any, node: Any, where: str, budget: list[int], depth: int) -> Located:
    import yaml

    line = node.start_mark.line + 1
    budget[0] -= 1
    if budget[0] < 0 or depth > _DEEPEST:
        raise SpecError("the YAML is too large or too deep", where=f"{where}:{line}")
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        mapping: dict[str, Located] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError("a key is not a scalar", where=f"{where}:{line}")
            mapping[str(key.value)] = _convert(loader, value, where, budget, depth + 1)
        return Located(mapping, line)
    if isinstance(node, yaml.SequenceNode):
        items = [_convert(loader, item, where, budget, depth + 1) for item in node.value]
        return Located(items, line)
    try:
        return Located(loader.construct_object(node), line, node.value)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        # A tag or a shape that promises a number or a date, and a text that is none.
        raise SpecError(f"not valid YAML: {node.value!r} is not what its form or tag promises",
                        where=f"{where}:{line}", fix="put it in quotes") from None


def canonical(value: Any) -> str:
    """One YAML text for one value, with sorted keys."""
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=1 << 20)
    return text

"""A parsed TOML or YAML file -> one that is nearly right: well-formed, but for what it says.

Changes at random in a text are mostly refused by the reader of its format. These are made in the
tables instead: values of another kind, values of another place, texts changed a little, tables
twice, keys under other names that mean something.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from tests.fuzz.mutation import Mutator

_HOW_MANY = (1, 1, 1, 2, 3, 6)


class Reshaper:
    """Makes values of the seeds. `texts` are worth being a value, by key; those under the empty key
    anywhere. `odd` are values of any kind. `keys`: names that a table may have."""

    def __init__(self, seeds: Sequence[Mapping[str, Any]], *, texts: Mapping[str, Sequence[Any]],
                 odd: Sequence[Any], keys: Sequence[str], words: Sequence[str]) -> None:
        self._seeds = seeds
        self._texts = texts
        self._odd = odd
        self._keys = keys
        self._words = words

    def make(self, chance: random.Random) -> dict[str, Any]:
        value = deepcopy(dict(chance.choice(self._seeds)))
        for _ in range(chance.choice(_HOW_MANY)):
            found = list(places(value))
            if not found:
                break
            self._change(*chance.choice(found), found, chance)
        return value

    def _change(self, holder: Any, key: Any, around: list[tuple[Any, Any]],
                chance: random.Random) -> None:
        how = chance.random()
        if how < 0.45:
            holder[key] = self._other(key, holder[key], chance)
        elif how < 0.55:
            del holder[key]
        elif how < 0.65:
            holder[key] = deepcopy(chance.choice(self._odd))
        elif how < 0.75:
            other, at = chance.choice(around)
            holder[key] = deepcopy(other[at])
        elif isinstance(holder, list):
            holder.insert(chance.randrange(len(holder) + 1), deepcopy(holder[key]))
        elif how < 0.9:
            name = chance.choice(self._keys)
            holder[name] = self._other(name, holder.get(name, ""), chance)
        else:
            holder[chance.choice(self._keys)] = holder.pop(key)

    def _other(self, key: Any, value: Any, chance: random.Random) -> Any:
        known = self._texts.get(key, ()) if isinstance(key, str) else ()
        if known and chance.random() < 0.6:
            return deepcopy(chance.choice(known))
        if isinstance(value, str) and chance.random() < 0.7:
            text = Mutator((value, *map(str, self._texts[""])), self._words).make(chance)
            return text.encode("utf-8", "replace").decode()
        return deepcopy(chance.choice(self._texts[""]))


def places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += places(value[key])
    return found

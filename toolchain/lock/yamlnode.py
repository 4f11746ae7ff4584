"""Located -> Node: a value in a lock that knows its place, so that a wrong shape is named."""

from __future__ import annotations

import re
from dataclasses import replace

from toolchain.errors import ResolveError, without_credentials
from toolchain.spec.yamltext import Located
from toolchain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`where` is the file, `path` the way to the value in it; `what` and `fix` are for all of the
    file's faults. Each method raises ResolveError for a value of another shape."""

    value: Located
    where: str
    path: str
    what: str
    fix: str

    def bad(self, what: str) -> ResolveError:
        """What is wrong with this value."""
        where = f"{self.where}:{self.value.line}"
        return ResolveError(f"{self.what}: {without_credentials(what)}", fix=self.fix,
                            where=f"{where}, {self.path}" if self.path else where)

    def keys(self) -> list[str]:
        return list(self._mapping())

    def has(self, key: str) -> bool:
        return key in self._mapping()

    def get(self, key: str) -> Node:
        found = self._mapping()
        if key not in found:
            raise self.bad(f"{key} is missing")
        return self._inside(found[key], f".{key}" if self.path else key)

    def items(self) -> list[Node]:
        if not isinstance(self.value.value, list):
            raise self.bad("this is no list")
        return [self._inside(item, f"[{number}]") for number, item in enumerate(self.value.value)]

    def text(self) -> str:
        """A scalar as it is written."""
        if isinstance(self.value.value, (dict, list)) or self.value.value is None:
            raise self.bad("this is no text")
        return self.value.text

    def number(self) -> int:
        text = self.text()
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise self.bad(f"this is no number: {text[:40]}")
        return int(text)

    def text_of(self, key: str, default: str) -> str:
        return self.get(key).text() if self.has(key) else default

    def texts_of(self, key: str) -> list[str]:
        """The texts in a list; none where the key is not there."""
        return [item.text() for item in self.get(key).items()] if self.has(key) else []

    def _mapping(self) -> dict[str, Located]:
        if not isinstance(self.value.value, dict):
            raise self.bad("this is no mapping")
        return self.value.value

    def _inside(self, value: Located, step: str) -> Node:
        return replace(self, value=value, path=f"{self.path}{step}")

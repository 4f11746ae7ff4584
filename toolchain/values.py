"""`dataclass` for classes that a call makes at its start, every time.

The standard library's writes and compiles six functions for each class, and four more if it has
an order; a call of a quarter of a second makes forty classes. Here `__init__` alone is compiled,
and the other methods are code that all classes share. What they do is the same, and so are fields,
`replace` and matching (docs/decisions/0031-value-classes.md).

Trap: `frozen` is checked by the type checker and by nothing at run time.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar, cast

_T = TypeVar("_T")
_ORDER = {"__lt__": operator.lt, "__le__": operator.le, "__gt__": operator.gt,
          "__ge__": operator.ge}


def _dataclass(*, frozen: bool = False, order: bool = False, **options: bool,
               ) -> Callable[[type[_T]], type[_T]]:
    def decorate(cls: type[_T]) -> type[_T]:
        cls.__doc__ = cls.__doc__ or cls.__name__  # else made of a signature, at some cost
        made = dataclasses.dataclass(repr=False, eq=False, **options)(cls)
        fields = dataclasses.fields(cast("type[DataclassInstance]", made))
        content = _content([field.name for field in fields if field.compare])
        methods = {"__eq__": _comparison(operator.eq, content),
                   "__hash__": _hash(content) if frozen else None,
                   "__repr__": _repr([field.name for field in fields if field.repr])}
        if order:
            methods |= {name: _comparison(with_, content) for name, with_ in _ORDER.items()}
        for name, method in methods.items():
            if name not in cls.__dict__:
                setattr(made, name, method)
        return made

    return decorate


def _content(names: list[str]) -> Callable[[object], Any]:
    """What an instance is told apart by."""
    return operator.attrgetter(*names) if names else lambda _: ()


def _comparison(of: Callable[[Any, Any], Any], content: Callable[[object], Any],
                ) -> Callable[[object, object], Any]:
    def method(self: object, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return of(content(self), content(other))

    return method


def _hash(content: Callable[[object], Any]) -> Callable[[object], int]:
    return lambda self: hash(content(self))


def _repr(names: list[str]) -> Callable[[object], str]:
    @recursive_repr()
    def method(self: object) -> str:
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({inner})"

    return method


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass

    from _typeshed import DataclassInstance
else:
    dataclass = _dataclass

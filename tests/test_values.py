"""`toolchain.values.dataclass` against the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import operator
import pickle
import subprocess
import sys
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest

from toolchain import values

ROOT = Path(__file__).parents[1]


def point(dataclass: Any) -> Any:
    @dataclass(frozen=True, slots=True, kw_only=True, order=True)
    class Point:
        x: int
        y: str = "b"
        note: str = field(default="", compare=False)
        hidden: list[int] = field(default_factory=list, compare=False, repr=False)

    return Point


def single(dataclass: Any) -> Any:
    @dataclass(frozen=True, slots=True, order=True)
    class Single:
        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("below zero")

    return Single


def nothing(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Nothing:
        pass

    return Nothing


def mutable(dataclass: Any) -> Any:
    @dataclass(slots=True)
    class Mutable:
        x: int
        inner: object = None

    return Mutable


@values.dataclass(frozen=True, slots=True)
class Ours:
    x: int
    y: tuple[str, ...] = ()


OPERATORS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


def outcome(what: Any, *arguments: object) -> object:
    try:
        return what(*arguments)
    except TypeError:
        return TypeError


def test_what_is_equal_and_less_is_the_same() -> None:
    samples: list[tuple[Any, dict[str, Any]]] = [
        (point, {"x": x, "y": y, "note": note})
        for x in (1, 2) for y in ("a", "b") for note in ("", "said")]
    samples += [(single, {"x": x}) for x in (0, 1)]
    samples += [(nothing, {})]
    samples += [(mutable, {"x": 1}), (mutable, {"x": 1, "inner": (1, 2)})]
    classes = {(make, of): make(of) for make, _ in samples
               for of in (values.dataclass, dataclasses.dataclass)}
    ours = [classes[make, values.dataclass](**given) for make, given in samples]
    theirs = [classes[make, dataclasses.dataclass](**given) for make, given in samples]
    for one, their_one in zip(ours, theirs, strict=True):
        assert (one == 1) is False
        for other, their_other in zip(ours, theirs, strict=True):
            for compare in OPERATORS:
                assert (outcome(compare, one, other) == outcome(compare, their_one, their_other)), (
                    one, other, compare)


@pytest.mark.parametrize("make", [point, single, nothing, mutable])
def test_it_says_the_same_and_has_the_same_fields(make: Any) -> None:
    ours, theirs = make(values.dataclass), make(dataclasses.dataclass)
    arguments = {} if make is nothing else {"x": 7}
    mine, their = ours(**arguments), theirs(**arguments)
    assert repr(mine) == repr(their)
    assert dataclasses.asdict(mine) == dataclasses.asdict(their)
    assert ours.__match_args__ == theirs.__match_args__
    assert getattr(ours, "__slots__", None) == getattr(theirs, "__slots__", None)
    assert ([(each.name, each.compare, each.repr, each.kw_only)
             for each in dataclasses.fields(ours)]
            == [(each.name, each.compare, each.repr, each.kw_only)
                for each in dataclasses.fields(theirs)])
    assert outcome(ours, 1, 2, 3, 4, 5) is outcome(theirs, 1, 2, 3, 4, 5) is TypeError


def test_equal_values_have_one_hash() -> None:
    ours = point(values.dataclass)
    assert len({ours(x=1), ours(x=1, note="said"), ours(x=2)}) == 2
    assert len({nothing(values.dataclass)()}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(mutable(values.dataclass)(1))


def test_a_value_that_holds_itself_is_shown() -> None:
    made = mutable(values.dataclass)(1)
    made.inner = made
    assert repr(made).endswith("Mutable(x=1, inner=...)")


def test_a_class_keeps_the_methods_of_its_own() -> None:
    @values.dataclass(frozen=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    assert repr(Own(1)) == "mine"
    assert Own(1) == Own(2)
    assert hash(Own(1)) == 5


def test_what_it_is_for_still_works() -> None:
    made = point(values.dataclass)(x=3)
    assert dataclasses.replace(made, y="c") == type(made)(x=3, y="c")
    assert made.hidden == []
    assert made.hidden is not type(made)(x=3).hidden
    assert not hasattr(made, "__dict__")
    with pytest.raises(ValueError, match="below zero"):
        single(values.dataclass)(-1)
    assert pickle.loads(pickle.dumps(Ours(1, ("a",)))) == Ours(1, ("a",))
    assert copy.deepcopy(Ours(1)) == Ours(1)
    match Ours(1, ("a",)):
        case Ours(x, y):
            assert (x, y) == (1, ("a",))


def test_the_type_checker_sees_frozen_fields(tmp_path: Path) -> None:
    source = tmp_path / "use.py"
    source.write_text(
        "from toolchain.values import dataclass\n\n\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Point:\n"
        "    x: int\n\n\n"
        "point = Point(x=1)\n"
        "point.x = 2\n"
        'Point(x="1")\n'
        "Point(1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir",
         tmp_path / "cache", "--config-file=", source], cwd=ROOT, capture_output=True, text=True)
    assert 'use.py:10: error: Property "x" defined in "Point" is read-only' in done.stdout
    assert "use.py:11: error: Argument \"x\"" in done.stdout
    assert "use.py:12: error: Too many positional arguments" in done.stdout

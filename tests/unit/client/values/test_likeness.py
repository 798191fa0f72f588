"""What is plain, and what is the same."""

import re
from collections import OrderedDict, deque
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from sidecard_client.values.likeness import difference_of, fault_of_plain, name_of_kind, slots_of
from tests.typed_values import DAY, NOON, Account, Color, Invoice, Level, Line, Node, OldInvoice, PricedLine, Tree, Word


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([1, "a", None, b"", 1.5, True, {"a": [], 1: {}, b"": 0, None: 1}], None),
        ([1, [2, (3,)]], "[1][1]"),
        ({"a": [{"b": {1}}]}, "['a'][0]['b']"),
        ({Word.YES: 1}, ""),
        ([1, 2**64], "[1]"),
        ([-(2**63), -(2**63) - 1], "[1]"),
        ([0.5, float("nan")], "[1]"),
        (["a", "\ud800"], "[1]"),
        ([b"", "a", 2**70, 1.5], "[2]"),
        ([True, Level.LOW], "[1]"),
        (bytearray(), ""),
        (Word.YES, ""),
    ],
)
def test_the_place_of_what_is_not_plain(value: Any, place: str | None) -> None:
    """The outermost one; None for a plain value."""
    fault = fault_of_plain(value)

    assert (None if fault is None else fault[0]) == place


async def _awaited() -> None:
    pass


async def _pieces() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (_awaited(), "with AsyncClient"),
        (_pieces(), r"stream\(\) of AsyncClient"),
        ((piece for piece in [1]), r"stream\(\)"),
    ],
)
def test_what_a_function_has_not_computed_yet_is_called_otherwise(value: Any, advice: str) -> None:
    """No annotation helps."""
    fault = fault_of_plain([value])
    if isinstance(value, Coroutine):
        value.close()

    assert fault is not None
    assert re.search(f"{advice}", fault[1])
    assert "returns=" not in fault[1]


def test_a_value_that_contains_itself_is_at_fault() -> None:
    """Also if it does so twice, which doubles its parts at each level."""
    endless: list[Any] = []
    endless += [endless, endless]
    fault = fault_of_plain({"a": endless})

    assert fault is not None
    assert "contains itself" in fault[1]


def _changed(value: Any, **attributes: Any) -> Any:
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)

    return value


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (1, True, ""),
        (1, 1.0, ""),
        (0.0, -0.0, ""),
        ([1, 2], [1, 2.0], "[1]"),
        ([1.0, 0.0], [1.0, -0.0], "[1]"),
        ((1,), [1], ""),
        ({"a": [1]}, {"a": [True]}, "['a'][0]"),
        ({1: 0}, {True: 0}, ""),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ""),
        ({1, 2}, {1, 3}, ""),
        ({1}, {True}, ""),
        (deque([1], 2), deque([1], 3), ""),
        (OrderedDict(a=1), {"a": 1}, ""),
        (Line(text="a"), PricedLine(text="a"), ""),
        (Line(text="a"), Line(text="a", cents=0), ".__pydantic_fields_set__"),
        (Invoice(Total=1), _changed(Invoice(Total=1), any=1), ".any"),  # type: ignore[arg-type]
        (OldInvoice(number=1), OldInvoice(number=1, issued=OldInvoice(number=1).issued), ".__fields_set__"),
        (Tree(("a", 1)), Tree(("a", True)), ".label[1]"),
        (Node(at=(1, "a")), Node(at=(1, "b")), ".at[1]"),
        (Account("1", DAY), Account("1"), ".opened"),
        (NOON, NOON.replace(fold=1), ""),
        (NOON.replace(tzinfo=UTC), datetime(2026, 1, 2, 13, 0, 0, 250, timezone(timedelta(hours=1))), ""),
        (NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=timezone(timedelta(0), "GMT")), ""),
        (np.arange(2), np.arange(2.0), ""),
        (np.arange(2), np.arange(3), ""),
        (Color.RED, Color.GREEN, ""),
    ],
)
def test_the_place_of_a_difference(one: Any, other: Any, place: str) -> None:
    """In type, content, order, zone, or what is set, which Python's equality does not all see."""
    difference = difference_of(one, other)

    assert difference is not None
    assert difference[0].startswith(place)
    assert difference_of(one, one) is None


def test_private_attributes_are_compared() -> None:
    """They are not in a model's fields."""
    difference = difference_of(Invoice(Total=1), _changed(Invoice(Total=1), __pydantic_private__={"_seen": 1}))  # type: ignore[arg-type]

    assert difference is not None
    assert difference[0].startswith(".__pydantic_private__")


def test_names_and_slots() -> None:
    """Python's own classes have no module; slots are those of all bases."""
    assert [name_of_kind(kind) for kind in (int, datetime)] == ["int", "datetime.datetime"]
    assert slots_of(Tree) == ("label", "left", "right")
    assert slots_of(type("Single", (), {"__slots__": "only"})) == ("only",)

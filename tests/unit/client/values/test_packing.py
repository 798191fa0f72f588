from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.values.codec import unpack_value
from sidecard_client.values.packing import pack_value


@dataclass
class Answer:
    """Something with fields."""

    text: str = "x"


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped kind is what is tested


@pytest.mark.parametrize(
    "value",
    ["text", "", b"\x00\xff", None, True, 0, -(2**63), 2**64 - 1, 0.1, [], [1, [2.5, None]], {"a": {"b": []}}, {1: 2}],
)
def test_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    """Every type that msgpack has decodes to an equal value."""
    back = unpack_value(pack_value(value))

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [(1, 2), [(1, 2)], Answer(), Pair(1, 2), {1, 2}, float("nan"), 2**64, object(), {"a": Answer()}, "\ud800", 1j],
)
def test_a_value_that_would_decode_to_another_is_refused(value: Any) -> None:
    """A caller that shares gets the holder's value, or makes its own call."""
    with pytest.raises(UnshareableValue, match=r"^The value is not shared: value\b.* (is|has) "):
        pack_value(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Endless nesting is an error, not a crash."""
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(UnshareableValue):
        pack_value(endless)


def test_deeply_nested_value_is_refused_with_advice() -> None:
    """A value nested deeper than small stacks can decode is refused, whatever its size, and so is a cycle."""
    nest: object = "x"
    for _ in range(10_000):
        nest = [nest]

    cycle: list[object] = []
    cycle.append(cycle)
    for value in (nest, {"k": nest}, cycle):
        with pytest.raises(UnshareableValue, match=r"nested more than 64 deep.*flatter"):
            pack_value(value)

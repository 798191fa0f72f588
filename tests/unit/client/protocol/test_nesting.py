"""How deep values may nest, found without recursion and without decoding."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard_client.protocol.nesting import MAX_DEPTH, MAX_STEPS, nesting_problem, nests_too_deep

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from(["x" * 300, "é" * 70_000, b"\x91" * 300, b"\x91" * 70_000, [0.5] * 40, [1] * 70_000])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner, max_size=20)
)


def depth_of(value: Any) -> int:
    """Count levels by recursion; an empty list or map at the bottom is a part like others."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + max(map(depth_of, parts)) if parts else 0


@settings(deadline=None)  # hosts are slow at times
@given(VALUES, st.integers(0, 5))
def test_depth_agrees_with_recursion(value: Any, limit: int) -> None:
    """A value is too deep exactly if a recursive count finds it to be; an examined empty list at the limit may be either."""
    depth, packed = depth_of(value), msgspec.msgpack.encode(value)
    assert (nesting_problem(packed, limit) is None) == (depth <= limit)


@pytest.mark.parametrize(
    "head", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\x81\xa1k", b"\xde\x00\x01\xa1k"]
)
@pytest.mark.parametrize("beside", [b"", b"\xcb01234567" * 3, b"\xd9\x03abc" * 3, b"\xc7\x02\x01ab" * 3])
def test_limit_is_exact_in_each_form(head: bytes, beside: bytes) -> None:
    """The limit is exact for each form of a list's or map's header, whatever precedes the nest."""
    count = 1 + (3 if beside else 0)
    for depth, problem in ((MAX_DEPTH - 1, False), (MAX_DEPTH, True)):
        value = bytes((0x90 | count,)) + beside + head * depth + b"\x01"
        assert (nesting_problem(value) is not None) is problem


def test_many_bytes_like_headers_do_not_count() -> None:
    """Numbers and texts whose bytes look like headers are no nesting."""
    assert nesting_problem(msgspec.msgpack.encode([b"\x91" * 500, "é" * 500, [-1e-9] * 5000])) is None


def test_number_of_examined_parts_is_bounded() -> None:
    """A value of millions of tiny lists is refused instead of examined for seconds."""
    many = MAX_STEPS + 1
    assert (
        nesting_problem(b"\xdd" + many.to_bytes(4, "big") + b"\x91\x01" * many) == f"it has more than {MAX_STEPS} parts"
    )


@pytest.mark.parametrize(
    "value", [b"\x91" * 100, b"\xdd\xff\xff\xff\xff" + b"\x91\xcb" * 99, b"\x92" * 63 + b"\x91\x01" * 40]
)
def test_malformed_bytes_raise_nothing(value: bytes) -> None:
    """A value that ends too early or too late has a problem."""
    assert nesting_problem(value) is not None


def test_objects_are_judged_before_they_are_encoded() -> None:
    """Depth of an object is judged level by level: cycles and lists that double at each level end."""
    nest: Any = "x"
    for _ in range(MAX_DEPTH):
        nest = [nest]

    cycle: list[Any] = []
    cycle.append(cycle)
    doubling: Any = "x"
    for _ in range(MAX_DEPTH):
        doubling = {"a": doubling, "b": (doubling, 1)}

    assert not nests_too_deep(nest)
    assert nests_too_deep({"k": nest})
    assert nests_too_deep(cycle)
    assert nests_too_deep(doubling)
    assert not nests_too_deep([1.0] * 1000)

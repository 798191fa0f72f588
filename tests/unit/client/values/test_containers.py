"""Lists, tuples, sets and dicts of typed parts."""

from collections import Counter, OrderedDict, deque
from datetime import date
from typing import Any, NamedTuple

import pytest

from sidecard_client.values.building import Builder
from sidecard_client.values.forms import Misfit
from tests.typed_values import DAY, Order, Point, Word


def form_of(annotation: Any) -> Any:
    """Build a form."""
    return Builder().form(annotation)


@pytest.mark.parametrize(
    ("annotation", "value", "plain"),
    [
        (tuple[int, ...], (1, 2), [1, 2]),
        (list[date], [DAY], ["2026-01-02"]),
        (dict[str, date], {"a": DAY}, {"a": "2026-01-02"}),
        (dict[date, str], {DAY: "a"}, [["2026-01-02", "a"]]),
        (dict[Word, int], {Word.YES: 1}, [["YES", 1]]),
        (deque[date], deque([DAY], 2), [["2026-01-02"], 2]),
        (Counter[str], Counter("aa"), {"a": 2}),
        (OrderedDict[str, date], OrderedDict(b=DAY), {"b": "2026-01-02"}),
        (Point, Point(1, DAY), [1, "2026-01-02"]),
        (Order, {"number": 1, "day": DAY, "more": 2}, {"number": 1, "day": "2026-01-02", "more": 2}),
    ],
)
def test_the_plain_form(annotation: Any, value: Any, plain: Any) -> None:
    """It has neither more nor less than the parts."""
    form = form_of(annotation)

    assert form.to_plain(value) == plain
    assert form.from_plain(plain) == value


class Tight(NamedTuple):
    """A named tuple."""

    x: int


class Loose(Tight):
    """One whose instances may have attributes."""


class Tagged(OrderedDict[str, int]):
    """A dict whose instances may have attributes."""


def _with_attribute(value: Any) -> Any:
    value.tag = 1
    return value


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (Loose, _with_attribute(Loose(1)), "attributes beside its items"),
        (OrderedDict[str, int], _with_attribute(OrderedDict(a=1)), "attributes beside its entries"),
        (
            OrderedDict[str, int],
            OrderedDict[str, int](a=1),
            "__orig_class__ is set by collections.OrderedDict[str, int]",
        ),
        (tuple[int, str], (1, "a", 2), "has 3 items, and the annotation 2"),
        (tuple[int, ...], [1], "is of type list, not tuple"),
        (set[date], frozenset({DAY}), "is of type frozenset, not set"),
        (dict[str, date], {1.5: DAY, (1,): DAY}, "has a key of type tuple"),
        (dict[date, str], {"a": "b"}, "has a key that is of type str, not datetime.date"),
        (Order, {1: 2}, "has a key that is not a str"),
        (Order, OrderedDict(number=1), "is of type collections.OrderedDict, not dict"),
    ],
)
def test_what_would_be_lost_is_refused(annotation: Any, value: Any, problem: str) -> None:
    """Attributes of containers, missing and additional items, other classes."""
    with pytest.raises(Misfit) as caught:
        form_of(annotation).to_plain(value)

    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "annotation", [tuple[int, ...], tuple[int, str], dict[str, date], dict[date, str], deque[int], Point]
)
@pytest.mark.parametrize("plain", [None, 1, "ab", {"a": 1, "b": 2, "c": 3}, [1]])
def test_another_plain_form_is_an_error(annotation: Any, plain: Any) -> None:
    """Never a container of something else."""
    if (annotation, plain) == (tuple[int, ...], [1]):
        return

    with pytest.raises((TypeError, ValueError)):
        form_of(annotation).from_plain(plain)


@pytest.mark.parametrize(
    ("annotation", "plain"),
    [
        (deque[date], ["ab", None]),
        (dict[date, date], {"ab": 1}),
        (list[date], {"2026-01-02": 1}),
        (tuple[date, int], "ab"),
        (Order, []),
        (Order, "text"),
    ],
    ids=str,
)
def test_another_container_is_refused(annotation: Any, plain: Any) -> None:
    """Even one that can be iterated over in the same way."""
    with pytest.raises((TypeError, ValueError)):
        form_of(annotation).from_plain(plain)

"""The type of a function's answers, and what annotations mean."""

import functools
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Final, Generic, NewType, NotRequired, Required, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import TypeAliasType

from sidecard_client.values.annotations import (
    Part,
    UnknownAnnotation,
    annotation_of,
    bare,
    hints_of,
    is_plain,
    parameters_of,
    resolved,
)

T = TypeVar("T")
U = TypeVar("U")
Id = NewType("Id", str)
OwnId = NewType("OwnId", Id)


Rows = TypeAliasType("Rows", "list[date]")
Listed = TypeAliasType("Listed", list[T], type_params=(T,))


def plain(_: str) -> str:
    """Answer."""
    return ""


def text(_: str) -> "list[date]":
    """Have a text for an annotation."""
    return []


def nothing(_):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - without annotations
    """Answer."""


def later(_: str) -> Awaitable[tuple[int, str]]:
    """Return an awaitable."""
    raise NotImplementedError


async def coroutine(_: str) -> date:
    """Answer asynchronously."""
    return date(2026, 1, 2)


@functools.lru_cache
def kept(_: str) -> date:
    """Answer once."""
    return date(2026, 1, 2)


class Model:
    """An SDK's client."""

    def __call__(self, _: str) -> date:
        """Answer."""
        return date(2026, 1, 2)

    def method(self, _: str) -> "Model":
        """Answer."""
        return self

    @classmethod
    def of(cls, _: str) -> "Model":
        """Answer."""
        return cls()


@pytest.mark.parametrize(
    ("function", "annotation"),
    [
        (plain, str),
        (text, list[date]),
        (nothing, Any),
        (later, tuple[int, str]),
        (coroutine, date),
        (kept, date),
        (Model(), date),
        (Model().method, Model),
        (Model.of, Model),
        (Model, Model),
        (len, Any),
    ],
)
def test_the_annotation_of_a_function(function: Callable[..., Any], annotation: Any) -> None:
    """Of functions, methods, classes and callable objects; through what wraps them; of what an awaitable returns."""
    assert annotation_of(function, "whole") == annotation


def _returning(annotation: Any) -> Callable[..., Any]:
    def function() -> None:
        """Answer."""

    function.__annotations__["return"] = annotation
    return function


@pytest.mark.parametrize(
    ("annotation", "part", "item"),
    [
        (Iterator[date], "piece", date),
        (AsyncIterator[date], "piece", date),
        (Generator[date, None, str], "piece", date),
        (Coroutine[Any, Any, AsyncIterator[date]], "piece", date),
        (list[date], "piece", date),
        (tuple[date, ...], "piece", date),
        (tuple[date, str], "piece", Any),
        (str, "piece", Any),
        (dict[str, date], "piece", Any),
        (list[tuple[int, str]], "item", tuple[int, str]),
        (Sequence[date], "item", date),
        (NDArray[np.float32], "item", np.ndarray),
        (list[NDArray[np.float32]], "item", NDArray[np.float32]),
        (Rows, "piece", date),
        (Listed[date], "item", date),
        (list, "item", Any),
        (None, "item", Any),
    ],
)
def test_the_type_of_the_parts_of_an_answer(annotation: Any, part: Part, item: Any) -> None:
    """Of a stream's pieces, and of the items of a batch's list."""
    assert annotation_of(_returning(annotation), part) == item


def test_a_class_that_a_function_captures_is_known() -> None:
    """A text may name a class of the function around it."""

    @dataclass
    class Local:
        """A class that no module has."""

        n: int

    def made(n: int) -> "Local":
        return Local(n)

    assert annotation_of(made, "whole") is Local


def test_a_name_that_is_not_defined_is_an_error_that_names_it() -> None:
    """As with imports for type checkers only."""
    for annotation in ("Missing", "list[Missing]", list["Missing"], "1 +"):  # type: ignore[name-defined]  # noqa: F821 - as above
        with pytest.raises(UnknownAnnotation, match=r"Missing|1 \+"):
            annotation_of(_returning(annotation), "whole")

    with pytest.raises(UnknownAnnotation):
        resolved("Missing", {}, {})


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Annotated[date, "x"], date),
        (Annotated[Annotated[date, []], {}], date),
        (NotRequired[Required[date]], date),
        (Final[date], date),
        (Final, Any),
        (OwnId, str),
        (Annotated[OwnId, 1], str),
        (list[Annotated[int, 1]], list[Annotated[int, 1]]),
    ],
)
def test_what_does_not_change_a_type_is_taken_off(annotation: Any, expected: Any) -> None:
    """Metadata, marks of fields, and names for types."""
    assert bare(annotation) == expected


def test_plain_annotations_are_found_whatever_can_be_hashed() -> None:
    """A list in metadata cannot."""
    assert is_plain(str)
    assert is_plain(None)
    assert not is_plain(date)
    assert not is_plain(Annotated[date, []])


class Base(Generic[T, U]):
    """A generic class."""

    first: T
    rest: dict[str, U]


class Half(Base[int, T]):
    """A subclass that fixes one of its parameters."""


class Whole(Half[date]):
    """A subclass that fixes both."""


@pytest.mark.parametrize(
    ("annotation", "first", "rest"),
    [(Base[str, int], str, dict[str, int]), (Half[bytes], int, dict[str, bytes]), (Whole, int, dict[str, date])],
)
def test_the_parameters_of_generic_classes_are_inherited(annotation: Any, first: Any, rest: Any) -> None:
    """Each base's own variables are replaced."""
    assert hints_of(annotation, ("first", "rest")) == {"first": first, "rest": rest}
    assert parameters_of(annotation)[Base] == {T: first, U: typing.get_args(rest)[1]}


def test_a_hint_that_cannot_be_read_does_not_hide_the_others() -> None:
    """It counts as unknown."""

    class Partly:
        """One of its annotations is for type checkers only."""

        known: date
        own: "Partly | None"
        unknown: "Missing"  # type: ignore[name-defined]  # noqa: F821 - what is tested

    assert hints_of(Partly, ("known", "own", "unknown")) == {"known": date, "own": Partly | None, "unknown": Any}

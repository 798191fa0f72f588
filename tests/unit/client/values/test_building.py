"""Which form an annotation has."""

import abc
import time
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from datetime import date
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import pydantic
import pytest

from sidecard_client.values.building import Builder, description_of
from sidecard_client.values.forms import LaterForm, OptionalForm, PlainForm, UnionForm
from tests.typed_values import Dated, Json, Line, PlainOrder, Tree

Bounded = TypeVar("Bounded", bound=Line)
Free = TypeVar("Free")


class Abstract(abc.ABC):
    """A class without instances."""

    @abc.abstractmethod
    def run(self) -> None:
        """Run."""


class Problem(Exception):
    """An exception with fields."""


class Comment(TypedDict):
    """A dict that holds others of its type, and a date."""

    on: date
    replies: "list[Comment]"


class Chain(NamedTuple):
    """A named tuple that holds another."""

    on: date
    next: "Chain | None"


class Mail(pydantic.BaseModel):
    """Fields whose annotations are no classes of their values."""

    at: pydantic.AwareDatetime
    day: pydantic.PastDate
    count: pydantic.PositiveInt
    client: Any


def description(annotation: Any) -> str:
    """Describe a type."""
    builder = Builder()
    return description_of(builder.form(annotation), builder)


@pytest.mark.parametrize(
    "annotation",
    [str, list[int], dict[str, list[float | None]], str | int | None, PlainOrder, Json, list[PlainOrder], Free, Any],
)
def test_types_of_plain_values_are_plain(annotation: Any) -> None:
    """However they are nested: such values need no codec."""
    builder = Builder()

    assert type(builder.form(annotation)) is PlainForm
    assert builder.problems == []


@pytest.mark.parametrize("annotation", [Abstract, Iterator[int], memoryview, "text", object(), type[int]])
def test_what_is_not_supported_is_plain_with_a_problem(annotation: Any) -> None:
    """A field of it may still hold a plain value."""
    builder = Builder()

    assert type(builder.form(annotation)) is PlainForm
    assert len(builder.problems) == 1


def test_a_class_that_needs_its_constructor_is_not_supported() -> None:
    """An exception, or a dict with fields."""
    for kind in (make_dataclass("Fault", ["a"], bases=(Problem,)), make_dataclass("Mapped", ["a"], bases=(dict,))):
        builder = Builder()
        assert type(builder.form(kind)) is PlainForm
        assert builder.problems


def test_unions() -> None:
    """None beside one type needs no mark; several types do."""
    builder = Builder()

    assert type(builder.form(Line | None)) is OptionalForm
    assert type(builder.form(Line | str)) is UnionForm
    assert builder.form(Line | Line) is builder.form(Line)
    assert type(builder.form(Dated | None)) is UnionForm


def test_a_bound_variable_is_its_bound() -> None:
    """A function of any line returns a line."""
    assert Builder().form(Bounded).kind is Line


def test_classes_that_only_annotate_are_those_of_their_values() -> None:
    """Pydantic has some."""
    shapes = {name: form.shape for name, form in Builder().form(Mail).fields.items()}  # type: ignore[attr-defined]

    assert shapes == {"at": "datetime.datetime", "day": "datetime.date", "count": "int", "client": "typing.Any"}


def test_types_that_hold_themselves() -> None:
    """Classes, dicts and aliases."""
    assert "left:" in description(Tree)
    assert "^Dated" in description(Dated)
    assert "on:datetime.date" in description(Comment)
    assert "on,next" in description(Chain)
    assert not isinstance(Builder().form(Comment), LaterForm)


def test_nested_dicts_take_no_exponential_time() -> None:
    """Each is built once or twice, and not once or twice for each that holds it."""
    kind: Any = date
    for depth in range(40):
        kind = TypedDict(f"Level{depth}", {"inner": kind, "again": kind})  # type: ignore[misc,no-redef]  # noqa: UP013 - built while the test runs

    started = time.process_time()
    assert description(kind)
    assert time.process_time() - started < 1.0


def test_equal_types_have_equal_descriptions_and_others_have_not() -> None:
    """The description is the same in every process, hence without addresses."""

    @dataclass
    class Page(Generic[Free]):
        """A generic class."""

        rows: list[Free]

    annotations = [Page[Line], Page[date], Page[Any], list[Line], tuple[Line, ...], set[date], Line | date, Line | str]
    assert len({description(one) for one in annotations}) == len(annotations)
    assert description(Line | date) == description(date | Line)
    assert all("0x" not in description(one) for one in annotations)

"""Objects with fields, and what they hold besides."""

import functools
import re
import threading
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from sidecard_client.values.building import Builder
from sidecard_client.values.forms import Misfit
from tests.typed_values import DAY, Group, Invoice, Line, OldInvoice, Pair, Tree, portrait


def form_of(kind: type) -> Any:
    """Build a form."""
    return Builder().form(kind)


def came_back(value: Any) -> Any:
    """Take a value apart and put it together."""
    form = form_of(type(value))
    return form.from_plain(form.to_plain(value))


def test_the_plain_form_has_the_fields_and_the_rest_only_if_there_is_one() -> None:
    """So that most instances are a map."""
    assert form_of(Line).to_plain(Line(text="a", cents=1)) == {"text": "a", "cents": 1}
    assert form_of(Line).to_plain(Line(text="a")) == [{"text": "a", "cents": 0}, {"set": ["text"]}]
    assert form_of(Tree).to_plain(Tree(("a", 1))) == {"label": ["a", 1], "left": None, "right": None}


def test_what_was_set_is_known() -> None:
    """Apps send on what is set, and no defaults."""
    line, invoice = came_back(Line(text="a")), came_back(Invoice(Total=Decimal(1)))

    assert line.model_dump(exclude_unset=True) == {"text": "a"}
    assert invoice.model_fields_set == {"total"}
    assert came_back(OldInvoice(number=1)).dict(exclude_unset=True) == {"number": 1}


def test_a_copy_can_be_used_like_its_original() -> None:
    """Validation of assignments, hashes, copies, private attributes, computed and cached properties."""
    invoice = came_back(Invoice(Total=Decimal("1.5"), lines=[Line(text="a")]))
    invoice._seen += 1
    invoice.note = "x"

    assert (invoice._seen, invoice.cents, invoice.size, invoice.note) == (1, 150, 1, "x")
    assert invoice.model_copy(deep=True) == invoice
    assert hash(came_back(Group(frozenset({1})))) == hash(Group(frozenset({1})))
    assert came_back(Tree(("a", 1))) == Tree(("a", 1))


def test_copies_have_extra_fields_of_their_own() -> None:
    """Also those that have none yet."""
    form = form_of(Invoice)
    one, other = (form.from_plain(form.to_plain(Invoice(Total=Decimal(1)))) for _ in range(2))
    one.note = "x"

    assert other.model_extra == {}


@dataclass
class Indexed:
    """Fields without a value yet, and attributes that are no fields."""

    day: date
    later: int = field(init=False)

    def __post_init__(self) -> None:
        self.index = {"a": [1]}


def test_attributes_without_a_field_come_back_if_they_are_plain() -> None:
    """They are not computed again."""
    indexed = Indexed(DAY)
    indexed.index["b"] = []
    back = came_back(indexed)

    assert portrait(back) == portrait(indexed)
    assert not hasattr(back, "later")


class Holding(pydantic.BaseModel):
    """A private attribute that no other process can have."""

    x: int = 0
    _lock: Any = pydantic.PrivateAttr(default_factory=threading.Lock)


@attrs.define(slots=False)
class Noted:
    """A class whose instances take any attribute."""

    x: int = 0


def _noted() -> Noted:
    noted = Noted()
    noted.at = DAY  # type: ignore[attr-defined]  # no field
    return noted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Holding(), r"value\._lock is of type _thread\.lock"),
        (_noted(), r"value\.at is of type datetime\.date, and no field with an annotation"),
    ],
)
def test_what_no_annotation_describes_is_refused_with_its_place(value: Any, message: str) -> None:
    """It would be lost."""
    with pytest.raises(Misfit) as caught:
        form_of(type(value)).to_plain(value)

    assert re.match(message, str(caught.value))


@pytest.mark.parametrize(
    "plain", [{}, {"text": "a"}, {"text": "a", "cents": 1, "more": 2}, [{"other": 1}, {}], [1], None]
)
def test_other_fields_are_an_error(plain: Any) -> None:
    """No instance lacks a field, or has one that its class does not know."""
    with pytest.raises((TypeError, ValueError, AttributeError)):
        form_of(Line).from_plain(plain)


def test_slots_of_all_bases_come_back() -> None:
    """Names with two underscores too."""

    class Base:
        """A class with slots."""

        __slots__ = ("__secret", "seen")

        def __init__(self) -> None:
            self.seen, self.__secret = 1, 2

        def secret(self) -> int:
            """Return it."""
            return self.__secret

    @dataclass
    class Derived(Base):
        """A dataclass of it."""

        __slots__ = ("day",)
        day: date

        def __post_init__(self) -> None:
            super().__init__()

    back = came_back(Derived(DAY))
    assert (back.day, back.seen, back.secret()) == (DAY, 1, 2)


@dataclass
class Parcel:
    """A class with all kinds of attributes."""

    text: str
    day: date
    currency = "EUR"

    def total(self) -> int:
        """Return a number."""
        return 1

    @property
    def label(self) -> str:
        """Return a text."""
        return self.text

    @functools.cached_property
    def size(self) -> int:
        """Return a number."""
        return len(self.text)

    class Inner:
        """A class of its own."""


@dataclass(slots=True)
class SlottedParcel:
    """A class without a dict."""

    text: str
    day: date


class OpenModel(pydantic.BaseModel):
    """A model with extra fields and a private attribute."""

    model_config = pydantic.ConfigDict(extra="allow")
    day: date
    _seen: int = 0


class ClosedModel(pydantic.BaseModel):
    """A model without extra fields."""

    day: date


class HeldStruct(msgspec.Struct, dict=True):
    """A Struct with a dict."""

    day: date

    def total(self) -> int:
        """Return a number."""
        return 1


def test_own_attributes_come_back() -> None:
    """Those beside the fields, also in place of a class's constant."""
    parcel = Parcel("a", DAY)
    parcel.currency = "CHF"
    parcel.note = "x"  # type: ignore[attr-defined]  # as apps do
    parcel._Parcel__seen = 1  # type: ignore[attr-defined]  # a private name's form
    assert vars(came_back(parcel)) == vars(parcel)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *(
            (Parcel, {"attributes": {name: {}}})
            for name in ("total", "label", "size", "Inner", "day", "__dict__", "__x__")
        ),
        (Parcel, {"attributes": {1: 1}}),
        (Parcel, {"attributes": [1]}),
        (Parcel, []),
        (SlottedParcel, {"attributes": {"day": "no date"}}),
        (OpenModel, {"attributes": {"day": "no date"}}),
        (OpenModel, {"attributes": {"model_dump": 1}}),
        (OpenModel, {"extra": {"day": "no date"}}),
        (OpenModel, {"private": {"_other": 1}}),
        (OpenModel, {"set": ["other"]}),
        (ClosedModel, {"extra": {"a": 1}}),
        (ClosedModel, {"private": {"a": 1}}),
        (HeldStruct, {"attributes": {"total": 1}}),
        (HeldStruct, {"attributes": {"__class__": 1}}),
    ],
)
def test_attributes_that_no_instance_holds_are_refused(kind: type, more: Any) -> None:
    """Bytes of others replace no method, property or field, and nothing of Python's own."""
    fields = {"text": "a", "day": "2026-01-02"} if kind in {Parcel, SlottedParcel} else {"day": "2026-01-02"}
    form = form_of(kind)
    assert form.from_plain([{**fields}, {}]).day == date(2026, 1, 2)
    with pytest.raises((ValueError, AttributeError)):
        form.from_plain([fields, more])


def test_instance_made_by_a_subscripted_class_is_refused() -> None:
    """The error names the call that marks the instance, and what to write instead."""
    with pytest.raises(Misfit, match=r"__orig_class__ is set by .*Pair\[int\]\(\.\.\.\): write Pair\(\.\.\.\)"):
        Builder().form(Pair[int]).to_plain(Pair[int](1, [2]))

"""Times and zones, enums, and what has a text."""

import enum
import re
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest

from sidecard_client.values.forms import Misfit
from sidecard_client.values.scalars import EnumForm, scalar_form
from tests.typed_values import NOON, Access, Color, portrait


def form_of(kind: type) -> Any:
    """Return the form of a class."""
    form = scalar_form(kind)
    assert form is not None
    return form


class Received(pydantic.BaseModel):
    """A time that pydantic has parsed."""

    at: pydantic.AwareDatetime


@pytest.mark.parametrize(
    ("zone", "is_text"),
    [
        (None, True),
        (UTC, True),
        (timezone(timedelta(hours=-3)), True),
        (timezone(timedelta(hours=1), "CET"), False),
        (timezone(timedelta(0), "GMT"), False),
        (ZoneInfo("Europe/Berlin"), False),
        (Received.model_validate({"at": "2026-01-01T00:00+02:00"}).at.tzinfo, False),
    ],
)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_zone_comes_back_as_it_is(zone: Any, is_text: bool, fold: int) -> None:
    """Its class, name and offset; a text, as people read it, where that has all of it."""
    for value in (NOON.replace(tzinfo=zone, fold=fold), time(1, 2, 3, 4, tzinfo=zone, fold=fold)):
        form = form_of(type(value))
        plain = form.to_plain(value)
        back = form.from_plain(plain)

        assert portrait(back) == portrait(value)
        assert type(back.tzinfo) is type(value.tzinfo)
        assert (type(plain) is str) == (is_text and not fold)


def test_the_one_object_for_utc_and_each_zone_comes_back() -> None:
    """Programs compare zones by identity."""
    form = form_of(datetime)
    for zone in (UTC, ZoneInfo("Europe/Berlin")):
        assert form.from_plain(form.to_plain(NOON.replace(tzinfo=zone))).tzinfo is zone


class Fixed(timezone.__base__):  # type: ignore[misc,name-defined]  # tzinfo
    """A zone of an app."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        """Return one hour."""
        return timedelta(hours=1)


@pytest.mark.parametrize("zone", [Fixed(), ZoneInfo.no_cache("Europe/Berlin")])
def test_a_zone_that_another_process_may_not_have_is_refused_with_advice(zone: Any) -> None:
    """The warning says what to convert it to."""
    with pytest.raises(Misfit, match=r"time zone .*astimezone\(timezone\.utc\)"):
        form_of(datetime).to_plain(NOON.replace(tzinfo=zone))


@pytest.mark.parametrize("key", ["Europe/Nowhere", "../../etc/passwd", "/etc/passwd", "a/../b", "", "posix"])
def test_a_zone_without_a_file_is_not_looked_for(key: str) -> None:
    """`ZoneInfo` would import a package by its name."""
    before = set(sys.modules)
    with pytest.raises(ValueError, match="is not known in this process"):
        form_of(datetime).from_plain([NOON.__reduce_ex__(4)[1][0], ["zone", key]])

    assert set(sys.modules) == before


class Odd(enum.Enum):
    """Values of any kind."""

    PAIR = (1, 2)
    DAY = date(2026, 1, 2)
    MADE = object()


class Kept(enum.IntFlag, boundary=enum.KEEP):
    """Flags that keep what they do not know."""

    ONE = 1


@pytest.mark.parametrize(
    "member", [Odd.PAIR, Odd.DAY, Odd.MADE, Color.CRIMSON, Access(0), Access(3), Kept(9), Kept.ONE]
)
def test_members_of_enums_are_the_same_objects(member: enum.Enum) -> None:
    """By name; combinations of flags by number."""
    form = EnumForm(type(member))

    assert form.from_plain(form.to_plain(member)) is member or isinstance(member, Kept)
    assert form.from_plain(form.to_plain(member)) == member


def test_the_shape_of_an_enum_changes_with_its_members() -> None:
    """A stored name of another version's enum means what it meant there."""
    kinds: list[Any] = [enum.Enum("E", members) for members in ("A B", "B A", "A", {"A": "a"})]
    shapes = {EnumForm(kind).shape for kind in kinds}

    assert len(shapes) == 4
    assert "0x" not in EnumForm(Odd).shape


def test_a_fraction_has_no_exponent() -> None:
    """It would take all memory."""
    form = form_of(Fraction)

    assert form.from_plain(form.to_plain(Fraction(-2, 3))) == Fraction(-2, 3)
    with pytest.raises(ValueError, match="invalid literal"):
        form.from_plain("1e999999999")


def test_unknown_classes_have_no_form() -> None:
    """Subclasses of those that are known neither."""

    class Later(datetime):
        """A class of a library for times."""

    assert scalar_form(object) is None
    assert scalar_form(Later) is None
    assert scalar_form(type("UUID", (), {})) is None


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (bytearray, 10**12),
        (bytearray, [1]),
        (datetime, [b"\x07\xe4\x02\x1f\x00\x00\x00\x00\x00\x00", None]),  # 31 February
        (datetime, [b"\x07\xe4\x01\x01\x3f\x00\x00\x00\x00\x00", None]),  # hour 63
        (datetime, [2026, None]),
        (time, [b"\x17\x3f\x00\x00\x00\x00", None]),  # minute 63
        (time, [5, None]),
        (datetime, [b"\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00", ["zone", "../../etc/passwd"]]),
        (datetime, [b"\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00", ["zone", "/etc/passwd"]]),
        (UUID, "f" * 33),
        (Decimal, "NaN"),
        (Decimal, [0, [1], 5]),
        (Fraction, "1/0"),
        (Fraction, "1e999999999"),
        (re.RegexFlag, "IGNORECASE"),
        (timedelta, [10**12, 0, 0]),
    ],
    ids=str,
)
def test_a_form_that_no_value_has_is_refused(kind: Any, plain: Any) -> None:
    """Bytes of others make no value that its class would not."""
    form = form_of(kind)
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        form.from_plain(plain)

"""Forms of unions and aliases, and the places of misfits."""

import re
from datetime import date, datetime
from typing import Any

import pytest

from sidecard_client.values.building import Builder
from sidecard_client.values.forms import Misfit, key_step, shortened
from tests.typed_values import DAY, LINE, NOON, Cat, Color, Dog, Line, PricedLine, Word


def form_of(annotation: Any) -> Any:
    """Build a form."""
    return Builder().form(annotation)


@pytest.mark.parametrize(
    ("annotation", "value", "marked"),
    [
        (Line | None, None, False),
        (Line | None, LINE, False),
        (Line | str, "a", True),
        (Cat | Dog, Dog(), True),
        (date | datetime, NOON, True),
        (date | datetime, DAY, True),
        (Color | Word, Word.YES, True),
        (list[Line] | list[date], [DAY], True),
        (list[Line] | list[date], [], True),
    ],
)
def test_the_member_of_a_union_is_found_by_the_exact_class(annotation: Any, value: Any, marked: bool) -> None:
    """And marked in the plain form, where None alone would not tell."""
    form = form_of(annotation)
    plain = form.to_plain(value)
    back = form.from_plain(plain)

    assert (back, type(back)) == (value, type(value))
    assert (isinstance(plain, list) and isinstance(plain[0], int)) == marked


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Cat | Dog, LINE, r"value is of type tests\.typed_values\.Line, not one of those in the annotation"),
        (Line | str, PricedLine(text=""), r"value is of type tests\.typed_values\.PricedLine, not one of"),
        (Line | list[date], [DAY, NOON], r"value\[1\] is of type datetime\.datetime, not datetime\.date"),
        (Line | None, NOON, r"value is of type datetime\.datetime, not tests\.typed_values\.Line"),
        (tuple[dict[str, list[date]], ...], ({}, {"a": [DAY, ""]}), r"value\[1\]\['a'\]\[1\] is of type str"),
    ],
)
def test_a_misfit_names_its_place(annotation: Any, value: Any, message: str) -> None:
    """From the outside in; of a union, the place that fits best."""
    with pytest.raises(Misfit) as caught:
        form_of(annotation).to_plain(value)

    assert re.match(message, str(caught.value))


def test_texts_of_the_app_are_shortened() -> None:
    """A key may be a whole prompt."""
    assert key_step("a") == "['a']"
    assert len(key_step("a" * 1000)) < 80
    assert shortened("a" * 60) == "a" * 60
    assert "prompt" in repr(form_of(dict[str, date])) or "dict[str,datetime.date]" in repr(form_of(dict[str, date]))

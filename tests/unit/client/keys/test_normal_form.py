"""Texts in normal form: what becomes one, what stays apart, and what is left alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecard_client.keys.normal_form import NORMAL_FORMS, VERBATIM_NAMES, NormalForm, normal_arguments, ordered

SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
SPACES += "\u2028\u2029\u202f\u205f\u3000"


def form(text: Any, *forms: NormalForm) -> Any:
    """Return one value in normal form."""
    return normal_arguments((text,), {}, forms)[0][0]


@pytest.mark.parametrize(
    ("text", "forms", "expected"),
    [
        ("Cafe\u0301", ("nfc",), "Caf\u00e9"),
        ("Cafe\u0301", ("space", "case"), "cafe\u0301"),
        ("  a \t b\n", ("space",), "a b"),
        ("  a \t b\n", ("nfc", "case"), "  a \t b\n"),
        (SPACES + "a" + SPACES, ("space",), "a"),
        ("\u200b a \u2060", ("space",), "\u200b a \u2060"),  # of no width, and no white space to Unicode
        ("Stra\u00dfe", ("case",), "strasse"),
        ("\u03a3\u03c2", ("case",), "\u03c3\u03c3"),
        ("\u1fb4", ("nfc", "case"), "\u03ac\u03b9"),  # folding takes it apart, and form C composes it again
        ("\u0130", ("case",), "i\u0307"),
        ("", NORMAL_FORMS, ""),
        (" ", NORMAL_FORMS, ""),
    ],
)
def test_forms(text: str, forms: tuple[NormalForm, ...], expected: str) -> None:
    """Each form alone, and combined."""
    assert form(text, *forms) == expected


def test_the_recipe_lists_the_white_space() -> None:
    """The module's table is complete, character by character."""
    characters = list(map(chr, range(0x110000)))
    forms = form(characters, "space")
    assert "".join(one for one, left in zip(characters, forms, strict=True) if not left) == SPACES


def test_texts_are_normalized_at_any_depth_but_names_are_not() -> None:
    """In maps within lists within arguments."""
    args, kwargs = normal_arguments((["A ", ("B ",)], 1, None), {"X Y": {"C ": "D "}}, ("case", "space"))
    assert args == (["a", ["b"]], 1, None)
    assert kwargs == {"X Y": {"C ": "d"}}


def test_other_values_are_kept() -> None:
    """Bytes in particular have no known encoding."""
    value = {"a": b"A ", "b": 1.5, "c": True, "d": None}
    assert form(value, *NORMAL_FORMS) == value


@pytest.mark.parametrize("name", sorted(VERBATIM_NAMES))
def test_identifiers_and_encoded_bytes_are_kept(name: str) -> None:
    """As arguments and as fields at any depth: two images must not become one."""
    value = {"deep": ["A ", {"er": "B "}]}
    assert normal_arguments(({name: value},), {name: "A "}, NORMAL_FORMS) == (({name: value},), {name: "A "})


def test_a_text_of_another_class_is_its_text() -> None:
    """Overridden methods do not matter."""

    class Loud(str):
        __slots__ = ()

        def casefold(self) -> str:
            return "LOUD"

    assert form(Loud("A"), "case") == "a"


def test_the_arguments_themselves_stay_as_they_are() -> None:
    """The function receives the request as written."""
    message = {"content": "A "}
    normal_arguments(([message],), {"m": message}, NORMAL_FORMS)
    assert message == {"content": "A "}


def test_forms_are_sorted_and_unique() -> None:
    """As they enter keys."""
    assert ordered(["space", "nfc", "space"]) == ("nfc", "space")


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    """The forms are idempotent."""
    once = form(text, "space")
    assert form(once, "space") == once
    assert "  " not in once


@given(st.text(), st.sampled_from(SPACES))
def test_another_space_beside_a_space_changes_nothing(text: str, space: str) -> None:
    """Whichever white space it is."""
    wider = text.replace(" ", " " + space)
    assert form(wider, "space", "nfc") == form(text, "space", "nfc")

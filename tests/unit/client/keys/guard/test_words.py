"""Words of a text, and their stems."""

import pytest

from sidecard_client.keys.guard.words import stem_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't, can\u2019t; WON'T!", ["do", "not", "can", "not", "will", "not"]),
        ("Anna's state-of-the-art C++ x_y", ["anna", "state", "of", "the", "art", "c", "+", "+", "x", "y"]),
        ("5 mg, 5mg, -5 and 1.5 %", ["5", "mg", "5", "mg", "-", "5", "and", "1", ".", "5", "%"]),
        ("and/or km / h", ["and", "or", "km", "/", "h"]),
        ("a - b", ["a", "b"]),
        ("(a + b) - c", ["(", "a", "+", "b", ")", "-", "c"]),
        ("\ufb01ve \uff23afé", ["five", "café"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    """Punctuation is left out, unless it has a meaning."""
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("stem", "forms"),
    [
        ("create", ["create", "creates", "created", "creating"]),
        ("stop", ["stop", "stops", "stopped", "stopping"]),
        ("bake", ["bake", "bakes", "baked", "baking"]),
        ("load", ["load", "loads", "loaded", "loading"]),
        ("city", ["city", "cities"]),
        ("study", ["study", "studies", "studied", "studying"]),
        ("process", ["process", "processes", "processed", "processing"]),
        ("child", ["child", "children"]),
        ("use", ["use", "uses", "used", "using"]),
    ],
)
def test_forms_have_one_stem(stem: str, forms: list[str]) -> None:
    """A plural or a tense is the same word."""
    assert set(map(stem_of, forms)) == {stem}


@pytest.mark.parametrize(
    "words",
    [
        ("car", "care", "careful", "careless"),
        ("plan", "plane"),
        ("new", "news"),
        ("employer", "employee"),
        ("legal", "illegal"),
        ("hard", "hardly"),
        ("us", "use"),
        ("string", "st"),
        ("need", "ne"),
    ],
)
def test_different_words_have_different_stems(words: tuple[str, ...]) -> None:
    """No stem is so short that two words share it."""
    assert len(set(map(stem_of, words))) == len(words)

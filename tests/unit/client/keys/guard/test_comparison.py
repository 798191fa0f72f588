"""Each rule of the comparison, alone: signatures by hand, whose digests are small numbers."""

from typing import Any

import pytest
from msgspec import structs

from sidecard_client.keys.guard.comparison import (
    MAX_NEW_SUBJECTS,
    MAX_REWORDINGS,
    MIN_ENLARGED_FRAME,
    MIN_REORDERED_FRAME,
    MIN_REWORDED_FRAME,
    TextSignature,
    difference,
)

SUBJECTS = tuple(range(100, 140))
ONE = TextSignature("en-1", 1, words=SUBJECTS, subjects=SUBJECTS, frame=(1, 2, 3))
REBUILT = tuple(range(50, 50 + MIN_REORDERED_FRAME))
"""Function words of a sentence that was built anew."""


def changed(**fields: Any) -> TextSignature:
    """Return a text's signature."""
    return structs.replace(ONE, **fields)


def compare(one: TextSignature, other: TextSignature) -> str | None:
    """Return the difference of two texts, which is the same both ways."""
    other = structs.replace(other, text=2)
    assert difference(one, other) == difference(other, one)
    return difference(one, other)


def test_equal_features_pass() -> None:
    """Two texts whose features are equal mean the same."""
    assert compare(ONE, changed()) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"recipe": ""}, {"recipe": ""}, "language"),
        ({"recipe": "en-0"}, {}, "language"),
        ({"negations": (7, 7)}, {"negations": (7,)}, "negation"),
        ({"negations": (7, 8)}, {"negations": (8, 7)}, None),
        ({"question": 7}, {}, "question"),
        ({"persons": (7, 8)}, {"persons": (8, 7)}, "person"),
        ({"symbols": (7, 8)}, {"symbols": (8, 7)}, "symbol"),
        ({"opposites": ((7, 1),)}, {"opposites": ((7, 2),)}, "opposite"),
        ({"opposites": ((7, 1),)}, {"opposites": ((7, 1), (7, 2))}, None),
        ({"opposites": ((7, 1),)}, {"opposites": ((8, 1),)}, None),
        ({"roles": ((100, 1),)}, {"roles": ((100, 2),)}, "direction"),
        ({"roles": ((100, 1),)}, {"roles": ((101, 1),)}, "direction"),
        ({"roles": ((100, 1),)}, {"roles": ((101, 2),)}, None),
        ({"roles": ((9, 1), (100, 2))}, {"roles": ((100, 2),)}, None),
    ],
)
def test_feature_that_differs(first: dict[str, Any], second: dict[str, Any], expected: str | None) -> None:
    """Each feature is compared by its own rule."""
    assert compare(changed(**first), changed(**second)) == expected


def with_words(general: tuple[int, ...], frame: tuple[int, ...], subjects: tuple[int, ...] = SUBJECTS) -> TextSignature:
    """Return the signature of a text with those general words after its subjects."""
    return changed(words=(*subjects, *general), subjects=subjects, frame=(*ONE.frame, *frame))


REWORDED = REBUILT[:MIN_REWORDED_FRAME]


def test_general_words_may_be_replaced_in_a_reworded_sentence() -> None:
    """But not in one that is otherwise the same, not too many of them, and not if little else is shared."""
    one = with_words((1,), ())
    assert compare(one, with_words((2,), REWORDED)) is None
    assert compare(one, with_words((2,), REWORDED[1:])) == "wording"

    half = MAX_REWORDINGS // 2
    one, other = with_words(tuple(range(half)), ()), tuple(range(20, 20 + half))
    assert compare(one, with_words(other, REWORDED)) is None
    assert compare(one, with_words((*other, 99), REWORDED)) == "wording"

    few = SUBJECTS[:4]
    assert compare(with_words((1,), (), few), with_words((2,), REWORDED, few)) is None
    assert compare(with_words((1,), (), few[1:]), with_words((2,), REWORDED, few[1:])) == "wording"


def test_added_word_needs_more_shared_ones_than_a_replaced_one() -> None:
    """As in "a short poem"."""
    few = SUBJECTS[:3]
    assert compare(with_words((), (), few), with_words((1,), REWORDED, few)) == "wording"
    few = SUBJECTS[:4]
    assert compare(with_words((), (), few), with_words((1,), REWORDED, few)) is None


def test_one_text_may_have_more_subjects_in_a_reworded_sentence() -> None:
    """A few of them, never both texts, and only if the sentence differs otherwise."""
    enlarged = REBUILT[:MIN_ENLARGED_FRAME]
    more = SUBJECTS[:-MAX_NEW_SUBJECTS]
    assert compare(ONE, with_words((), enlarged, more)) is None
    assert compare(ONE, with_words((), enlarged[1:], more)) == "subject"
    assert compare(ONE, with_words((), enlarged, more[:-1])) == "subject"
    assert compare(ONE, with_words((), enlarged, (*SUBJECTS[:-1], 999))) == "subject"


def test_subjects_may_be_reordered_in_a_long_sentence_that_was_rebuilt() -> None:
    """A passive sentence names many subjects in another order; with few of them, it means something else."""
    turned = SUBJECTS[::-1]
    assert compare(ONE, changed(words=turned, frame=REBUILT)) is None
    assert compare(ONE, changed(words=turned, frame=(*ONE.frame, *REBUILT[1:]))) == "order"
    few = SUBJECTS[:3]
    short = structs.replace(ONE, words=few, subjects=few)
    assert compare(short, structs.replace(short, words=few[::-1], frame=REBUILT)) == "order"


def test_order_of_general_words_matters_if_nothing_else_differs() -> None:
    """As in "replace tabs with spaces"."""
    assert compare(with_words((1, 2), ()), with_words((2, 1), ())) == "order"


def test_texts_without_words_need_the_same_frame() -> None:
    """As in "where is it?"."""
    bare = changed(words=(), subjects=())
    assert compare(bare, bare) is None
    assert compare(bare, structs.replace(bare, frame=(1, 2))) == "wording"
    assert compare(bare, changed(words=(1,), subjects=())) == "wording"

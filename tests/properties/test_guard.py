"""Signatures of texts: symmetric, blind to layout, and not blind to "not"."""

from hypothesis import example, given
from hypothesis import strategies as st

from sidecard_client.keys.guard.comparison import Difference, decode_signature, difference
from sidecard_client.keys.guard.signature import signature_of

KNOWN = [
    "is",
    "the",
    "not",
    "allowed",
    "create",
    "created",
    "use",
    "find",
    "paris",
    "rome",
    "from",
    "to",
    "hot",
    "cold",
    "before",
    "after",
    "first",
    "can",
    "must",
    "i",
    "you",
    "he",
    "never",
    "capital",
    "of",
    "what",
    "who",
    "when",
    "C++",
    "5",
    "-3",
    "$",
    "which",
    "without",
    "safe",
    "unsafe",
    "open",
    "closed",
    "movie",
    "film",
]
PLAIN = [word for word in KNOWN if word.isalpha()]
WORDS = st.lists(
    st.sampled_from(KNOWN) | st.text(st.characters(categories=["L"]), min_size=1, max_size=8), min_size=1, max_size=12
)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=60))
PUNCTUATION = st.sampled_from([" ", "  ", "\n", ", ", "; ", ": ", "? ", '" ', " (", ") ", "... ", " \u2013 "])


def compare(one: str, other: str) -> Difference | None:
    """Return the difference of two texts of one group."""
    return difference(decode_signature(signature_of(one, "g")), decode_signature(signature_of(other, "g")))


@given(TEXTS, TEXTS)
def test_difference_is_symmetric(one: str, other: str) -> None:
    """Whichever text is stored, the other one gets the same decision for the same reason."""
    assert compare(one, other) == compare(other, one)


@given(TEXTS)
@example("İ")
def test_equal_texts_pass(text: str) -> None:
    """A text has no difference to itself."""
    assert compare(text, text) is None


@given(
    st.lists(
        st.sampled_from(
            ["is", "the", "not", "allowed", "create", "paris", "from", "to", "hot", "i", "you", "never", "what"]
        ),
        min_size=1,
    ),
    st.data(),
)
def test_layout_does_not_matter(words: list[str], data: st.DataObject) -> None:
    """Case, white space and punctuation between words change no meaning."""
    text = words[0]
    for word in words[1:]:
        text += data.draw(PUNCTUATION) + data.draw(st.sampled_from([word, word.upper(), word.capitalize()]))

    assert compare(" ".join(words), f"{text}.") is None


@given(WORDS, st.integers(0, 12), st.sampled_from(["not", "never", "without", "except"]))
def test_a_further_negation_is_a_difference(words: list[str], place: int, negation: str) -> None:
    """Wherever it stands."""
    assert compare(" ".join(words), " ".join([*words[:place], negation, *words[place:]])) is not None


@given(WORDS, st.sampled_from(["Lisbon", "Kenya", "aspirin", "Tuesday"]), st.integers(0, 12))
def test_another_name_is_a_difference(words: list[str], name: str, place: int) -> None:
    """In the same sentence, wherever it stands."""
    one, other = ([*words[:place], name, *words[place:]] for name in (name, "Qatar"))
    assert compare(" ".join(one), " ".join(other)) is not None

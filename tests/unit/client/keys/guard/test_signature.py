"""Which texts have different meanings by their signatures, and which may share an answer."""

import pytest

from sidecard_client.keys.guard import signature as signatures
from sidecard_client.keys.guard import vocabulary
from sidecard_client.keys.guard.comparison import Difference, decode_signature, difference
from sidecard_client.keys.guard.signature import MAX_CHARACTERS, MAX_WORDS, signature_of
from sidecard_client.keys.guard.words import stem_of
from sidecard_client.protocol.values import MAX_SIGNATURE_BYTES
from tests.bench import changed_meanings, hard_negatives

CHANGED = [
    *hard_negatives.pairs(),
    *changed_meanings.tuned(),
    *changed_meanings.held_out(),
]


def compare(one: str, other: str) -> Difference | None:
    """Return the difference of two texts of one group."""
    first, second = (decode_signature(signature_of(text, "g")) for text in (one, other))
    assert difference(first, second) == difference(second, first)
    return difference(first, second)


@pytest.mark.parametrize(("kind", "one", "other"), [pair for pair in CHANGED if pair[0] != "number"])
def test_changed_meaning_is_refused(kind: str, one: str, other: str) -> None:
    """Negations, opposites, names, directions, quantities, units and roles keep texts apart; numbers belong to the group."""
    assert compare(one, other) is not None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Is smoking allowed here?", "Is smoking not allowed here?", "negation"),
        ("Is smoking allowed here?", "Isn't smoking allowed here?", "negation"),
        ("Is smoking allowed here?", "Isnt smoking allowed here?", "negation"),
        ("Can I pay with a card?", "I can\u2019t pay with a card", "negation"),
        ("Is the service available?", "Is the service unavailable?", "negation"),
        ("Which drugs are unavailable?", "Which drugs are unsafe?", "wording"),
        ("Is it useful for children?", "Is it useless for children?", "negation"),
        ("I have little time", "I have a little time", "negation"),
        ("The test that failed did not block it.", "The test that did not fail blocked it.", "direction"),
        ("What happens before lunch?", "What happens after lunch?", "opposite"),
        ("Can children under 12 enter?", "Can children over 12 enter?", "opposite"),
        ("How do I log in?", "How do I log out?", "opposite"),
        ("Turn the lights on", "Turn the lights off", "opposite"),
        ("Who is the president?", "Who was the president?", "opposite"),
        ("May I take it?", "Must I take it?", "opposite"),
        ("What is the capital of France?", "what is the capital of spain", "subject"),
        ("Remind me at 8 am", "Remind me at 8 pm", "subject"),
        ("Is 8 am fine?", "Is 8 fine?", "subject"),
        ("Can I come to Rio de Janeiro, la gente?", "Can I come to Rio de Janeiro, la gente!?", None),
        ("Can we use kein Wort here?", "Can we use Wort here?", "language"),
        ("What does est que mean here?", "What does que mean here?", "language"),
        ("What will $50 buy?", "What will £50 buy?", "subject"),
        ("Find a hotel in Rome", "Find a cheap hotel in Rome", "subject"),
        ("Write a poem about rain.", "Write a short poem about rain.", "wording"),
        ("How do I create a table in Excel?", "How do I find a table in Excel?", "wording"),
        ("Who killed Caesar?", "Where did they kill Caesar?", "question"),
        ("Tell me when Mozart died", "Tell me where Mozart died", "question"),
        ("Did he hit her?", "Did she hit him?", "person"),
        ("Do I owe you money?", "Do you owe me money?", "person"),
        ("Translate English to German", "Translate German to English", "order"),
        ("Convert km to miles", "How do I convert miles into km?", "order"),
        ("A is older than B", "B is older than A", "order"),
        ("Show trains to Berlin", "Show trains from Berlin", "direction"),
        ("Do I need a visa and a passport?", "Do I need a visa or a passport?", "opposite"),
        ("Who voted for the law?", "Who voted against the law?", "opposite"),
        (
            "How do I install the graphics driver on a laptop with two displays?",
            "How do I repair the graphics driver on a laptop with two displays?",
            "subject",
        ),
        ("Is C++ hard?", "Is C hard?", "symbol"),
        ("What is 5*3?", "What is 5/3?", "symbol"),
        ("(2+3)*4", "2+(3*4)", "symbol"),
        ("Is -5 cold?", "Is 5 cold?", "symbol"),
        ("Why use if !ready?", "Why use if ready?", "symbol"),
        ("Is 1.5 enough?", "Is 1,5 enough?", "symbol"),
        ("Answer with 👍", "Answer with 👎", "symbol"),
        ("Ist Rauchen hier erlaubt?", "Ist Rauchen hier nicht erlaubt?", "language"),
        ("Est-ce permis ici ?", "Est-ce interdit ici ?", "language"),
        ("法国的首都是什么", "西班牙的首都是什么", "language"),
    ],
)
def test_difference_is_named(one: str, other: str, expected: Difference | None) -> None:
    """The first difference found is the reason, whichever text is stored."""
    assert compare(one, other) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what is the  capital\nof FRANCE"),
        ("What is the capital of France?", "Please tell me what the capital of France is."),
        ("How do I reset my password?", "How can I reset my password?"),
        ("How do I sort a list in Python?", "How to sort a list in Python"),
        ("How do I convert euros to dollars?", "How can I convert euros into dollars?"),
        ("I can't log in to my account", "I cannot log in to my account"),
        ("Is parking not allowed here?", "Isn\u2019t parking allowed here?"),
        ("What are the side effects of aspirin?", "What side effects does aspirin have?"),
        ("Which films were released in 2023?", "Which movies were released in 2023?"),
        ("Explain how photosynthesis works.", "How does photosynthesis work?"),
        ("Is the service not available in Canada?", "Is the service unavailable in Canada?"),
        ("where is it?", "where is this?"),
        ("hello", "hi"),
        ("The shop is closed", "the shop, it is closed!"),
        ("法国的首都是什么\uff1f", "法国的首都是什么"),
        ("Ist Rauchen hier erlaubt?", "ist rauchen hier erlaubt"),
        (
            "To use the cache with JAX, you need to install `jax` and call `set_format()` on the dataset.",
            "In order to utilize the cache with JAX, it is necessary to install `jax` and call `set_format()` on the dataset.",
        ),
    ],
)
def test_equal_meaning_passes(one: str, other: str) -> None:
    """Politeness, synonyms, function words, case, white space and punctuation do not change a meaning."""
    assert compare(one, other) is None


def test_digests_depend_on_the_group() -> None:
    """Signatures of two groups cannot be compared, so a word cannot be followed from group to group."""
    assert signature_of("What is the capital of France?", "g") != signature_of("What is the capital of France?", "h")


@pytest.mark.parametrize(
    "text", ["", "?!", "\ud800", "a" * (MAX_CHARACTERS + 1), "word " * (MAX_WORDS + 1), " ".join(map(str, range(300)))]
)
def test_any_text_has_a_signature(text: str) -> None:
    """Empty, broken and long texts have one; it equals itself and fits its limit."""
    signature = signature_of(text, "g")
    assert len(signature) <= MAX_SIGNATURE_BYTES
    assert difference(decode_signature(signature), decode_signature(signature)) is None


def test_very_long_texts_are_not_divided_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of a megabyte costs one hash."""
    monkeypatch.setattr(signatures, "words_of", None)
    document = "a" * (MAX_CHARACTERS + 1)
    assert compare(document, document) is None
    assert compare(document, f"{document}b") == "language"


def test_long_texts_match_equal_ones_only() -> None:
    """In a document, one of many words matters."""
    document = "The shop opens at nine and closes at five. " * 60
    assert compare(document, f"{document}Indeed.") == "language"
    assert compare(document, document.upper()) is None


def test_opposites_are_no_synonyms() -> None:
    """No line of synonyms has words of two poles, and no light word has an opposite among the light ones."""
    for synonyms in vocabulary.SYNONYMS.strip().splitlines():
        for contrast in vocabulary.CONTRASTS.strip().splitlines():
            poles = [set(pole.split()) for pole in contrast.split(" | ")]
            assert sum(not pole.isdisjoint(synonyms.split()) for pole in poles) <= 1, (synonyms, contrast)


def test_forms_of_a_word_share_its_tables() -> None:
    """Plurals and tenses are found where their dictionary form is."""
    for word, forms in {"create": ["creates", "created", "creating"], "movie": ["movies"], "begin": ["began"]}.items():
        assert {signatures._GENERAL[stem_of(form)] for form in forms} == {signatures._GENERAL[word]}

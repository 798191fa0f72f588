"""Signatures of texts: decide whether two requests with near vectors mean the same. Pure.

Embeddings hardly distinguish "is" from "is not", or "from A to B" from "from B to A". So a client sends a *signature* beside a
vector: digests, of 32 bits each, of what must not differ. They are keyed by the group, so equal words of two groups have
different digests. `sidecard_client.keys.guard` makes signatures; `difference` compares two of one group.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

MAX_DIGESTS: Final = 2048
"""Limit of the digests of one signature. Small numbers take few bytes, so the limit of bytes alone does not bound the comparison."""

MAX_NEW_SUBJECTS: Final = 2
MAX_REWORDINGS: Final = 6
"""Subjects that one text may add, and general words that both may exchange, however long they are."""

SUBJECT_WEIGHT: Final = 4.0
REWORDING_WEIGHT: Final = 2.0
"""How many shared words each such word needs."""

MIN_REWORDED_FRAME: Final = 2
MIN_ENLARGED_FRAME: Final = 3
"""How many function words must differ in a paraphrase that has other general words, or more subjects. If only one word of a
sentence differs, the sentence was not reworded: that word is the difference."""

MIN_REORDERED_SUBJECTS: Final = 4
MIN_REORDERED_FRAME: Final = 4
"""Subjects in another order are another meaning ("Alice owes Bob"), unless there are so many, and so many function words
differ: then the sentence was rebuilt."""

Digest = Annotated[int, Meta(ge=0, lt=2**32)]
Digests = tuple[Digest, ...]
Pairs = tuple[tuple[Digest, Digest], ...]

Difference = Literal[
    "unsigned",
    "language",
    "negation",
    "question",
    "person",
    "symbol",
    "opposite",
    "subject",
    "wording",
    "order",
    "direction",
]
"""Why two texts do not mean the same. ``unsigned``: one has no signature."""


class TextSignature(Struct, frozen=True, omit_defaults=True, gc=False):
    """What must not differ between two texts. Digests are those of reduced words."""

    recipe: Annotated[str, Meta(max_length=32)]
    """Language and version of the rules. Empty: an unknown language, in which only equal texts match."""
    text: Digest
    """The whole text, without white space, case and punctuation."""
    negations: Digests = ()
    question: Digest = 0
    """The interrogative ("when") with which the text begins."""
    persons: Digests = ()
    symbols: Digests = ()
    opposites: Pairs = ()
    """Contrasts (before or after), and their poles that the text has: two texts with the same contrast share a pole."""
    words: Digests = ()
    """The words that matter, each meaning once, in order."""
    subjects: Digests = ()
    """The words that have no synonym, names above all."""
    frame: Digests = ()
    """Function words: all of them, in order."""
    roles: Pairs = ()
    """Words, each with the preposition or negation that governs it."""


_decode = msgspec.msgpack.Decoder(TextSignature).decode
encode_signature = msgspec.msgpack.Encoder().encode


def decode_signature(encoded: bytes) -> TextSignature:
    """Return the signature in a message. Raises `msgspec.MsgspecError`."""
    try:
        signature = _decode(encoded)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"it is no signature ({error})") from None

    if _digests(signature) > MAX_DIGESTS:
        raise msgspec.ValidationError(f"it has more than {MAX_DIGESTS} digests")

    return signature


def _digests(signature: TextSignature) -> int:
    singles = (
        signature.negations,
        signature.persons,
        signature.symbols,
        signature.words,
        signature.subjects,
        signature.frame,
    )
    return sum(map(len, singles)) + 2 * (len(signature.opposites) + len(signature.roles))


def difference(one: TextSignature, other: TextSignature) -> Difference | None:
    """Return the first difference of meaning between two texts of a group; None if their vectors may decide."""
    if one.text == other.text:
        return None

    if not one.recipe or one.recipe != other.recipe:
        return "language"

    if Counter(one.negations) != Counter(other.negations):
        return "negation"

    if one.question != other.question:
        return "question"

    if one.persons != other.persons:
        return "person"

    if one.symbols != other.symbols:
        return "symbol"

    contrasts = {contrast for contrast, _ in one.opposites} & {contrast for contrast, _ in other.opposites}
    if contrasts - {contrast for contrast, _ in set(one.opposites) & set(other.opposites)}:
        return "opposite"

    changes = _changes(Counter(one.frame), Counter(other.frame))
    return _other_subject(one, other, changes) or _other_order(one, other, changes)


def differ(one: bytes, other: bytes) -> bool:
    """Return whether two encoded signatures have a `difference`."""
    return difference(decode_signature(one), decode_signature(other)) is not None


def _other_subject(one: TextSignature, other: TextSignature, changes: int) -> Difference | None:
    """Compare the words. Both texts may differ in general words, and one may have more subjects, if they share enough words.

    ``changes`` are the function words that differ.
    """
    words, others = set(one.words), set(other.words)
    if not words and not others:  # "where is it?"
        return None if one.frame == other.frame else "wording"

    subjects, others_subjects = set(one.subjects), set(other.subjects)
    added = subjects ^ others_subjects
    if (subjects - others_subjects and others_subjects - subjects) or len(added) > MAX_NEW_SUBJECTS:
        return "subject"

    reworded = (words ^ others) - added
    # Words that replace none restrict the meaning ("a short poem").
    weight = REWORDING_WEIGHT if words - others and others - words else SUBJECT_WEIGHT
    shared = len(words & others)
    needed = SUBJECT_WEIGHT * len(added) + weight * len(reworded)
    is_reworded = changes >= (MIN_ENLARGED_FRAME if added else MIN_REWORDED_FRAME if reworded else 0)
    if needed > shared or len(reworded) > MAX_REWORDINGS or not is_reworded:
        return "subject" if added else "wording"

    return None


def _other_order(one: TextSignature, other: TextSignature, changes: int) -> Difference | None:
    subjects = set(one.subjects) & set(other.subjects)
    if _within(one.words, subjects) != _within(other.words, subjects):
        if len(subjects) < MIN_REORDERED_SUBJECTS or changes < MIN_REORDERED_FRAME:
            return "order"

    elif not changes and set(one.words) == set(other.words) and one.words != other.words:
        return "order"

    return "direction" if _roles_differ(_shared_roles(one, other), _shared_roles(other, one)) else None


def _roles_differ(roles: set[tuple[int, int]], others: set[tuple[int, int]]) -> bool:
    """Return whether a word has another role ("to Rome", "from Rome"), or a role has moved to another word."""
    lost, gained = roles - others, others - roles
    changed = {word for word, _ in lost} & {word for word, _ in gained}
    moved = {role for _, role in lost} & {role for _, role in gained}
    return bool(changed or moved)


def _changes(words: Counter[int], others: Counter[int]) -> int:
    """Return how many words only one of the texts has. Without a loop in Python: a peer may send thousands."""
    both = words.keys() & others.keys()
    shared = sum(map(min, map(words.__getitem__, both), map(others.__getitem__, both)))
    return words.total() + others.total() - 2 * shared


def _within(words: Iterable[int], kept: set[int]) -> list[int]:
    return [word for word in words if word in kept]


def _shared_roles(one: TextSignature, other: TextSignature) -> set[tuple[int, int]]:
    words = set(other.words)
    return {(word, role) for word, role in one.roles if word in words}

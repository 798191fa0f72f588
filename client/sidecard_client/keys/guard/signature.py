"""Make the signature of a text (`sidecard_client.keys.guard.comparison`). Pure.

The rules are for English: `vocabulary` sorts its words. For a text in another language, the signature holds the text's digest
alone, so that it matches the same text with other case, white space or punctuation. So does the signature of a long text.
"""

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from sidecard_client.keys.guard import vocabulary
from sidecard_client.keys.guard.comparison import Pairs, TextSignature, encode_signature
from sidecard_client.keys.guard.words import stem_of, words_of
from sidecard_client.protocol.values import MAX_SIGNATURE_BYTES

RECIPE: Final = "en-1"

MAX_WORDS: Final = 300
"""A longer text is a document, in which one word of many matters."""

MAX_CHARACTERS: Final = 10_000
"""A longer text is not divided into words; only equal texts match."""

MIN_KNOWN_SHARE: Final = 0.2
"""English texts have a larger share of words that `vocabulary` knows; lists of names have a smaller one."""

MAX_FOREIGN_WORDS: Final = 1
"""As in "Rio de Janeiro"."""

_HASH_BYTES: Final = 4
_KEY_BYTES: Final = 64

_POLITE: Final = re.compile(
    r"^(?:(?:please|kindly|hi|hello|hey|so|ok|okay|well) )*"
    r"(?:(?:can|could|would|will) you (?:please |kindly )?)?"
    r"(?:(?:tell|show|give|teach) (?:me|us) |explain to (?:me|us) |let me know "
    r"|(?:explain|describe|show|say)(?: to me| me)? (?=(?:how|what|when|where|which|who|why)\b)"
    r"|i (?:want|need|would like|d like) to (?:know|ask) )?"
)
_GENERAL_ACTOR: Final = re.compile(r"\bhow (?:do|can|could|should|would|does|might) (?:i|we|you|one|someone)\b")
"""Polite beginnings and general actors add nothing to a question."""


def _by_stem(lines: str | Iterable[str]) -> dict[str, str]:
    """Return the first word of each line, by the words of the line and by their stems."""
    heads: dict[str, str] = {}
    for line in lines.strip().splitlines() if isinstance(lines, str) else lines:
        for word in line.split():
            heads.setdefault(word, line.split()[0])

    return {stem_of(word): head for word, head in heads.items()} | heads


def _poles() -> dict[str, list[tuple[str, str]]]:
    """Return the contrasts of each word, and its pole in each."""
    poles: dict[str, list[tuple[str, str]]] = {}
    for line in vocabulary.CONTRASTS.strip().splitlines():
        for pole in line.split(" | "):
            for word in pole.split():
                poles.setdefault(word, []).append((line, pole))

    return poles


_NEGATIONS: Final = _by_stem(vocabulary.NEGATIONS)
_PERSONS: Final = _by_stem(vocabulary.PERSONS)
_OTHER_PERSONS: Final = _by_stem(vocabulary.OTHER_PERSONS)
_FUNCTION_WORDS: Final = frozenset(vocabulary.FUNCTION_WORDS.split())
_LIGHT: Final = frozenset(_by_stem(vocabulary.LIGHT))
_GENERAL: Final = _by_stem(vocabulary.GENERAL.split()) | _by_stem(vocabulary.SYNONYMS)
_POLES: Final = _poles()
_INTERROGATIVES: Final = _by_stem(vocabulary.INTERROGATIVES)
_LEADING_WORDS: Final = frozenset(vocabulary.LEADING_WORDS.split())
_GOVERNORS: Final = _by_stem(vocabulary.GOVERNORS)
_PARTICLE_VERBS: Final = frozenset(vocabulary.PARTICLE_VERBS.split())
_PARTICLES: Final = _by_stem(vocabulary.PARTICLES)
_FOREIGN: Final = frozenset(vocabulary.FOREIGN.split())
_FOREIGN_NEGATIONS: Final = frozenset(vocabulary.FOREIGN_NEGATIONS.split())
_KNOWN: Final = _FUNCTION_WORDS | _PERSONS.keys() | _NEGATIONS.keys() | _LIGHT | _GENERAL.keys()

_PARTICLE_REACH: Final = 3
"""Words between a verb and its particle: "turn the lights off"."""


class _Features:
    """The features of an English text, found word by word."""

    def __init__(self, words: list[str]) -> None:
        self.negations: list[str] = []
        self.persons = _persons(words)
        self.symbols: list[str] = []
        self.poles: set[tuple[str, str]] = set()
        self.words: dict[str, None] = {}
        self.subjects: set[str] = set()
        self.frame: list[str] = []
        self.roles: set[tuple[str, str]] = set()
        self._governor = ""
        self._negation = ""
        self._since_verb = _PARTICLE_REACH
        for number, word in enumerate(words):
            self._add(word, stem_of(word), words[number - 1] if number else "")

    def _add(self, word: str, stem: str, before: str) -> None:
        self.poles.update(_POLES.get(word, ()), _POLES.get(stem, ()))
        self._find_particle(word, stem)
        self._governor = _GOVERNORS.get(word, self._governor)
        negation, positive = _negation_of(word, stem)
        if negation:
            self.negations.append(negation)
            self._negation = negation
            if positive:
                self._add(positive, stem_of(positive), "")
        elif word in _PERSONS:
            pass  # `_persons` has found it
        elif word in {"am", "pm"} and before.isdecimal():
            self._add_content(word, subject=True)
        elif word in _FUNCTION_WORDS or word in _LIGHT or stem in _LIGHT or word.isdecimal():
            self.frame.append("it" if word in vocabulary.DEMONSTRATIVES else word)
        elif word in _GENERAL or stem in _GENERAL:
            self._add_content(_GENERAL.get(word) or _GENERAL[stem], subject=False)
        elif word[0].isalnum() or word in vocabulary.SYMBOL_WORDS:
            self._add_content(vocabulary.SYMBOL_WORDS.get(word, stem), subject=True)
        else:
            self.symbols.append(word)

    def _add_content(self, word: str, *, subject: bool) -> None:
        self.words[word] = None
        if subject:
            self.subjects.add(word)
            if self._governor:
                self.roles.add((word, self._governor))

        if self._negation:
            self.roles.add((word, self._negation))

        self._governor = self._negation = ""

    def _find_particle(self, word: str, stem: str) -> None:
        if word in _PARTICLES and self._since_verb < _PARTICLE_REACH:
            self.poles.add((_PARTICLES[word], word))

        self._since_verb = 0 if stem in _PARTICLE_VERBS else self._since_verb + 1


def _persons(words: list[str]) -> list[str]:
    """Return the persons in order, each once. "You" and "they" are persons beside others only: "you can find it"."""
    if _PERSONS.keys().isdisjoint(words):
        return []

    persons = _PERSONS | _OTHER_PERSONS
    return list(dict.fromkeys(persons[word] for word in words if word in persons))


def _negation_of(word: str, stem: str) -> tuple[str, str]:
    """Return the kind of a negation, and the word that it has absorbed ("unavailable"); empty texts for another word."""
    if word in _KNOWN or stem in _KNOWN:
        return _NEGATIONS.get(word) or _NEGATIONS.get(stem, ""), ""

    positive = next((word[len(one) :] for one in vocabulary.NEGATIVE_PREFIXES if word.startswith(one)), "")
    positive = positive or (word.removesuffix(vocabulary.NEGATIVE_SUFFIX) if word.endswith("less") else "")
    is_known = positive in _KNOWN or stem_of(positive) in _KNOWN
    return ("not", positive) if positive and is_known else ("", "")


def signature_of(text: str, group: str) -> bytes:
    """Return the encoded signature of a request's text. ``group`` keys its digests."""
    key = group.encode("utf-8", "surrogatepass")[-_KEY_BYTES:]

    def digest(*parts: str) -> int:
        data = "\0".join(parts).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(data, digest_size=_HASH_BYTES, key=key).digest(), "big")

    if len(text) > MAX_CHARACTERS:
        return encode_signature(TextSignature("", digest(text)))

    whole = words_of(text)
    only_text = TextSignature("", digest(*whole))
    if len(whole) > MAX_WORDS or not _is_english(whole):
        return encode_signature(only_text)

    found = _Features(_plain(whole))
    signature = TextSignature(
        RECIPE,
        only_text.text,
        tuple(map(digest, found.negations)),
        digest(_interrogative(whole)),
        tuple(map(digest, found.persons)),
        tuple(map(digest, found.symbols)),
        _pairs(digest, found.poles),
        tuple(map(digest, found.words)),
        tuple(sorted(map(digest, found.subjects))),
        tuple(map(digest, found.frame)),
        _pairs(digest, found.roles),
    )
    encoded = encode_signature(signature)
    return encoded if len(encoded) <= MAX_SIGNATURE_BYTES else encode_signature(only_text)


def _pairs(digest: Callable[[str], int], pairs: Iterable[tuple[str, str]]) -> Pairs:
    return tuple(sorted((digest(one), digest(other)) for one, other in pairs))


def _plain(words: list[str]) -> list[str]:
    """Return the words without a polite beginning and without general actors."""
    return _GENERAL_ACTOR.sub("how", _POLITE.sub("", " ".join(words))).split()


def _is_english(words: list[str]) -> bool:
    if len(_FOREIGN.intersection(words)) > MAX_FOREIGN_WORDS or not _FOREIGN_NEGATIONS.isdisjoint(words):
        return False

    letters = [word for word in words if word.isalpha()]
    known = sum(word in _KNOWN or stem_of(word) in _KNOWN for word in letters)
    return known >= MIN_KNOWN_SHARE * len(letters)


def _interrogative(words: list[str]) -> str:
    for word in words:
        if word in _INTERROGATIVES:
            return _INTERROGATIVES[word]

        if word not in _LEADING_WORDS:
            break

    return ""

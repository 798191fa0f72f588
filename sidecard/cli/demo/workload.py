"""What the demo's workers ask, and when: pure and seeded, so that each run asks the same.

Questions are drawn by Zipf's law, as in real traffic: the first is asked often, the last hardly ever.
From time to time something happens that makes all workers ask one new question in the same moment;
afterwards it is asked again now and then, as the others are.
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
"""Short, and such that a small model says something sensible."""

BURST_EVERY: Final = 4
"""Each worker's first question, and then every fourth, is one that all ask at once."""

_KEPT_FOR_BURSTS: Final = 4

MAX_PAUSE_SECONDS: Final = 0.4
"""Longest pause of a worker between two questions: it has other things to do as well."""


class Turn(Struct, frozen=True):
    """One question of one worker. With ``burst`` it waits for all other workers, else for ``pause_seconds``."""

    question: str
    pause_seconds: float = 0.0
    burst: bool = False


def turns(workers: int, questions: int, seed: int = SEED) -> list[list[Turn]]:
    """Return the turns of each worker, ``questions`` of them."""
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

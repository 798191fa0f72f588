"""Who asks what in the demo. Pure, and the same in each run: the randomness is seeded."""

import random

QUESTIONS = (
    "What is the capital of France?",
    "What is the currency of Japan?",
    "At what temperature does water boil?",
    "What is the largest ocean on Earth?",
    "Which planet is known as the Red Planet?",
    "What is the opposite of hot?",
    "Which gas do plants absorb from the air?",
    "What do bees make?",
    "How many legs does a spider have?",
    "What is the tallest mountain in the world?",
    "Who painted the Mona Lisa?",
    "What is the freezing point of water?",
)

BURST_EVERY = 2
"""Each second wave is a burst: some workers ask the same thing at the same moment."""

SEED = 11

Wave = tuple[str, ...]
"""One question for each worker, all asked at the same moment."""


def plan(workers: int, waves: int, seed: int = SEED) -> list[Wave]:
    """Return ``waves`` waves.

    Questions are drawn by Zipf's law (the second half as often as the first, the third a third as often),
    as requests to caches are: Breslau et al., "Web Caching and Zipf-like Distributions", 1999.
    """
    dice = random.Random(seed)  # noqa: S311 - a workload, the same in each run
    weights = [1 / rank for rank in range(1, len(QUESTIONS) + 1)]
    drawn: list[Wave] = []
    for number in range(waves):
        wave = dice.choices(QUESTIONS, weights, k=workers)
        if number % BURST_EVERY == 0 and workers > 1:
            burst = dice.sample(range(workers), dice.randint(2, workers))
            for worker in burst:
                wave[worker] = wave[burst[0]]

        drawn.append(tuple(wave))

    return drawn

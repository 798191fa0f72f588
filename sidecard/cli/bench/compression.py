"""What it costs, and saves, to keep large answers compressed.

The texts are made of a thousand invented words, as often as words are in English (Zipf). zstd leaves 0.47 of 4 KiB of them and
0.44 of 16 KiB; of real prose (documentation of Python, Perl and Debian) it leaves 0.41 to 0.44 and 0.28 to 0.39, so what is saved
here is less than what is saved there.
"""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from statistics import median
from time import perf_counter

from sidecard.cli.bench.daemon import resident_bytes
from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row, ratio_of
from sidecard.cli.children import end
from sidecard_client import Client

KIBIBYTE = 1024
TEXT_BYTES = 16 * KIBIBYTE
TEXTS = 64
MEMORY_TEXTS_SHARE = 1 / 100
"""Texts whose memory is measured, of `Effort.entries`: they are so much larger than the entries of the other rows."""

WARM_UP_TEXTS = 100

_CONSONANTS, _VOWELS = "bcdfghlmnprstvw", "aeiou"
_WORDS = 1000
_STEEPNESS = 1.1

_SIDES = {
    "plain": (),
    "recent": ("--set", "cache.compress_min_bytes=1KiB"),
    # Room for all texts, and for a few expanded ones only: each is asked for again when it is not remembered any more.
    "expanded": ("--set", "cache.compress_min_bytes=1KiB", "--set", "cache.max_bytes=4MiB"),
}


def prose(count: int, size: int, seed: int = 1) -> list[str]:
    """Return texts, the same for the same seed, that compress as English does, or a little less."""
    chance = random.Random(seed)  # noqa: S311 - the same in each run
    made = {_word(chance) for _ in range(2 * _WORDS)}
    words = sorted(made, key=lambda word: (len(word), word))[:_WORDS]
    weights = list(accumulate(1 / (rank + 2) ** _STEEPNESS for rank in range(len(words))))
    return [_text(chance, words, weights, size) for _ in range(count)]


def _word(chance: random.Random) -> str:
    syllables = chance.choice((1, 2, 2, 2, 3, 3, 4))
    return "".join(chance.choice(_CONSONANTS) + chance.choice(_VOWELS) for _ in range(syllables))


def _text(chance: random.Random, words: Sequence[str], weights: Sequence[float], size: int) -> str:
    sentences: list[str] = []
    length = 0
    while length < size:
        sentence = " ".join(chance.choices(words, cum_weights=weights, k=chance.randrange(6, 20))).capitalize() + ". "
        sentences.append(sentence)
        length += len(sentence)

    return "".join(sentences)[:size]


def compression(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit of a compressed answer with one of an answer that is not, and what they take of memory."""
    return [*_hits(hosts, effort), _memory(hosts, effort)]


def _hits(hosts: Hosts, effort: Effort) -> list[Row]:
    texts = dict(enumerate(prose(TEXTS, TEXT_BYTES)))
    times: dict[str, list[float]] = {side: [] for side in _SIDES}
    with ExitStack() as stack:
        clients = {}
        for side, flags in _SIDES.items():
            path, _ = hosts.children.start_daemon(side, "--no-state", "--set", "cache.ttl_seconds=86400", *flags)
            clients[side] = stack.enter_context(Client(path))
            for number in texts:
                clients[side].call(texts.__getitem__, number, name="text")

        for _ in range(effort.rounds):
            seconds: dict[str, list[float]] = {side: [] for side in _SIDES}
            # In turn, call by call, as in `sidecard.cli.bench.metrics`.
            for call in range(effort.calls):
                for side, client in clients.items():
                    began_at = perf_counter()
                    client.call(texts.__getitem__, call % TEXTS, name="text")
                    seconds[side].append(perf_counter() - began_at)

            for side, of_round in seconds.items():
                times[side].append(median(of_round))

        calls = {side: client.report().total.upstream_calls for side, client in clients.items()}

    fault = "" if set(calls.values()) == {TEXTS} else f"calls were not hits: {calls}"
    figures = {f"{side}_seconds": median(of) for side, of in times.items()}
    return [
        Row(what, target, ratio_of(times[side], times["plain"]), figures=figures, fault=fault)
        for side, what, target in (
            ("recent", "hit of a compressed 16 KiB text, expanded lately, against a plain one", 1.1),
            ("expanded", "the same, expanded for it", 3.0),
        )
    ]


def _memory(hosts: Hosts, effort: Effort) -> Row:
    count = round(effort.entries * MEMORY_TEXTS_SHARE)
    texts = prose(count + WARM_UP_TEXTS, TEXT_BYTES)
    grown = {}
    for side in ("plain", "recent"):
        flags = "--no-state", "--set", "cache.max_bytes=16GiB", *_SIDES[side]
        path, process = hosts.children.start_daemon(f"memory-{side}", *flags)
        with Client(path) as client:
            for number, text in enumerate(texts[:WARM_UP_TEXTS]):
                client.put(f"warm-{number}", text)

            before = resident_bytes(process.pid)
            for number, text in enumerate(texts[WARM_UP_TEXTS:]):
                client.put(f"text-{number}", text)

            grown[side] = (resident_bytes(process.pid) - before) / count

        end(process)

    figures = {"plain_bytes": grown["plain"], "compressed_bytes": grown["recent"]}
    return Row(
        "memory of a 16 KiB text, compressed against plain", 0.6, grown["recent"] / grown["plain"], figures=figures
    )

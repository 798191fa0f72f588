"""Measure the cost and benefit of storing large answers compressed.

The texts consist of a thousand invented words with English word frequencies (Zipf). zstd reduces 4 KiB of them to 0.47 and 16
KiB to 0.44; it reduces real prose (the documentation of Python, Perl and Debian) to 0.41 to 0.44 and 0.28 to 0.39. So real texts
save more than these.
"""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from statistics import median
from time import perf_counter

from sidecard.cli.bench.hosts import NO_VIEW, Hosts
from sidecard.cli.bench.parts import Part
from sidecard.cli.bench.rows import Effort, Row, ratio_of
from sidecard.cli.processes import end
from sidecard_client import Client
from tests.bench.command import run_parts
from tests.bench.scale import resident_bytes

KIBIBYTE = 1024
TEXT_BYTES = 16 * KIBIBYTE
TEXTS = 64
MEMORY_TEXTS = 1000

WARM_UP_TEXTS = 100

_CONSONANTS, _VOWELS = "bcdfghlmnprstvw", "aeiou"
_WORDS = 1000
_STEEPNESS = 1.1

_SIDES = {
    "plain": (),
    "cached": ("--set", "cache.compress_min_bytes=1KiB"),
    # Room for all compressed texts but for only a few expanded ones: each expanded copy is gone before its next request.
    "expanded": ("--set", "cache.compress_min_bytes=1KiB", "--set", "cache.max_bytes=4MiB"),
}


def prose(count: int, size: int, seed: int = 1) -> list[str]:
    """Return texts that compress like English or slightly worse; equal seeds give equal texts."""
    chance = random.Random(seed)
    words_made = {_word(chance) for _ in range(2 * _WORDS)}
    words = sorted(words_made, key=lambda word: (len(word), word))[:_WORDS]
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
    """Compare hits on compressed and plain answers, and their memory."""
    return [*_hits(hosts, effort), _memory(hosts)]


def _hits(hosts: Hosts, effort: Effort) -> list[Row]:
    texts = dict(enumerate(prose(TEXTS, TEXT_BYTES)))
    times: dict[str, list[float]] = {side: [] for side in _SIDES}
    with ExitStack() as stack:
        clients = {}
        for side, flags in _SIDES.items():
            path, _ = hosts.processes.start_daemon(
                side, "--no-state", *NO_VIEW, "--set", "cache.ttl_seconds=86400", *flags
            )
            clients[side] = stack.enter_context(Client(path))
            for number in texts:
                clients[side].call(texts.__getitem__, number, name="text")

        for _ in range(effort.rounds):
            seconds: dict[str, list[float]] = {side: [] for side in _SIDES}
            # Interleaved call by call, as in `tests.bench.own_ratios`.
            for call in range(effort.calls):
                for side, client in clients.items():
                    began_at = perf_counter()
                    client.call(texts.__getitem__, call % TEXTS, name="text")
                    seconds[side].append(perf_counter() - began_at)

            for side, round_seconds in seconds.items():
                times[side].append(median(round_seconds))

        calls = {side: client.report().total.upstream_calls for side, client in clients.items()}

    fault = "" if set(calls.values()) == {TEXTS} else f"not all calls were hits: upstream calls {calls}"
    figures = {f"{side}_seconds": median(side_times) for side, side_times in times.items()}
    return [
        Row(what, target, ratio_of(times[side], times["plain"]), figures=figures, fault=fault)
        for side, what, target in (
            ("cached", "hit of a compressed 16 KiB text with a cached expansion, against a plain one", 1.1),
            ("expanded", "hit of a compressed 16 KiB text, expanded for the hit, against a plain one", 3.0),
        )
    ]


def _memory(hosts: Hosts) -> Row:
    texts = prose(MEMORY_TEXTS + WARM_UP_TEXTS, TEXT_BYTES)
    grown = {}
    for side in ("plain", "cached"):
        flags = "--no-state", *NO_VIEW, "--set", "cache.max_bytes=16GiB", *_SIDES[side]
        path, process = hosts.processes.start_daemon(f"memory-{side}", *flags)
        with Client(path) as client:
            for number, text in enumerate(texts[:WARM_UP_TEXTS]):
                client.put(f"warm-{number}", text)

            before = resident_bytes(process.pid)
            for number, text in enumerate(texts[WARM_UP_TEXTS:]):
                client.put(f"text-{number}", text)

            grown[side] = (resident_bytes(process.pid) - before) / MEMORY_TEXTS

        end(process)

    figures = {"plain_bytes": grown["plain"], "compressed_bytes": grown["cached"]}
    return Row(
        "memory of a 16 KiB text, compressed against plain", 0.6, grown["cached"] / grown["plain"], figures=figures
    )


if __name__ == "__main__":
    run_parts(
        "compression",
        "Measures the cost and benefit of storing large answers compressed.",
        Part(compression, "one cpu"),
    )

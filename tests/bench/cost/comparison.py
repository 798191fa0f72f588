"""Compare the cost of a mixed workload: always remote, with sidecard, and the possible minimum.

Easy prompts can be answered by a free local model or an expensive remote one, hard prompts only by the remote one; some prompts
repeat. The minimum is one call per distinct hard prompt, because easy prompts are free locally. The models are functions that
sleep; workers, daemon, leases, queues and prices are real.
"""

import random
import subprocess
import sys
from collections.abc import Sequence
from statistics import quantiles

import msgspec
from msgspec import Struct

from sidecard.cli.processes import Processes
from sidecard.cli.text.numbers import count, dollars, ratio, seconds
from sidecard.cli.text.tables import render, table
from sidecard.errors import SidecardError
from tests.bench.cost.worker import COMPLETION_TOKENS, PROMPT_TOKENS, Assignment, Prompt, Result

SEED = 1
CALLS = 2000
DISTINCT_PROMPTS = 700
"""Prompts to draw from; their frequencies follow a power law, as in public traces with repeats."""

HARD_SHARE = 0.3
WORKERS = 4
THREADS = 4
LOCAL_SLOTS = 4
INPUT_DOLLARS, OUTPUT_DOLLARS = 2.5, 10.0
"""Price of a million tokens of a large model, 2026."""

DOLLARS_PER_CALL = (PROMPT_TOKENS * INPUT_DOLLARS + COMPLETION_TOKENS * OUTPUT_DOLLARS) / 1e6


class Cost(Struct, frozen=True):
    """The result of serving the workload in one way."""

    name: str
    dollars: float
    cloud_calls: int
    local_calls: int
    median_seconds: float | None = None
    p95_seconds: float | None = None


def workload(seed: int = SEED) -> list[Prompt]:
    """Return the prompts of all calls, in order."""
    chance = random.Random(seed)
    prompts = [Prompt(f"prompt {number}", chance.random() < HARD_SHARE) for number in range(DISTINCT_PROMPTS)]
    weights = [1 / (rank + 1) ** 0.6 for rank in range(DISTINCT_PROMPTS)]
    return chance.choices(prompts, weights, k=CALLS)


def minimum(prompts: Sequence[Prompt]) -> Cost:
    """Return the lowest possible cost of the workload."""
    distinct = set(prompts)
    hard = sum(prompt.hard for prompt in distinct)
    return Cost("the possible minimum", hard * DOLLARS_PER_CALL, hard, len(distinct) - hard)


def measure(prompts: Sequence[Prompt]) -> list[Cost]:
    """Serve the workload in each way. Raises `SidecardError` if a worker or the daemon fails."""
    return [
        _serve("always remote, without sidecard", prompts, daemon=False),
        _serve("sidecard, remote while the local model is full", prompts, daemon=True),
        _serve("sidecard, easy calls wait for the local model", prompts, daemon=True, overflow=False),
        minimum(prompts),
    ]


def draw(costs: Sequence[Cost]) -> str:
    """Return the costs as a table; the first row is the baseline, the last the minimum."""
    first, last = costs[0], costs[-1]
    rows = [
        (
            cost.name,
            dollars(cost.dollars),
            ratio(cost.dollars / first.dollars),
            ratio(cost.dollars / last.dollars),
            count(cost.cloud_calls),
            count(cost.local_calls),
            "-" if cost.median_seconds is None else seconds(cost.median_seconds),
            "-" if cost.p95_seconds is None else seconds(cost.p95_seconds),
        )
        for cost in costs
    ]
    heads = ("way", "cost", "/ always remote", "/ minimum", "remote calls", "local calls", "median", "95 %")
    return render(table("", heads, rows))


def _serve(name: str, prompts: Sequence[Prompt], *, daemon: bool, overflow: bool = True) -> Cost:
    with Processes() as processes:
        socket = ""
        if daemon:
            flags = {
                "backends.local.locality": "local",
                "backends.local.max_concurrent": LOCAL_SLOTS,
                "backends.cloud.input_dollars_per_million_tokens": INPUT_DOLLARS,
                "backends.cloud.output_dollars_per_million_tokens": OUTPUT_DOLLARS,
            }
            settings = [text for key, value in flags.items() for text in ("--set", f"{key}={value}")]
            socket, _ = processes.start_daemon("sidecard", *settings)

        results = _run_workers(processes, socket, prompts, overflow=overflow)

    cloud_calls = sum(result.cloud_calls for result in results)
    cuts = quantiles([taken for result in results for taken in result.seconds], n=20)
    local_calls = sum(result.local_calls for result in results)
    return Cost(name, cloud_calls * DOLLARS_PER_CALL, cloud_calls, local_calls, cuts[9], cuts[18])


def _run_workers(processes: Processes, socket: str, prompts: Sequence[Prompt], *, overflow: bool) -> list[Result]:
    workers = []
    for worker in range(WORKERS):
        parts = [list(prompts[worker * THREADS + thread :: WORKERS * THREADS]) for thread in range(THREADS)]
        assignment = msgspec.json.encode(Assignment(socket, parts, overflow)).decode()
        command = (sys.executable, "-m", "tests.bench.cost.worker", assignment)
        workers.append(processes.start(*command, stdout=subprocess.PIPE))

    results = []
    for process in workers:
        output, _ = process.communicate()
        if process.returncode:
            raise SidecardError(f"a bench worker failed:\n{processes.stderr_of(process)}")

        results.append(msgspec.json.decode(output, type=Result))

    rejected = sum(result.rejected for result in results)
    if rejected:
        raise SidecardError(f"{rejected} calls of the bench were rejected; expected none")

    return results

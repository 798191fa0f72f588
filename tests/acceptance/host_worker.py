"""The callers of one host, as a process of their own: many tasks that ask for one key, or for many.

Takes a `Plan` as JSON, says ``ready``, waits for a line, calls, and prints an `Account` as JSON.
"""

import random
import time
from collections import Counter

import anyio
import msgspec

from sidecard_client import AsyncClient, CallFailed, CallTimeout
from tests.worker_process import PATIENCE_SECONDS, Ledger, follow


class Plan(msgspec.Struct):
    """What the callers of one host do."""

    socket: str
    ledger: str
    """A line is added here by each call that reaches the upstream."""
    callers: int
    work_seconds: float
    calls: int = 1
    """Of each caller."""
    keys: int = 1
    wait_seconds: float = 30.0
    cancel_within_seconds: float = 0.0
    """If not 0, each call is given up at some instant within so long."""
    seed: int = 0


class Account(msgspec.Struct):
    """How the calls ended, how long the longest took, and when the last one ended."""

    ends: dict[str, int]
    wrong: list[str]
    longest_seconds: float
    ended_at: float
    """Of the monotonic clock, which all processes of a host share."""


async def main(plan: Plan) -> Account:
    """Make all calls."""
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    longest_seconds = 0.0
    chance = random.Random(plan.seed)
    ledger = Ledger(plan.ledger)

    async def upstream(key: int) -> str:
        ledger.write(key)
        await anyio.sleep(plan.work_seconds)
        return f"answer {key}"

    async with AsyncClient(plan.socket, daemon_timeout=PATIENCE_SECONDS) as sidecard:

        async def caller() -> None:
            nonlocal longest_seconds
            for _ in range(plan.calls):
                key = chance.randrange(plan.keys)
                began_at = time.monotonic()
                patience = chance.uniform(0, plan.cancel_within_seconds) if plan.cancel_within_seconds else None
                end = "cancelled"
                with anyio.move_on_after(patience):
                    try:
                        outcome = await sidecard.outcome(upstream, key, wait=plan.wait_seconds, name="upstream")
                    except (CallFailed, CallTimeout) as error:
                        end = type(error).__name__
                    else:
                        end = outcome.source
                        if outcome.value != f"answer {key}":
                            wrong.append(f"{outcome.value!r} for {key}")

                ends[end] += 1
                longest_seconds = max(longest_seconds, time.monotonic() - began_at)

        await sidecard.put("connected", 1)
        async with anyio.create_task_group() as tasks:
            for _ in range(plan.callers):
                tasks.start_soon(caller)

        ended_at = time.monotonic()

    return Account(dict(ends), wrong, longest_seconds, ended_at)


if __name__ == "__main__":
    follow(Plan, lambda plan: anyio.run(main, plan))

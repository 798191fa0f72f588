"""What the worker processes of acceptance tests share: a plan, a start signal, a ledger, and callers in threads."""

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

PATIENCE_SECONDS = 10.0
"""Timeout for the daemon's replies: on a busy machine, calls made without the daemon are the subject of other tests."""

Plan = TypeVar("Plan")


class Ledger:
    """A file to which upstream functions append lines: calls are counted at the backend, not at the daemon."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *words: object) -> None:
        """Append one line, in one write."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def follow(
    plan_type: type[Plan], work: Callable[[Plan], object], before: Callable[[Plan], None] = lambda _: None
) -> None:
    """Read the plan from the command line, print ``ready``, wait for a line, work, and print the result as JSON."""
    plan = msgspec.json.decode(sys.argv[1], type=plan_type)
    before(plan)
    print("ready", flush=True)
    sys.stdin.readline()
    sys.stdout.buffer.write(msgspec.json.encode(work(plan)) + b"\n")


def in_threads(count: int, caller: Callable[[int], None]) -> None:
    """Run callers in threads, each with its number, until all have ended."""
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

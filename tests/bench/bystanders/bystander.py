"""A uid that works while another one attacks: ``bystander.py PATH UID PRIORITY MISSES``, with the client of the tree on PYTHONPATH.

Makes a call, pauses for a millisecond, and so on: three hits for one miss, and one call of 25 with a client of its own, as a new process would. It
prints a line when it is ready; each line on its standard input ends a period, whose measurements it prints.
"""

import gc
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

from sidecard_client import Client

PAUSE_SECONDS = 0.001


def answer(number: int) -> str:
    """Answer at once, so that what is measured is the daemon."""
    return f"answer {number}"


def main() -> None:
    """Make calls, and print their latencies."""
    path, (uid, priority, misses) = sys.argv[1], map(int, sys.argv[2:])
    logging.disable(logging.CRITICAL)
    if priority:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))

    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    gc.disable()
    period = threading.Event()
    ended = threading.Event()

    def listen() -> None:
        for _ in sys.stdin:
            period.set()

        ended.set()
        period.set()

    threading.Thread(target=listen, daemon=True).start()
    taken: list[float] = []
    ends: Counter[str] = Counter()
    with Client(path) as steady:
        steady.call(answer, 0)
        print(json.dumps("ready"), flush=True)
        number = 0
        while not ended.is_set():
            number += 1
            started = time.perf_counter()
            try:
                if number % 25 == 0:
                    with Client(path) as newcomer:
                        outcome = newcomer.outcome(answer, 0)
                        taken.append(time.perf_counter() - started)
                else:
                    outcome = steady.outcome(answer, number if misses and number % 4 == 0 else 0)
                    taken.append(time.perf_counter() - started)

                right = outcome.value.startswith("answer ")
                ends[outcome.source if right else f"wrong: {outcome.value[:100]}"] += 1
            except Exception as error:  # noqa: BLE001 - any exception is a finding
                taken.append(time.perf_counter() - started)
                ends[f"{type(error).__name__}: {error}"[:200]] += 1

            if period.is_set():
                period.clear()
                print(json.dumps({"taken": taken, "ends": ends}), flush=True)
                taken, ends = [], Counter()

            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()

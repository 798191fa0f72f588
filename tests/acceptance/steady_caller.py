"""Calls at a steady rate, on a machine of its own: ``steady_caller.py SOCKET CALLS_PER_SECOND SECONDS PREFIX``.

Prints ``{"ready": true}`` after the first answer and, at the end, what came of all calls. A quarter of the prompts is new,
the rest repeats fifty; all begin with PREFIX, since a store remembers earlier ones. The model takes a millisecond.
"""

import json
import sys
import threading
import time
from collections import Counter

from sidecard_client import Client

WORKERS = 4


def model(prompt: str) -> str:
    """Answer."""
    time.sleep(0.001)
    return f"answer to {prompt}"


def main() -> None:
    """Make calls, and print their results."""
    path, rate, seconds, prefix = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    lock = threading.Lock()
    sources: Counter[str] = Counter()
    faults: list[str] = []
    longest = 0.0

    with Client(path) as sidecard:
        print(json.dumps({"ready": sidecard.call(model, f"{prefix}0") == model(f"{prefix}0")}), flush=True)
        began = time.monotonic()

        def work(worker: int) -> None:
            nonlocal longest
            for turn in range(int(rate * seconds / WORKERS)):
                due = began + turn * WORKERS / rate
                time.sleep(max(0.0, due - time.monotonic()))
                prompt = prefix + (f"{worker}.{turn}" if turn % 4 == 0 else str(turn % 50))
                started = time.monotonic()
                try:
                    outcome = sidecard.outcome(model, prompt)
                    fault = None if outcome.value == f"answer to {prompt}" else f"{prompt}: {outcome.value}"
                    source: str = outcome.source
                except Exception as error:  # noqa: BLE001 - any exception is a finding
                    fault, source = repr(error), "failed"

                with lock:
                    sources[source] += 1
                    longest = max(longest, time.monotonic() - started)
                    if fault is not None:
                        faults.append(fault)

        workers = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
        for worker in workers:
            worker.start()

        for worker in workers:
            worker.join()

        last = sidecard.outcome(model, f"{prefix}0").source

    print(json.dumps({"sources": sources, "faults": faults[:5], "longest_seconds": longest, "last": last}), flush=True)


if __name__ == "__main__":
    main()

"""A process that pushes, to be killed: ``push_worker URL DIRECTORY FIRST JOURNAL``.

Its one series counts on from ``FIRST``; each value is written to the journal when it has been collected.
"""

import sys
import time
from pathlib import Path

import anyio

from sidecard.config.schema import PushSettings
from sidecard.observe.push.push import Push
from sidecard_client.protocol.wire import Family, Sample

INTERVAL_SECONDS = 0.05


def main(url: str, directory: str, first: str, journal: str) -> None:
    """Push until killed."""
    with Path(journal).open("a", buffering=1) as collected:
        number = int(first) - 1

        def collect() -> list[Family]:
            nonlocal number
            number += 1
            print(number, file=collected)
            return [Family("tests", "counter", "Counts.", [Sample("tests_total", number)])]

        push = Push(
            PushSettings(url=url, instance="host", interval_seconds=INTERVAL_SECONDS, timeout_seconds=1.0),
            collect,
            directory=Path(directory),
            clock=time.monotonic,
            wall=lambda: time.time_ns() / 1e9,
            log=lambda *said, **fields: print(said, fields),
            count=print,
            jitter=lambda: 1.0,  # the shortest pauses
        )
        anyio.run(push.run)


if __name__ == "__main__":
    main(*sys.argv[1:])

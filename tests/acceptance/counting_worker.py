"""A worker that counts to a million: ``counting_worker SOCKET NUMBER NOTES``.

In the file of notes it says, as two 64-bit numbers, how many increments it has begun and how many are acknowledged.
"""

import mmap
import struct
import sys
from pathlib import Path

from sidecard_client import Client

INCREMENTS = 1_000_000
CHUNK = 5_000
NOTES = struct.Struct("<QQ")


def main(path: str, number: str, notes_path: str) -> None:
    """Count."""
    with Path(notes_path).open("r+b") as file, mmap.mmap(file.fileno(), NOTES.size) as notes, Client(path) as client:
        increment = client.counter("work", "Work done.").labels(number=number).inc
        alive = client.gauge("alive", "Workers.")
        alive.set(1)
        acknowledged = 0
        for begun in range(CHUNK, INCREMENTS + 1, CHUNK):
            NOTES.pack_into(notes, 0, begun, acknowledged)
            for _ in range(CHUNK):
                increment()

            # The daemon may be killed in between as well, so not all of them succeed.
            if begun % (4 * CHUNK) == 0 and client.flush_metrics(0.5):
                acknowledged = begun

        while not client.flush_metrics(1.0):
            pass

        NOTES.pack_into(notes, 0, INCREMENTS, INCREMENTS)


if __name__ == "__main__":
    main(*sys.argv[1:])

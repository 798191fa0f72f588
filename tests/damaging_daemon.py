"""A daemon with damaged memory: ``python -m tests.damaging_daemon serve ...`` is the real command, whose views a thread damages.

It flips bits and writes words through the daemon's own mapping, in the header, in the index and in records, and mostly undoes that
soon, so that there is something to read.
"""

import random
import sys
import threading
import time
from typing import Any

from sidecard.cli import main
from sidecard.server.views.memory import ViewMemory
from sidecard_client.protocol import view as layout

_BYTES_OF_RECORDS = 16 * 1024
"""Where records of a test are, from the start of the arena."""

_PAUSE_SECONDS = 0.0005


def damage(memory: Any, chance: random.Random) -> None:
    """Damage one place, and undo it."""
    words = memory._words
    header = layout.decode_header(bytes(memory._bytes[: layout.HEADER_BYTES]))
    part = chance.choice(["header", "index", "index", "records", "records"])
    begin, size = {
        "header": (0, 96),
        "index": (header.index_offset, header.arena_offset - header.index_offset),
        "records": (header.arena_offset, _BYTES_OF_RECORDS),
    }[part]
    if part == "index":
        # Most slots are empty: damage one that is not.
        slots = range(begin, begin + size, layout.SLOT_BYTES)
        used = [at for at in slots if words[at // 8 + 1]] or list(slots)
        begin, size = chance.choice(used), layout.SLOT_BYTES

    word = (begin + chance.randrange(size)) // 8
    flipped = chance.choice([1 << chance.randrange(64), chance.getrandbits(64)])
    if part == "header" and word == layout.GENERATION_AT // 8 and words[word] ^ flipped == layout.RETIRED:
        return  # clients would ask for another view, which is tested elsewhere

    right = words[word]
    words[word] = damaged = right ^ flipped
    time.sleep(_PAUSE_SECONDS)
    if words[word] == damaged:  # otherwise the daemon has written it meanwhile, and rightly
        words[word] = right


def _damage_all() -> None:
    allocate, known = ViewMemory.allocate, list[ViewMemory]()

    def noticed(self: ViewMemory) -> Any:
        yield from allocate(self)
        known.append(self)

    setattr(ViewMemory, "allocate", noticed)  # noqa: B010 - in this process alone

    def work() -> None:
        chance = random.Random(1)
        while True:
            time.sleep(_PAUSE_SECONDS)
            for memory in known:
                damage(memory, chance)

    threading.Thread(target=work, daemon=True).start()


if __name__ == "__main__":
    _damage_all()
    sys.exit(main())

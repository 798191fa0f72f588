"""The law of views, word by word: a read returns what was published under its key, whole, and not removed before the read began.

The stores of a planned view are recorded once. Each read begins at some time, sees the words that `Loads` lets it see, and is judged
by what was acknowledged when it began.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sidecard.core.effects import RetireView
from sidecard.server.views.file import ViewFile
from sidecard.server.views.memory import ViewMemory
from sidecard_client.protocol import view as layout
from sidecard_client.protocol.wire import Hit
from sidecard_client.view.reader import ViewReader
from tests.simulation.view.plans import NOW, SLOT_COUNT, TASK, VIEW, Event, Operation, Publication
from tests.simulation.view.words import WORD, Architecture, Loads, Store, Timeline, visible_order

SIZE = layout.MIN_VIEW_BYTES

_TURN = object()

Change = Callable[[Operation, list[Store]], list[Store]]
"""Changes the stores of an operation: a planted bug."""


class Memory:
    """What a writer writes to, or a reader reads from, instead of a mapped file. Each access is recorded, or decided, word by word."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def _span(self, place: slice) -> tuple[int, int]:
        start, stop, _ = place.indices(self._size)
        return start, stop


class WrittenMemory(Memory):
    """Records the stores of a writer."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.bytes = bytearray(size)
        self.stores: list[Store] = []

    def __getitem__(self, word: int) -> int:
        return int.from_bytes(self.bytes[word * WORD : (word + 1) * WORD], "little")

    def __setitem__(self, place: slice | int, data: Any) -> None:
        if isinstance(place, int):
            place, data = slice(place * WORD, (place + 1) * WORD), data.to_bytes(WORD, "little")

        start, stop = self._span(place)
        assert stop - start == len(data), "a store outside of the view"
        self.bytes[start:stop] = data
        for word in range(start // WORD, -(-stop // WORD)):
            self.stores.append(Store(word, bytes(self.bytes[word * WORD : (word + 1) * WORD])))


class RecordedMemory(ViewMemory):
    """The memory of a view as the daemon writes it, but for the file."""

    def __init__(self, memory: Any) -> None:
        self._header = layout.header_for(VIEW, SIZE, SLOT_COUNT, "0123456789abcdef")
        self._bytes = self._words = memory

    def allocate(self) -> Iterator[None]:
        """Write the header."""
        encoded = layout.encode_header(self._header)
        self._bytes[: len(encoded)] = encoded
        return iter(())

    def close(self) -> None:
        """Leave the memory to the test."""


class ReadBytes(Memory):
    """Lets a reader see what `Loads` lets it see, by bytes."""

    def __init__(self, size: int, loads: Loads) -> None:
        super().__init__(size)
        self._loads = loads

    def __getitem__(self, place: slice) -> bytes:
        start, stop = self._span(place)
        return self._loads.load(start, stop - start)


class ReadWords:
    """The same by words."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._loads.load(place * WORD, WORD), "little")


class Recorded(NamedTuple):
    """The stores of some events."""

    initial: bytes
    segments: list[list[Store]]
    """Each ends with a system call."""

    def timeline(self, architecture: Architecture, chance: random.Random) -> Timeline:
        """Return what each word holds at each time."""
        ordered = [store for segment in self.segments for store in segment]
        return Timeline(self.initial, visible_order(self.segments, chance) if architecture == "arm64" else ordered)


class Reader:
    """The real reader of a view, whose loads a test decides."""

    def __init__(self, recorded: Recorded) -> None:
        self._data: Any = None
        self._words: Any = None
        self._now = 0.0
        self.found: list[int] = []
        """Publications that it has booked."""
        memory = recorded.initial
        self._reader = ViewReader(memory, memoryview(memory).cast("Q"), lambda: lambda _: [], lambda: NOW)
        self._reader._data, self._reader._words = self, self

    def __getitem__(self, place: Any) -> Any:
        return self._words[place] if isinstance(place, int) else self._data[place]

    def read(self, loads: Loads, digest: bytes, bug: Any = None) -> Hit | None:
        """Read once."""
        self._data, self._words = ReadBytes(SIZE, loads), ReadWords(loads)
        if bug is not None:
            self._data = self._words = bug(self._data, self._words, digest)

        self._reader.usable = True  # an earlier read of the test may have seen later stores
        return self._reader.read(digest.hex(), TASK, None, lambda hit: self.found.append(hit[0]))


def record(events: Iterable[Event], change: Change = lambda _, stores: stores) -> Recorded:
    """Record what a writer stores for some events, and when what they remove is acknowledged."""
    memory = WrittenMemory(SIZE)
    writer = ViewFile(RecordedMemory(memory), lambda: NOW, on_failed=_fail, on_erased=lambda: None)
    writer.serve_turn()
    initial, memory.stores = bytes(memory.bytes), []
    segments: list[list[Store]] = []

    def perform(operations: Iterable[Any]) -> int:
        segment: list[Store] = []
        for operation in operations:
            if operation is _TURN:
                writer.serve_turn()
            elif isinstance(operation, RetireView):
                writer.retire()
            else:
                writer.change(operation)

            segment += change(operation, memory.stores)
            memory.stores = []

        segments.append(segment)
        return sum(map(len, segments))

    for event in events:
        acknowledged_at = perform(event.operations)
        for publication in event.removed:
            publication.acknowledged_at = acknowledged_at

        if event.late:
            perform(event.late)

    perform([_TURN])  # a retired view is erased in turns of its own

    return Recorded(initial, segments)


def _fail(error: OSError) -> None:
    raise error


def judge(hit: Hit | None, number: int, digest: bytes, began: int, known: Sequence[Publication]) -> None:
    """Check what a read returned that began after so many stores; ``number`` is the publication that it booked."""
    if hit is None:
        return

    (publication,) = [one for one in known if one.number == number]
    entry = layout.decode_record(publication.record)
    expected = (entry.value, NOW - entry.stored_at, entry.seconds, entry.dollars, entry.backend, entry.meta)
    found = (hit.value, hit.age_seconds, hit.saved_seconds, hit.saved_dollars, hit.backend, hit.meta)
    assert found == expected, f"a read returned what was never published: {hit}"
    assert publication.digest == digest, "a read returned another key's value"
    assert began < publication.acknowledged_at, "a read returned what was removed before it began"
    assert publication.expires_at > NOW, "a read returned what has expired"

"""Answers to similar requests: found by the vectors of the requests' texts, where a task wants it.

A *group* are the requests of one scope and task that are equal but for their text. It holds the answers that came with a
vector, and finds those that are nearest to another vector. How they are found is the index's, which the shell brings along
(`VectorIndex`); a daemon none of whose tasks looks for similar requests makes none.

=======================  ==============================================================================================
begin                    with ``embeds`` or a vector, of a task that looks for similar requests
=======================  ==============================================================================================
its own answer is there  a hit; the vector is not looked at
a flight of its key      it waits: calls are shared by those of one key alone
its answer is stale      as without: it leads, and what it brings is found by the vector of what it replaces
neither, ``embeds``      `VectorWanted`
neither, a vector        the nearest answer that may be served, else as without
``mode`` refresh         as without: nothing is looked for, but its answer is kept with its vector
``cache`` is ``never``   as without, and no vector is wanted: there would be no answer to keep it with
=======================  ==============================================================================================

A vector lives as long as its entry: `Cache` tells the entry's group when it leaves, by whatever way. Its bytes are part of the
entry's charge. What is served to a similar request makes no entry under that request's key: an answer that is near enough to
one question would else be served to what is near to the next, and so on, further each time.
"""

from array import array
from collections.abc import Callable, Iterable
from math import isfinite
from operator import mul
from typing import NamedTuple, Protocol

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Send
from sidecard.core.events import Peer
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import Streams
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire

NEAREST = 8
"""So many are looked at: those among them that are stale, or doubted, are passed over."""

BYTES_PER_NUMBER = 4

VECTOR_OVERHEAD_BYTES = 700
"""What a vector costs beside its numbers: its links in the index, its label and its places in the group's tables.
Measured by `tests/bench/test_similar.py` against the resident set."""

GROUP_OVERHEAD_BYTES = 1500
"""What a group costs beside its vectors. Each entry is charged for it: a group may have no other one."""


class VectorIndex(Protocol):
    """Vectors of one number of dimensions, by label. A vector is its numbers' bytes, float 32, in the host's order."""

    def add(self, label: int, vector: bytes) -> None:
        """Take a vector in under a label that is not in use."""
        ...

    def get(self, label: int) -> bytes:
        """Return a vector, as exact as it is kept."""
        ...

    def remove(self, label: int) -> None:
        """Let a vector go."""
        ...

    def nearest(self, vector: bytes, count: int) -> Iterable[tuple[int, float]]:
        """Return labels with their cosines, the nearest first; some of the nearest may be missed."""
        ...


IndexFactory = Callable[[int], VectorIndex]
"""Makes an index for vectors of so many dimensions."""


class GroupKey(NamedTuple):
    """What all requests of a group have in common."""

    scope: str
    task: str
    group: str
    stream: bool


class SimilarityGroup:
    """The answers to requests that differ in their text alone."""

    def __init__(self, similar: "SimilarAnswers", place: GroupKey, dimensions: int, index: VectorIndex) -> None:
        self.dimensions = dimensions
        self._similar = similar
        self.place = place
        self._index = index
        self._last_label = 0
        self._entries: dict[int, Entry] = {}
        """By label, the oldest first."""
        self._labels: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, vector: bytes, most: int) -> None:
        """Let an entry be found by its vector. Beyond ``most`` of them the oldest is found no more."""
        self._last_label = label = self._last_label + 1
        self._index.add(label, vector)
        self._entries[label] = entry
        self._labels[entry.key] = label
        self._similar.count += 1
        # It was dropped if making room for this entry has removed its last one.
        self._similar.groups[self.place] = self
        while len(self._entries) > most:
            self.forget(next(iter(self._entries.values())))

    def forget(self, entry: Entry) -> None:
        """An entry leaves the cache, or is to be found no more."""
        label = self._labels.pop(entry.key, None)
        if label is None:
            return

        del self._entries[label]
        self._index.remove(label)
        self._similar.count -= 1
        if not self._entries:
            del self._similar.groups[self.place]

    def close(self) -> None:
        """Find nothing any more."""
        for entry in list(self._entries.values()):
            self.forget(entry)

    def vector(self, entry: Entry) -> bytes | None:
        """Return the vector of an entry."""
        label = self._labels.get(entry.key)
        return None if label is None else self._index.get(label)

    def nearest(self, vector: bytes) -> Iterable[tuple[Entry, float]]:
        """Return entries with their similarities, the nearest first."""
        for label, cosine in self._index.nearest(vector, NEAREST):
            yield self._entries[label], min(1.0, cosine)


class Placement(NamedTuple):
    """How an answer that is about to be stored is to be found."""

    group: SimilarityGroup
    vector: bytes

    @property
    def charge(self) -> int:
        """The bytes that its entry counts for besides."""
        return BYTES_PER_NUMBER * self.group.dimensions + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES


class SimilarAnswers:
    """All groups. Without ``new_index`` nothing is looked for, whatever the settings say."""

    def __init__(
        self,
        settings: EngineSettings,
        new_index: IndexFactory | None,
        shelf: CachePolicy,
        serving: Serving,
        streams: Streams,
        count: Counters,
    ) -> None:
        self.count = 0
        """Vectors of all groups."""
        self.groups: dict[GroupKey, SimilarityGroup] = {}
        self._settings = settings
        self._new_index = new_index
        self._shelf = shelf
        self._serving = serving
        self._streams = streams
        self._counters = count

    def go_by(self, settings: EngineSettings) -> None:
        """Have other settings from now on: the vectors of tasks that look for nothing any more are dropped."""
        self._settings = settings
        for place, group in list(self.groups.items()):
            if not self._looks_for(place.task):
                group.close()

    def complaint(self, scope: str, request: wire.Begin) -> str | None:
        """Say what is wrong with the vector of a begin whose task looks at it."""
        if not self._looks(request):
            return None

        vector = packed(request.vector)
        wrong = _wrong(vector)
        if wrong is not None:
            return wrong

        if request.group is None:
            return "vector: group is missing; name the requests among which to look, as sidecard_client.keys.fingerprint does"

        dimensions, group = len(vector) // BYTES_PER_NUMBER, self.groups.get(_place(scope, request))
        if group is not None and group.dimensions != dimensions:
            return (
                f"vector: has {dimensions} dimensions, and those of its group have {group.dimensions}; let all callers of "
                "the task use one embedder, or give those of another one another embedder's name, model= or task="
            )

        return None

    def answer(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect] | None:
        """Answer a begin for which there is no stored answer and no call, or return None where it is to go on as without."""
        if not self._looks(request):
            return None

        if request.vector is None:
            if not request.embeds:
                return None

            self._counters.vectors_wanted += 1
            return [Send(peer.id, wire.VectorWanted(request.id))]

        if request.mode == "refresh":
            return None

        found = self._find(scope, request, now)
        if found is None:
            return None

        entry, similarity = found
        entry.touch()
        return self._serving.similar(peer, request, entry, similarity, now)

    def _find(self, scope: str, request: wire.Begin, now: float) -> tuple[Entry, float] | None:
        group = self.groups.get(_place(scope, request))
        if group is None:
            return None

        vector = packed(request.vector)
        threshold = self._settings.task(request.task).similar_threshold
        for entry, similarity in group.nearest(vector):
            if similarity < threshold:
                return None

            if (
                now - entry.stored_at < entry.terms.ttl_seconds
                and entry.terms.trust == self._shelf.trust
                and (not request.stream or self._streams.fits(self._serving.value(entry)))
            ):
                return entry, similarity

        return None

    def keeping(self, scope: str, key: str, request: wire.Begin) -> Placement | None:
        """Return how the answer to a begin is to be found by similar requests; None where it is not.

        A caller that replaces an answer was not asked for a vector: its key is the same, and so are its text and its vector.
        """
        if not self._looks(request):
            return None

        if request.vector is None:
            return self._inherited(scope, key)

        vector = packed(request.vector)
        if request.group is None or _wrong(vector) is not None:
            return None  # nobody looked at them when they came, since the task looked for nothing then

        dimensions, place = len(vector) // BYTES_PER_NUMBER, _place(scope, request)
        group = self.groups.get(place)
        if group is None:
            assert self._new_index is not None  # noqa: S101 - for the type checker: `_looks` has asked
            group = SimilarityGroup(self, place, dimensions, self._new_index(dimensions))

        # 1. two callers begin with vectors of different lengths; 2. the first answer comes; 3. so does the second.
        return Placement(group, vector) if group.dimensions == dimensions else None

    def keep(self, keeping: Placement, key: str) -> None:
        """Let the answer be found that has just been stored."""
        place = keeping.group.place
        entry = self._shelf.cache.peek(place.scope, key)
        if entry is not None:
            keeping.group.add(entry, keeping.vector, self._settings.task(place.task).similar_max_entries)

    def _inherited(self, scope: str, key: str) -> Placement | None:
        older = self._shelf.cache.peek(scope, key) if self.count else None
        group = None if older is None else older.terms.group
        if older is None or not isinstance(group, SimilarityGroup):
            return None

        vector = group.vector(older)
        return None if vector is None else Placement(group, vector)

    def _looks(self, request: wire.Begin) -> bool:
        return self._new_index is not None and self._looks_for(request.task)

    def _looks_for(self, task: str) -> bool:
        # Of a task of which nothing is stored there is nothing to be found, and a vector would be made for nobody.
        return self._settings.task(task).similar and task not in self._settings.uncached_tasks


def packed(vector: bytes | tuple[float, ...] | None) -> bytes:
    """Return the bytes of a vector."""
    return vector if isinstance(vector, bytes) else array("f", vector or ()).tobytes()


def _wrong(vector: bytes) -> str | None:
    """Say why the bytes are no vector, and what to change."""
    if len(vector) % BYTES_PER_NUMBER:
        return f"vector: {len(vector)} bytes are not a whole count of float 32; pack it as '<f'"

    numbers = memoryview(vector).cast("f")
    square = sum(map(mul, numbers, numbers))
    if not isfinite(square):
        return "vector: a number of it is infinite, or none; embed the text anew, or leave the vector out"

    if not square:
        return "vector: all of its numbers are 0, which is near to nothing; leave it out where nothing is said"

    return None


def _place(scope: str, request: wire.Begin) -> GroupKey:
    return GroupKey(scope, request.task, request.group or "", request.stream)

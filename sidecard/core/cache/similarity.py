"""Answers to similar requests, found by the vectors of the requests' texts.

A *group* holds the answers to the requests of one scope and task that differ in their text alone. It indexes those answers
that have a vector and finds the ones nearest to another vector. The daemon around the engine supplies the index
(`VectorIndex`); without a task that is configured for similarity, none is created.

`sidecard docs protocol` ("Similar requests") describes when a vector is requested and which answers are served. The answer that
replaces a stale one inherits its vector.

A near vector does not prove an equal meaning. So the caller sends a *signature* of the text as well, and an answer is served if
both signatures have no difference (`sidecard_client.keys.guard.comparison`).

A vector lives as long as its entry: `MemoryCache` notifies the entry's group when the entry leaves. The entry is charged for
it. Serving a similar request creates no entry under that request's key. Otherwise, an answer near enough to one question
would be served to those near the next one, and so on, further away at each step.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from operator import mul
from typing import NamedTuple, Protocol

from msgspec import MsgspecError, structs

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.freshness import is_fresh_for
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.settings import TaskSettings
from sidecard_client.keys.guard.comparison import Difference, TextSignature, decode_signature, difference
from sidecard_client.protocol import wire

UNSIGNED_THRESHOLD = 0.95
"""Default minimum cosine between two requests without signatures, as older clients send them."""

_DEFAULT_THRESHOLD = TaskSettings().similar_threshold

NEAREST = 8
"""Answers that are examined; those among them that are stale or doubted are skipped."""

BYTES_PER_NUMBER = 4

VECTOR_OVERHEAD_BYTES = 700
"""Cost of a vector beyond its numbers: its links in the index, its label and its places in the group's tables.
Measured by `tests/bench/test_similar.py` against the resident set."""

SIGNATURE_OVERHEAD_BYTES = 150
"""Cost of a signature beyond its bytes: their header, and its place in the group's table."""

GROUP_OVERHEAD_BYTES = 1500
"""Cost of a group beyond its vectors. Every entry is charged for it, since a group may have no other one."""


class VectorIndex(Protocol):
    """Vectors of one dimension, by label. A vector is the bytes of its numbers, float 32, in the host's byte order."""

    def add(self, label: int, vector: bytes) -> None:
        """Add a vector under an unused label."""

    def get(self, label: int) -> bytes:
        """Return a vector, with the precision that the index keeps."""

    def remove(self, label: int) -> None:
        """Remove a vector."""

    def nearest(self, vector: bytes, count: int) -> Iterable[tuple[int, float]]:
        """Return labels with their cosines, nearest first; some of the nearest may be missed."""


IndexFactory = Callable[[int], VectorIndex]
"""Creates an index for vectors of so many dimensions."""


class GroupKey(NamedTuple):
    """The values that all requests of a group have in common."""

    scope: str
    task: str
    group: str
    stream: bool


class SimilarityGroup:
    """The answers to requests that differ in their text alone."""

    def __init__(self, similar: "SimilarAnswers", key: GroupKey, dimensions: int, index: VectorIndex) -> None:
        self.key = key
        self.dimensions = dimensions
        self._similar = similar
        self._index = index
        self._last_label = 0
        self._entries: dict[int, Entry] = {}
        """By label, oldest first."""
        self._signatures: dict[int, bytes | None] = {}
        self._labels: dict[str, int] = {}

    def add(self, entry: Entry, vector: bytes, signature: bytes | None, max_entries: int) -> None:
        """Index an entry by its vector. Beyond ``max_entries`` the oldest one is no longer found."""
        self._last_label = label = self._last_label + 1
        self._index.add(label, vector)
        self._signatures[label] = signature
        self._entries[label] = entry
        self._labels[entry.key] = label
        self._similar.count += 1
        # Making room for this entry may have removed the group's last one, and the group with it.
        self._similar.groups[self.key] = self
        while len(self._entries) > max_entries:
            self.entry_removed(next(iter(self._entries.values())))

    def entry_removed(self, entry: Entry) -> None:
        """Drop an entry that leaves the cache or is no longer to be found."""
        label = self._labels.pop(entry.key, None)
        if label is None:
            return

        del self._entries[label], self._signatures[label]
        self._index.remove(label)
        self._similar.count -= 1
        if not self._entries:
            del self._similar.groups[self.key]

    def close(self) -> None:
        """Drop all entries at once: those that leave the cache later are no longer known here."""
        self._similar.count -= len(self._entries)
        self._entries, self._labels, self._signatures = {}, {}, {}
        self._index = self._similar.empty_index(self.dimensions)
        del self._similar.groups[self.key]

    def placement(self, entry: Entry) -> "Placement | None":
        """Return where an entry is indexed."""
        label = self._labels.get(entry.key)
        return None if label is None else Placement(self, self._index.get(label), self._signatures[label])

    def nearest(self, vector: bytes) -> Iterable[tuple[Entry, bytes | None, float]]:
        """Return entries with their signatures and similarities, nearest first."""
        for label, cosine in self._index.nearest(vector, NEAREST):
            yield self._entries[label], self._signatures[label], min(1.0, cosine)


class Placement(NamedTuple):
    """The group and the vector of an answer that is about to be stored."""

    group: SimilarityGroup
    vector: bytes
    signature: bytes | None

    @property
    def charge(self) -> int:
        """Bytes that the entry is charged for it."""
        signature = 0 if self.signature is None else len(self.signature) + SIGNATURE_OVERHEAD_BYTES
        return BYTES_PER_NUMBER * self.group.dimensions + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES + signature


class SimilarAnswers:
    """All groups. Without ``new_index`` there is no similarity, whatever the settings say."""

    def __init__(self, new_index: IndexFactory | None, policy: CachePolicy) -> None:
        self.count = 0
        """Vectors of all groups."""
        self.refused: Counter[str] = Counter()
        """Answers with a near vector that were not served, by `Difference` of the texts."""
        self.groups: dict[GroupKey, SimilarityGroup] = {}
        self._settings = policy.settings
        self._new_index = new_index
        self._policy = policy

    def drop_unconfigured(self) -> None:
        """Drop the vectors of tasks that are no longer configured for similarity."""
        for key, group in list(self.groups.items()):
            if not self._is_configured(key.task):
                group.close()

    def empty_index(self, dimensions: int) -> VectorIndex:
        """Return a new index."""
        assert self._new_index is not None  # noqa: S101 - for the type checker: `applies` has checked it
        return self._new_index(dimensions)

    def applies(self, request: wire.Begin) -> bool:
        """Return whether the request's task is configured for similarity."""
        return self._new_index is not None and self._is_configured(request.task)

    def validate(self, scope: str, request: wire.Begin) -> str | None:
        """Return what is wrong with a begin's vector and what to change; None if nothing is, or similarity does not apply."""
        if not self.applies(request):
            return None

        vector = packed(request.vector)
        wrong = _validate(vector)
        if wrong is not None:
            return wrong

        if request.signature is not None:
            try:
                decode_signature(request.signature)
            except MsgspecError as error:
                return f"signature: {error}; encode it as sidecard_client.keys.guard.comparison does, or leave it out"

        if request.group is None:
            return "vector: group is missing; name the requests among which to search, as sidecard_client.keys.fingerprint does"

        dimensions, group = len(vector) // BYTES_PER_NUMBER, self.groups.get(_key(scope, request))
        if group is not None and group.dimensions != dimensions:
            return (
                f"vector: has {dimensions} dimensions, and those of its group have {group.dimensions}; let all callers of "
                "the task use one embedder, or give another embedder another name, model= or task="
            )

        return None

    def compact(self, request: wire.Begin) -> wire.Begin:
        """Return a begin with its vector packed, or without it where similarity does not apply.

        A begin may wait for minutes, and a number takes 32 bytes in a tuple, 4 in a packed vector.
        """
        if not self.applies(request):
            return structs.replace(request, vector=None, group=None, signature=None)

        return request if isinstance(request.vector, bytes) else structs.replace(request, vector=packed(request.vector))

    def candidates(self, scope: str, request: wire.Begin, now: float) -> Iterator[tuple[Entry, float]]:
        """Yield the entries that may be served to a begin with a vector, and their similarities, nearest first."""
        group = self.groups.get(_key(scope, request))
        if group is None:
            return

        threshold = self._settings.now.task(request.task).similar_threshold
        asked = None if request.signature is None else decode_signature(request.signature)
        if asked is None and threshold == _DEFAULT_THRESHOLD:
            threshold = UNSIGNED_THRESHOLD

        for entry, signature, similarity in group.nearest(packed(request.vector)):
            if similarity < threshold:
                return

            fresh = now - entry.stored_at < entry.terms.ttl_seconds and is_fresh_for(request, entry, now)
            trusted = entry.terms.trust_epoch == self._policy.trust_epoch
            if fresh and trusted and not self._policy.cache.is_hidden(entry):
                refused = _difference(asked, signature)
                if refused is None:
                    yield entry, similarity
                else:
                    self.refused[refused] += 1

    def placement(self, scope: str, key: str, request: wire.Begin) -> Placement | None:
        """Return where the answer to a begin is to be indexed; None if it is not.

        A caller that replaces a stale answer was not asked for a vector: its key and so its text are the same, and its
        answer inherits the vector.
        """
        if not self.applies(request):
            return None

        if request.vector is None:
            return self._inherited(scope, key)

        vector = packed(request.vector)
        if request.group is None or _validate(vector) is not None:
            return None  # not validated at its begin, when the task was not configured for similarity

        dimensions, group_key = len(vector) // BYTES_PER_NUMBER, _key(scope, request)
        group = self.groups.get(group_key)
        if group is None:
            group = SimilarityGroup(self, group_key, dimensions, self.empty_index(dimensions))

        # 1. two callers begin with vectors of different lengths; 2. the first answer arrives; 3. so does the second.
        return Placement(group, vector, request.signature) if group.dimensions == dimensions else None

    def index(self, placement: Placement, key: str) -> None:
        """Index the answer that has just been stored."""
        group_key = placement.group.key
        entry = self._policy.cache.peek(group_key.scope, key)
        if entry is not None:
            max_entries = self._settings.now.task(group_key.task).similar_max_entries
            placement.group.add(entry, placement.vector, placement.signature, max_entries)

    def _inherited(self, scope: str, key: str) -> Placement | None:
        older = self._policy.cache.peek(scope, key) if self.count else None
        group = None if older is None else older.terms.group
        if older is None or not isinstance(group, SimilarityGroup):
            return None

        return group.placement(older)

    def _is_configured(self, task: str) -> bool:
        # Without stored answers nothing can be found, and vectors would be computed needlessly.
        return self._settings.now.task(task).similar and task not in self._settings.now.uncached_tasks


def _difference(asked: TextSignature | None, stored: bytes | None) -> Difference | None:
    """Return why an answer to another text is refused; None if it may be served."""
    if asked is None or stored is None:
        return None if asked is None and stored is None else "unsigned"

    return difference(asked, decode_signature(stored))


def packed(vector: bytes | tuple[float, ...] | None) -> bytes:
    """Return the bytes of a vector."""
    return vector if isinstance(vector, bytes) else array("f", vector or ()).tobytes()


def _validate(vector: bytes) -> str | None:
    """Return why the bytes are no vector and what to change; None if they are one."""
    if len(vector) % BYTES_PER_NUMBER:
        return f"vector: {len(vector)} bytes are not a whole count of float 32; pack it as '<f'"

    numbers = memoryview(vector).cast("f")
    square = sum(map(mul, numbers, numbers))
    if not isfinite(square):
        return "vector: one of its numbers is infinite or not a number; embed the text again, or leave the vector out"

    if not square:
        return "vector: all of its numbers are 0, so it has no direction; leave it out if the text is empty"

    return None


def _key(scope: str, request: wire.Begin) -> GroupKey:
    return GroupKey(scope, request.task, request.group or "", request.stream)

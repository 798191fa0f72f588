"""What the event checker remembers of callers, leases and flights."""

from dataclasses import dataclass, field
from math import inf

from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import Place

Who = tuple[int, int]
"""Peer id and request id."""


@dataclass(eq=False)
class Asked:
    """A begin, or a fail with ``next``, that has no final reply yet."""

    peer: Peer
    begin: wire.Begin
    reply_id: int
    place: Place | None
    wait_seconds: float
    deadline: float
    began_at: float
    course: "Course" = field(default_factory=lambda: Course())  # noqa: PLW0108 - defined below
    failed: wire.Fail | None = None
    pending: bool = False
    chunks: int = 0
    joins: bool = False
    """Another caller's call was in progress."""
    tried: frozenset[str] = frozenset()
    """Backends that certainly failed this caller since its last retry."""
    maybe_tried: frozenset[str] = frozenset()
    """Backends that may have: a lease after a wait may be a retry's or another backend's."""

    @property
    def names(self) -> frozenset[str]:
        """The backends that may certainly still serve it."""
        return frozenset(self.begin.backends or (wire.DEFAULT_BACKEND,)) - self.maybe_tried


@dataclass(eq=False)
class Held:
    """A current lease."""

    asked: Asked
    backend: str
    granted: float
    expires: float
    chunks: list[bytes] = field(default_factory=list)
    last_chunk: float | None = None
    informed: bool = False
    """Its holder was last notified that callers wait."""
    generation: int = 0
    """Of the backend's breaker, at the grant."""

    def due(self, settings: EngineSettings) -> float:
        """Return when it ends without a word of its holder."""
        work = self.granted + settings.max_call_seconds
        idle = inf if self.last_chunk is None else self.last_chunk + settings.idle_seconds
        return min(self.expires, work, idle)

    @property
    def peer(self) -> Peer:
        """The holder."""
        return self.asked.peer

    @property
    def begin(self) -> wire.Begin:
        """The begin that led to it."""
        return self.asked.begin

    @property
    def place(self) -> Place | None:
        """The flight's place."""
        return self.asked.place


@dataclass(eq=False)
class Course:
    """A flight: how many leases it had, how many of them followed a ``fail``, and what of its answer may be stored."""

    leases: int = 0
    nexts: int = 0
    may_store: bool = True
    purged_tags: frozenset[str] = frozenset()
    replaced: bool = False
    """Voided, and a later flight of the key has had a lease."""

    @property
    def voided(self) -> bool:
        """A delete or purge was acknowledged during a call, so later callers start another flight."""
        return not self.may_store or bool(self.purged_tags)

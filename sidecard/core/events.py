"""Events: the only inputs of the engine. The counterpart of `sidecard.core.effects`."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard.core.records import Record
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol.wire import AnyRequest, StoreState


class Peer(Struct, frozen=True, gc=False):
    """One connection, with the credentials that the kernel recorded at ``connect()``.

    ``pid`` is 0 if the peer lives in another pid namespace. The fair queue then uses ``id`` instead (`Applicant.flow`).
    """

    id: int
    """Never reused within a run of the daemon."""
    uid: int
    gid: int
    pid: int
    operator: bool


class RequestReceived(Struct, frozen=True):
    """A peer has sent a well-formed request."""

    peer: Peer
    request: AnyRequest


class PeerJoined(Struct, frozen=True):
    """A connection was accepted."""

    peer: Peer


class PeerLost(Struct, frozen=True):
    """A peer's connection has ended, for any reason; replies no longer reach it."""

    peer: Peer


class PeersHungUp(Struct, frozen=True):
    """Peers have closed their connections: they can make no call. What they sent before, such as a `complete`, is still read.

    So each keeps its leases until it is lost.
    """

    peers: Sequence[Peer]


class BacklogRead(Struct, frozen=True):
    """A peer has read most of its backlog, as `sidecard.core.effects.AwaitRead` requested for one of its requests."""

    peer_id: int
    request_id: int


class NoteEmitted(Struct, frozen=True):
    """A note was emitted while at least one peer watches notes."""

    note: Note


class Tick(Struct, frozen=True):
    """The instant of `Engine.next_deadline` has passed."""


class ClocksStepped(Struct, frozen=True):
    """The host slept for ``slept_seconds``, or its wall clock was set: ``wall_offset_seconds`` is that from now on."""

    slept_seconds: float
    wall_offset_seconds: float


class WorkContinued(Struct, frozen=True):
    """There is time for one more batch of the engine's jobs; see `Engine.has_work`."""


class SecondsPassed(Struct, frozen=True):
    """Some seconds have passed, so names that no one uses may have to be forgotten."""


class DrainRequested(Struct, frozen=True):
    """The daemon is stopping: no new leases, flights in progress may end."""


class DrainExpired(Struct, frozen=True):
    """The time to drain has passed: every waiter gets its reply now."""


class Found(Struct, frozen=True):
    """The store has an entry of the key."""

    record: Record


class Absent(Struct, frozen=True):
    """The store has no entry. A non-empty ``claim`` is the right, among all hosts, to compute one."""

    claim: str = ""


class ClaimedRemotely(Struct, frozen=True):
    """Another host holds the key's claim. Read again after ``ask_again_seconds``, or when the key changes."""

    ask_again_seconds: float


class Removed(Struct, frozen=True):
    """The store has removed ``count`` entries that could still have been served."""

    count: int


class Unavailable(Struct, frozen=True):
    """The store did not execute the request. Removals are retried once the store is back."""


Answer = Found | Absent | ClaimedRemotely | Removed | Unavailable


class StoreAnswered(Struct, frozen=True):
    """The store's one answer to the request with this ticket."""

    ticket: int
    answer: Answer


class StoreStateChanged(Struct, frozen=True):
    """The store's new state, never ``none``. ``reason`` is a sentence, empty while the store is up."""

    state: StoreState
    reason: str = ""


class KeyChanged(Struct, frozen=True):
    """Another host has ended its computation of a key or has changed its entry.

    ``released``: without an answer; ``unshared``: with an answer that it may not share.
    """

    scope: str
    key: str
    how: Literal["stored", "removed", "released", "unshared"]


class EntriesPurged(Struct, frozen=True):
    """Another host has purged entries."""

    namespace: str | None
    tag: str | None
    task: str | None = None


class InvalidationsMissed(Struct, frozen=True):
    """Invalidations of other hosts may have been lost: entries in memory may be outdated."""


class StoreGauges(Struct, frozen=True):
    """A store's gauges; each is defined in `sidecard_client.protocol.wire.Stats`."""

    store_entries: int = 0
    store_bytes: int = 0
    store_pending: int = 0
    store_pending_bytes: int = 0
    store_written: int = 0
    store_dropped: int = 0
    store_refused: int = 0
    store_evicted: int = 0
    store_faults: int = 0


class StoreMeasured(Struct, frozen=True):
    """The store's gauges have new values."""

    gauges: StoreGauges


class RemoteBreakerOpened(Struct, frozen=True):
    """The breaker of another host has opened, for ``seconds``."""

    backend: str
    seconds: float


class RemoteSpending(Struct, frozen=True):
    """Total spending of a budget in ``period`` by other hosts and by earlier runs of this one."""

    budget: str
    period: int
    dollars: float


class ViewFailed(Struct, frozen=True):
    """The file of a view could not be made, for ``reason``, a sentence."""

    view: int
    reason: str


class ViewReleased(Struct, frozen=True):
    """No process has the file of a retired view any more; its memory is free."""

    view: int


class SettingsRead(Struct, frozen=True):
    """The settings were reread, because of `sidecard.core.effects.ReadSettings` or of a signal."""

    settings: EngineSettings | None = None
    """The settings from now on; None if ``problems`` prevent a change."""
    shown: dict[str, Any] = {}
    origins: dict[str, str] = {}
    changed: dict[str, Any] = {}
    needs_restart: list[str] = []
    problems: list[str] = []
    asked_by: tuple[int, int] | None = None
    """Peer id and request id of the requester."""


StoreEvent = (
    StoreAnswered
    | StoreStateChanged
    | KeyChanged
    | EntriesPurged
    | InvalidationsMissed
    | StoreMeasured
    | RemoteBreakerOpened
    | RemoteSpending
)
PeerEvent = PeerJoined | PeersHungUp | PeerLost | BacklogRead
LifecycleEvent = (
    Tick
    | WorkContinued
    | SecondsPassed
    | ClocksStepped
    | DrainRequested
    | DrainExpired
    | SettingsRead
    | NoteEmitted
    | ViewFailed
    | ViewReleased
)

Event = RequestReceived | PeerEvent | StoreEvent | LifecycleEvent

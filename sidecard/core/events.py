"""What happened: the only way for the engine to learn anything.

The counterpart to events are effects (`sidecard.core.effects`).
"""

from typing import Any, Literal

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard.core.records import Record
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol.wire import AnyRequest, StoreState


class Peer(Struct, frozen=True, gc=False):
    """One connection and whom the kernel says is at its other end, as of ``connect()``.

    ``pid`` is 0 where the peer lives in another pid namespace, so nothing is ever keyed on it.
    """

    id: int
    """Never used twice in one run of the daemon."""
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
    """A peer's connection has ended, for whatever reason; nothing reaches it any more."""

    peer: Peer


class RoomForMore(Struct, frozen=True):
    """A peer has read most of what it was sent: the stream that answers its begin of that id may go on."""

    peer: int
    request_id: int


class NoteMade(Struct, frozen=True):
    """A note was told, while some peer wants to hear of notes."""

    note: Note


class Tick(Struct, frozen=True):
    """The instant that `Engine.next_deadline` named has come."""


class DrainRequested(Struct, frozen=True):
    """The daemon is about to stop: no new leases, the flights in progress may end."""


class DrainExpired(Struct, frozen=True):
    """The time to drain is over: every waiter gets its end now."""


class Found(Struct, frozen=True):
    """The store has an entry of the key."""

    record: Record


class Absent(Struct, frozen=True):
    """The store has no entry; ``claim``, where it is not empty, is the right to compute one, over all hosts."""

    claim: str = ""


class Elsewhere(Struct, frozen=True):
    """Another host computes the key. It is to be asked for again after so long, or when there are news of it."""

    ask_again_seconds: float


class Removed(Struct, frozen=True):
    """So many entries, which somebody could still have been served, were removed."""

    count: int


class Unavailable(Struct, frozen=True):
    """The store did not do it. What was to be removed is removed later, should the store come back."""


Answer = Found | Absent | Elsewhere | Removed | Unavailable


class StoreAnswered(Struct, frozen=True):
    """The store's one answer to a question."""

    ticket: int
    answer: Answer


class StoreTurned(Struct, frozen=True):
    """How the store is from now on: never ``none``. ``reason`` is a sentence; empty where it is up."""

    state: StoreState
    reason: str = ""


class KeyChanged(Struct, frozen=True):
    """Another host has ended its computation of a key, or has changed its entry otherwise.

    ``released``: it has no answer; ``unshared``: it has one that it may give to nobody.
    """

    scope: str
    key: str
    how: Literal["stored", "removed", "released", "unshared"]


class EntriesPurged(Struct, frozen=True):
    """Another host purges."""

    namespace: str | None
    tag: str | None
    task: str | None = None


class NewsMissed(Struct, frozen=True):
    """News of other hosts may have been lost: what the memory has of the store's entries may no longer be so."""


class StoreGauges(Struct, frozen=True):
    """What a store has to show; each as `sidecard_client.protocol.wire.Stats` has it."""

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
    """How much the store has done and has to do."""

    gauges: StoreGauges


class BreakerOpenedElsewhere(Struct, frozen=True):
    """The breaker of another host has opened, and stays so for ``seconds``."""

    backend: str
    seconds: float


class SpentElsewhere(Struct, frozen=True):
    """Other hosts, or earlier runs of this one, have spent so much of a budget in this ``period``, in all."""

    budget: str
    period: int
    dollars: float


class SettingsRead(Struct, frozen=True):
    """The settings were read again: by `sidecard.core.effects.ReadSettings`, or because a signal said so."""

    settings: EngineSettings | None = None
    """What holds from now on; None where nothing changes, because of ``problems``."""
    shown: dict[str, Any] = {}
    origins: dict[str, str] = {}
    changed: dict[str, Any] = {}
    needs_restart: list[str] = []
    problems: list[str] = []
    asked_by: tuple[int, int] | None = None
    """The peer and the id of its request."""


StoreEvent = (
    StoreAnswered
    | StoreTurned
    | KeyChanged
    | EntriesPurged
    | NewsMissed
    | StoreMeasured
    | BreakerOpenedElsewhere
    | SpentElsewhere
)
Happening = (
    PeerJoined | PeerLost | RoomForMore | NoteMade | Tick | DrainRequested | DrainExpired | SettingsRead | StoreEvent
)
"""What is nobody's request."""

Event = RequestReceived | Happening

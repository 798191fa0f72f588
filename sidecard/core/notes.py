"""Notes: facts for operators, as data. The log and the watchers receive them; the core knows neither.

What happens on every call is no note; the ledger counts it. ``peer`` is the id of a peer, as in the log.
`sidecard.core.operations.watch.fields_of` truncates ``key`` and reduces ``message`` to the exception's type.
"""

from typing import Literal

from msgspec import Struct

from sidecard_client.protocol.wire import StoreState

Outcome = Literal["transient", "fatal", "ignored", "cancelled", "lost", "expired"]
Table = Literal["flights", "waiters", "leases", "memory", "streams"]
OpenCause = Literal["failures", "slow", "retry_after", "probes", "operator", "elsewhere"]


class LeaseEnded(Struct, frozen=True):
    """A lease ended without `complete`; ``outcome`` is the cause. ``pid`` is the holder's, or 0 if it is unknown."""

    outcome: Outcome
    key: str | None
    lease: str
    backend: str
    peer: int
    pid: int
    message: str


class Reelected(Struct, frozen=True):
    """A waiter became the holder. ``elections`` counts the elections of the flight."""

    key: str
    lease: str
    peer: int
    elections: int


class FlightFailed(Struct, frozen=True):
    """A flight ended without an answer, or its stream broke and it goes on; ``waiters`` is how many callers were notified."""

    key: str
    kind: str
    message: str
    waiters: int


class StaleLeaseRefused(Struct, frozen=True):
    """A message named a lease that is not current; it was ignored."""

    op: str
    lease: str
    peer: int


class EntryRefused(Struct, frozen=True):
    """An answer above the entry size limit was not stored."""

    key: str
    size_bytes: int
    max_bytes: int


class Evicted(Struct, frozen=True):
    """One insertion removed ``count`` live entries to make room."""

    count: int


class TableFull(Struct, frozen=True):
    """A table has reached its limit, so a begin was rejected as ``busy``. Watchers and the log name the note ``saturated``."""

    table: Table
    limit: int


class DrainStarted(Struct, frozen=True):
    """The daemon grants no new leases from now on."""

    flights: int
    waiters: int


class BreakerOpened(Struct, frozen=True):
    """A backend receives no calls for ``seconds`` (None: until an operator acts). Counts are of the window."""

    backend: str
    cause: OpenCause
    seconds: float | None
    calls: int
    failures: int
    slow: int
    generation: int


class BreakerProbing(Struct, frozen=True):
    """A half-open breaker admits ``probes`` calls."""

    backend: str
    probes: int
    generation: int


class BreakerClosed(Struct, frozen=True):
    """A backend receives calls again."""

    backend: str
    generation: int


class BreakerDisabled(Struct, frozen=True):
    """An operator has disabled a breaker: it never opens."""

    backend: str
    generation: int


class QueueFull(Struct, frozen=True):
    """The queue for a backend's permits is full, so a begin was rejected as ``saturated``."""

    backend: str
    limit: int


class BudgetSpent(Struct, frozen=True):
    """A budget is spent for the rest of its period. If it is hard, paid calls are rejected."""

    budget: str
    dollars: float
    spent_dollars: float
    hard: bool
    resets_in_seconds: float


class StoreFailed(Struct, frozen=True):
    """The store became ``down`` or ``read_only``, for ``reason``."""

    state: StoreState
    reason: str


class StoreRecovered(Struct, frozen=True):
    """The store is up again; ``pending`` entries and removals are being written."""

    pending: int


class ViewUnavailable(Struct, frozen=True):
    """The file of a view cannot be made, for ``reason``; all hits go over the socket."""

    reason: str


BreakerNote = BreakerOpened | BreakerProbing | BreakerClosed | BreakerDisabled
Note = (
    LeaseEnded
    | Reelected
    | FlightFailed
    | StaleLeaseRefused
    | EntryRefused
    | Evicted
    | TableFull
    | DrainStarted
    | BreakerNote
    | QueueFull
    | BudgetSpent
    | StoreFailed
    | StoreRecovered
    | ViewUnavailable
)

"""Facts worth telling, as data. Logs and metrics listen to notes; the core knows neither.

A note is for what an operator may want to read. What happens on every call is counted in the ledger instead.
``key`` is cut, and ``message`` left out but for its exception, by `sidecard.core.operations.watch.fields_of` and not here.
"""

from typing import Literal

from msgspec import Struct

from sidecard_client.protocol.wire import StoreState

Outcome = Literal["transient", "fatal", "ignored", "cancelled", "lost", "expired"]
Table = Literal["flights", "waiters", "leases", "streams"]
OpenCause = Literal["failures", "slow", "retry_after", "probes", "operator", "elsewhere"]


class LeaseEnded(Struct, frozen=True):
    """A lease ended otherwise than by `complete`; ``outcome`` says how."""

    outcome: Outcome
    key: str | None
    lease: str
    backend: str
    peer: int
    message: str


class Reelected(Struct, frozen=True):
    """A waiter became the holder. ``elections`` counts those of the flight."""

    key: str
    lease: str
    peer: int
    elections: int


class FlightFailed(Struct, frozen=True):
    """A flight ended without an answer; ``waiters`` were told."""

    key: str
    kind: str
    message: str
    waiters: int


class StaleLeaseRefused(Struct, frozen=True):
    """A message came with a lease that is not current, and changed nothing."""

    op: str
    lease: str
    peer: int


class EntryRefused(Struct, frozen=True):
    """An answer was larger than an entry may be and was not stored."""

    key: str
    size_bytes: int
    max_bytes: int


class Evicted(Struct, frozen=True):
    """Live entries were removed to make room, ``count`` of them in one go."""

    count: int


class Saturated(Struct, frozen=True):
    """A table has reached its bound, so a begin was answered ``rejected: busy``."""

    table: Table
    limit: int


class DrainStarted(Struct, frozen=True):
    """No new leases from now on."""

    flights: int
    waiters: int


class BreakerOpened(Struct, frozen=True):
    """A backend gets no calls for ``seconds`` (None: until an operator says so). Counts are those of the window."""

    backend: str
    cause: OpenCause
    seconds: float | None
    calls: int
    failures: int
    slow: int
    generation: int


class BreakerProbing(Struct, frozen=True):
    """A breaker lets ``probes`` calls through."""

    backend: str
    probes: int
    generation: int


class BreakerClosed(Struct, frozen=True):
    """A backend gets calls again."""

    backend: str
    generation: int


class BreakerDisabled(Struct, frozen=True):
    """An operator keeps a breaker from tripping."""

    backend: str
    generation: int


class QueueFull(Struct, frozen=True):
    """As many callers wait for a backend's permit as may, so a begin was answered ``rejected: saturated``."""

    backend: str
    limit: int


class BudgetSpent(Struct, frozen=True):
    """A budget is used up for the rest of its period; where it is hard, calls that cost are refused."""

    budget: str
    dollars: float
    spent_dollars: float
    hard: bool
    resets_in_seconds: float


class StoreFailed(Struct, frozen=True):
    """The store is as ``state`` says from now on, ``down`` or ``read_only``, for ``reason``."""

    state: StoreState
    reason: str


class StoreRecovered(Struct, frozen=True):
    """The store is up again. ``pending`` entries and removals are written now."""

    pending: int


BreakerNote = BreakerOpened | BreakerProbing | BreakerClosed | BreakerDisabled
Note = (
    LeaseEnded
    | Reelected
    | FlightFailed
    | StaleLeaseRefused
    | EntryRefused
    | Evicted
    | Saturated
    | DrainStarted
    | BreakerNote
    | QueueFull
    | BudgetSpent
    | StoreFailed
    | StoreRecovered
)

"""Facts worth telling, as data. Logs and metrics listen to notes; the core knows neither.

A note is for what an operator may want to read. What happens on every call is counted in the ledger instead.
``key`` is cut to its first 12 characters by who prints it, not here.
"""

from typing import Literal

from msgspec import Struct

Outcome = Literal["transient", "fatal", "ignored", "cancelled", "lost", "expired"]
Table = Literal["flights", "waiters", "leases"]


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


Note = LeaseEnded | Reelected | FlightFailed | StaleLeaseRefused | EntryRefused | Evicted | Saturated | DrainStarted

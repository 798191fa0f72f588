"""The participants of a flight: waiters, the applicant for its lease, and the held lease."""

from typing import TYPE_CHECKING

from sidecard.core.events import Peer
from sidecard_client.protocol.wire import Begin

if TYPE_CHECKING:
    from sidecard.core.backends.admission import Choice
    from sidecard.core.backends.backend import Backend, Permit
    from sidecard.core.cache.entry import Entry
    from sidecard.core.flights.flight import Flight
    from sidecard.core.flights.streams import StreamReader


class Waiter:
    """A begin that waits for its flight."""

    __slots__ = ("deadline", "flight", "joined_at", "lookup_open", "no_wait", "peer", "pending", "reader", "request")

    def __init__(self, flight: "Flight", peer: Peer, request: Begin, now: float, wait_seconds: float) -> None:
        self.flight = flight
        self.peer = peer
        self.request = request
        self.joined_at = now
        self.deadline = now + wait_seconds
        self.pending = False
        """It has been sent `Pending`."""
        self.lookup_open = False
        """It is not known yet whether the store has an entry for it."""
        self.no_wait = wait_seconds <= 0
        """It waits for the store's answer, but for no call."""
        self.reader: StreamReader | None = None
        """Its position in the flight's stream, from the first chunk on; then ``deadline`` moves with each chunk."""

    @property
    def may_lead(self) -> bool:
        """It would make the call itself."""
        return self.request.mode != "only_if_cached"

    def mark_pending(self) -> None:
        """Record that the waiter has been sent `Pending`."""
        self.pending = True

    def set_lookup_open(self, value: bool) -> None:  # noqa: FBT001 - a setter
        """Record whether the store's answer is still open for the waiter."""
        self.lookup_open = value

    def follow(self, reader: "StreamReader", deadline: float) -> None:
        """Read the flight's stream, and wait until ``deadline`` for its next chunk."""
        self.reader = reader
        self.deadline = deadline


class Applicant:
    """The caller next in line for a lease: it gets the lease, waits for a permit or its retry, or is rejected.

    ``reply_id`` is the id to answer: of the begin, or of the `fail` that requested another lease. ``first``: its begin has
    not been answered yet. ``elected``: a holder's failure has made it the next. ``pending``: it has been sent `Pending`.
    ``previous`` is the stored answer that it gets in place of a rejection (`sidecard.core.cache.freshness`). ``failure``
    is why its last call failed. ``tried`` are the backends that have failed it since its last retry.
    """

    __slots__ = (
        "deadline",
        "elected",
        "failure",
        "first",
        "flight",
        "joined_at",
        "not_before",
        "peer",
        "pending",
        "previous",
        "queues",
        "reply_id",
        "request",
        "retries",
        "tried",
    )

    def __init__(
        self,
        flight: "Flight | None",
        peer: Peer,
        request: Begin,
        reply_id: int,
        joined_at: float,
        deadline: float,
        *,
        first: bool = True,
        elected: bool = False,
        pending: bool = False,
        previous: "Entry | None" = None,
        failure: str = "",
        tried: tuple[str, ...] = (),
        retries: int = 0,
    ) -> None:
        self.flight = flight
        self.peer = peer
        self.request = request
        self.reply_id = reply_id
        self.joined_at = joined_at
        self.deadline = deadline
        self.first = first
        self.elected = elected
        self.pending = pending
        self.previous = previous
        self.failure = failure
        self.tried = tried
        self.retries = retries
        self.not_before = 0.0
        self.queues: tuple[Choice, ...] = ()

    @property
    def flow(self) -> tuple[int, int]:
        """Its flow in fair queues: the uid, and the process, or the connection if the process is unknown."""
        return self.peer.uid, self.peer.pid or -self.peer.id

    @property
    def wakes_at(self) -> float:
        """The instant at which time alone changes something for it."""
        return min(self.deadline, self.not_before or self.deadline)

    def mark_pending(self) -> None:
        """Record that the applicant has been sent `Pending`."""
        self.pending = True

    def retry_at(self, instant: float) -> None:
        """Let all backends be tried again, not before ``instant``."""
        self.tried = ()
        self.retries += 1
        self.not_before = instant

    def retry_is_due(self) -> None:
        """End the pause before a retry."""
        self.not_before = 0.0

    def is_queued_at(self, backend: "Backend") -> bool:
        """Tell whether the applicant is in a backend's queue."""
        return any(queued is backend for _, queued in self.queues)

    def enqueue(self, choice: "Choice") -> None:
        """Join a backend's queue."""
        choice[1].queue.push(self.flow, self)
        self.queues += (choice,)

    def dequeue(self, backend: "Backend") -> None:
        """Leave a backend's queue."""
        backend.queue.remove(self.flow, self)
        self.queues = tuple(choice for choice in self.queues if choice[1] is not backend)

    def dequeue_served(self, backend: "Backend") -> "Choice":
        """Leave a backend's queue as the one that is served, and return the backend under the caller's name for it."""
        backend.queue.serve(self.flow, self)
        served = next(choice for choice in self.queues if choice[1] is backend)
        self.queues = tuple(choice for choice in self.queues if choice is not served)
        return served

    def dequeue_all(self) -> None:
        """Leave all queues."""
        for _, backend in self.queues:
            backend.queue.remove(self.flow, self)

        self.queues = ()


class HeldLease:
    """Permission to make a call, held by one peer until it ends in one way or another."""

    __slots__ = (
        "attempt",
        "backend",
        "early_refresh",
        "flight",
        "granted_at",
        "name",
        "peer",
        "permit",
        "request",
        "retries",
        "tried",
    )

    def __init__(
        self, name: str, applicant: Applicant, backend: str, permit: "Permit", attempt: int, now: float
    ) -> None:
        self.name = name
        self.flight = applicant.flight
        self.peer = applicant.peer
        self.request = applicant.request
        self.backend = backend
        self.permit = permit
        self.tried = (*applicant.tried, backend)
        self.retries = applicant.retries
        self.attempt = attempt
        self.granted_at = now
        previous = applicant.previous
        self.early_refresh = previous is not None and previous.is_fresh(now)
        """The answer that it replaces is still fresh."""

    def detach(self) -> None:
        """Part the lease from its flight: the holder goes on, without sharing its answer."""
        if self.flight is not None:
            self.flight.lease_ended()
            self.flight = None

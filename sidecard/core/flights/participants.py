"""The participants of a flight: waiters, the applicant for its lease, and the held lease."""

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from sidecard.core.backends.admission import queue_place
from sidecard.core.effects import SendReply
from sidecard.core.events import Peer
from sidecard_client.protocol.wire import Begin, Wanted

if TYPE_CHECKING:
    from sidecard.core.backends.backend import Backend, Permit
    from sidecard.core.backends.equivalents import Choice
    from sidecard.core.cache.entry import Entry
    from sidecard.core.flights.flight import Flight
    from sidecard.core.flights.streams import Follower


class Waiter(Struct, eq=False):
    """A begin that waits for its flight."""

    flight: "Flight"
    peer: Peer
    request: Begin
    memory_bytes: int
    """Memory charged for it (`sidecard.core.accounts.charges`)."""
    joined_at: float
    deadline: float
    no_wait: bool
    """It waits for the store's answer, but for no call."""
    pending: bool = False
    """It has been sent `Pending`."""
    lookup_open: bool = False
    """It is not known yet whether the store has an entry for it."""
    follower: "Follower | None" = None
    """Its place as a follower of the flight's stream, from the first chunk on; then ``deadline`` moves with each chunk."""

    @property
    def may_lead(self) -> bool:
        """It would make the call itself."""
        return self.request.mode != "only_if_cached"

    def is_willing(self, now: float) -> bool:
        """Return whether its deadline lets it lead; a caller that waits for no call has none."""
        return self.deadline > now or self.no_wait

    def mark_pending(self) -> None:
        """Record that the waiter has been sent `Pending`."""
        self.pending = True

    def open_lookup(self) -> None:
        """Record that the store's answer is still open for the waiter."""
        self.lookup_open = True

    def close_lookup(self) -> None:
        """Record that the store has no entry for the waiter."""
        self.lookup_open = False

    def wait_longer(self, seconds: float) -> None:
        """Move the deadline."""
        self.deadline += seconds

    def follow(self, follower: "Follower", deadline: float) -> None:
        """Follow the flight's stream, and wait until ``deadline`` for its next chunk."""
        self.follower = follower
        self.deadline = deadline


class Applicant(Struct, eq=False):
    """The caller next in line for a lease: it gets the lease, waits for a permit or its retry, or is rejected."""

    flight: "Flight | None"
    peer: Peer
    request: Begin
    memory_bytes: int
    reply_id: int
    """The id to answer: of the begin, or of the `fail` that requested another lease."""
    joined_at: float
    deadline: float
    scope: str
    """Whose namespace its key and its prefixes belong to."""
    first: bool = True
    """Its begin has not been answered yet."""
    elected: bool = False
    """It was elected after a holder failed."""
    pending: bool = False
    """It has been sent `Pending`."""
    previous: "Entry | None" = None
    """The stored answer that it gets instead of a rejection (`sidecard.core.cache.freshness`)."""
    failure: str = ""
    """Why its last call failed, if it is not the first."""
    tried: tuple[str, ...] = ()
    """Backends that have failed it since its last retry."""
    retries: int = 0
    not_before: float = 0.0
    patient: bool = True
    """It may be held for a prefix."""
    held_since: float | None = None
    """When it was first held for a prefix, at any backend."""
    queues: tuple["Choice", ...] = ()

    @property
    def flow(self) -> tuple[int, int]:
        """Its flow in fair queues: the uid, and the process, or the connection if the process is unknown."""
        return self.peer.uid, self.peer.pid or -self.peer.id

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

    def wait_longer(self, seconds: float) -> None:
        """Move the deadline."""
        self.deadline += seconds

    def mark_held(self, since: float) -> None:
        """Record when it was first held for a prefix."""
        self.held_since = since

    def wait_no_longer(self) -> None:
        """Never hold it again."""
        self.patient = False

    def is_queued_at(self, backend: "Backend") -> bool:
        """Return whether the applicant is in a backend's queue."""
        return any(queued is backend for _, queued in self.queues)

    def enqueue(self, choice: "Choice") -> None:
        """Join a backend's queue."""
        choice[1].enqueue(self.flow, self, queue_place(self.request, self.flow))
        self.queues += (choice,)

    def dequeue(self, backend: "Backend", now: float) -> None:
        """Leave a backend's queue."""
        backend.dequeue(self.flow, self, now)
        self.queues = tuple(choice for choice in self.queues if choice[1] is not backend)

    def dequeue_served(self, backend: "Backend", now: float) -> "Choice":
        """Leave a backend's queue as the one that is served, and return the backend under the caller's name for it."""
        backend.dequeue(self.flow, self, now, served=True)
        served = next(choice for choice in self.queues if choice[1] is backend)
        self.queues = tuple(choice for choice in self.queues if choice is not served)
        return served

    def dequeue_all(self, now: float) -> None:
        """Leave all queues."""
        for _, backend in self.queues:
            backend.dequeue(self.flow, self, now)

        self.queues = ()


class HeldLease(Struct, eq=False):
    """Permission to make a call, held by one peer until the lease ends."""

    name: str
    flight: "Flight | None"
    peer: Peer
    request: Begin
    memory_bytes: int
    backend: str
    permit: "Permit"
    attempt: int
    granted_at: float
    tried: tuple[str, ...]
    retries: int
    early_refresh: bool
    """The answer that it replaces is still fresh."""
    renewed_until: float
    scope: str
    """As `Applicant.scope`."""
    knows_waiters: bool = False
    """Its holder was last informed that callers wait."""
    last_chunk_at: float | None = None
    """When its stream last produced a chunk."""
    slept_seconds: float = 0.0
    """How long the host has slept since the grant; no call makes progress meanwhile."""

    def renew(self, until: float) -> None:
        """Keep the lease until an instant, if its work makes progress (`overdue_at`)."""
        self.renewed_until = until

    @property
    def wants_notice(self) -> bool:
        """Its holder asked to be informed of the first waiter, and does not know of any."""
        return self.request.wanted and not self.knows_waiters

    def notify(self) -> SendReply:
        """Inform the holder that the first caller waits."""
        self.knows_waiters = True
        return SendReply(self.peer.id, Wanted(self.request.id, self.name))

    def report_waiters(self) -> int:
        """Return how many callers wait, for a reply that informs the holder."""
        waiters = 0 if self.flight is None else len(self.flight.waiters)
        self.knows_waiters = waiters > 0
        return waiters

    def record_chunk(self, now: float) -> None:
        """Record that the stream has made progress. Only the work produces chunks, so an empty one is progress too."""
        self.last_chunk_at = now

    def host_slept(self, seconds: float) -> None:
        """Allow the work as much more time as the host has slept."""
        self.slept_seconds += seconds
        if self.last_chunk_at is not None:
            self.last_chunk_at += seconds

    def overdue_at(self, max_call_seconds: float, idle_seconds: float) -> float:
        """Return when the lease ends however often it is renewed: a renewal shows a live process, not progress."""
        latest = self.granted_at + self.slept_seconds + max_call_seconds
        return latest if self.last_chunk_at is None else min(latest, self.last_chunk_at + idle_seconds)

    def ended(self) -> "HeldLease":
        """Return a copy with only what the bill of a late answer needs."""
        request = Begin(id=self.request.id, task=self.request.task, trace=self.request.trace)
        return structs.replace(self, flight=None, request=request, tried=())

    def detach(self) -> None:
        """Separate the lease from its flight: the holder goes on, without sharing its answer."""
        if self.flight is not None:
            self.flight.lease_ended()
            self.flight = None


SharedPermit = tuple[str, "Permit"]
"""A permit that begins of a batch may share, and their name for its backend."""


class PeerTable(Struct, eq=False):
    """The participants of one peer."""

    applicants: dict[int, Applicant] = {}
    """By the id to answer."""
    leases: dict[str, HeldLease] = {}
    waiters: dict[int, Waiter] = {}
    permits: dict[int, SharedPermit] = {}
    """By batch: of its latest call in progress."""
    batches: dict[int, dict[Applicant, None]] = {}
    """By batch: its applicants."""

    def applied(self, applicant: Applicant) -> None:
        """Add an applicant."""
        self.applicants[applicant.reply_id] = applicant
        if applicant.request.batch:
            self.batches.setdefault(applicant.request.batch, {})[applicant] = None

    def withdrawn(self, applicant: Applicant) -> None:
        """Remove an applicant."""
        del self.applicants[applicant.reply_id]
        batch = applicant.request.batch
        if batch:
            del self.batches[batch][applicant]
            if not self.batches[batch]:
                del self.batches[batch]


def same_process(one: Peer, other: Peer) -> bool:
    """Return whether two peers are known to be one process; pid 0 means unknown."""
    return one.id == other.id or (one.pid == other.pid != 0 and one.uid == other.uid)

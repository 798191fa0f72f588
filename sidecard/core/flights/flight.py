"""A flight: the one computation of a key that is in progress, as a state machine.

A flight is in exactly one state:

==================  ==============================================================================================
`LOOKING_UP`        the store has been asked for an entry, for the claim, or for both; all callers wait
`CLAIMED_ELSEWHERE` another host computes the key; all callers wait for its answer
`QUEUED`            no lease: an applicant waits for a permit or for its retry, or the next holder is being elected
`LEASED`            a holder makes the call
`OVER`              every caller has been answered; the flight has left the table
==================  ==============================================================================================

`TRANSITIONS` lists all transitions: an event that it does not allow raises `KeyError` and changes nothing. Only the methods of
this class, of its participants (`sidecard.core.flights.participants`) and of the table (`sidecard.core.flights.table`)
change a flight; the rest of the engine calls them and turns the results into effects.
"""

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
    from sidecard.core.flights.streams import SharedStream

FlightState = Literal["looking_up", "claimed_elsewhere", "queued", "leased", "over"]
LOOKING_UP: Final = "looking_up"
CLAIMED_ELSEWHERE: Final = "claimed_elsewhere"
QUEUED: Final = "queued"
LEASED: Final = "leased"
OVER: Final = "over"

FlightEvent = Literal["store_asked", "claimed_elsewhere", "not_stored", "lease_granted", "lease_ended", "finished"]

TRANSITIONS: Final[dict[tuple[FlightState, FlightEvent], FlightState]] = {
    # A flight starts as QUEUED. With a store, its first caller asks the store in the same event.
    (QUEUED, "store_asked"): LOOKING_UP,
    # Again, because the first answer may be outdated, or because callers that need the claim have joined.
    (LOOKING_UP, "store_asked"): LOOKING_UP,
    (LOOKING_UP, "claimed_elsewhere"): CLAIMED_ELSEWHERE,
    # The other host's time is up, or it has changed the key.
    (CLAIMED_ELSEWHERE, "store_asked"): LOOKING_UP,
    (LOOKING_UP, "not_stored"): QUEUED,
    # The other host cannot share its answer, or the store is down.
    (CLAIMED_ELSEWHERE, "not_stored"): QUEUED,
    (QUEUED, "lease_granted"): LEASED,
    (LEASED, "lease_ended"): QUEUED,
    (LOOKING_UP, "finished"): OVER,
    (CLAIMED_ELSEWHERE, "finished"): OVER,
    # Also after a complete, which ends the lease first.
    (QUEUED, "finished"): OVER,
}

MAX_VOIDED_TAGS = 64
"""Purged tags that one flight remembers; after more of them its answer is not stored, whatever its tags."""


class Flight(Struct, eq=False):
    """The one computation of a key that is in progress."""

    scope: str
    key: str
    uid: int
    """The uid whose begin started it."""
    state: FlightState = QUEUED
    lease: "HeldLease | None" = None
    applicant: "Applicant | None" = None
    waiters: dict[tuple[int, int], "Waiter"] = {}
    """By peer id and request id, the longest-waiting first."""
    elections: int = 0
    attempts: int = 0
    """Calls made so far."""
    storable: bool = True
    """False after a delete or purge during a call: its answer may be what was to be removed."""
    voided_tags: frozenset[str] = frozenset()
    """Tags purged during a call; an answer that has one of them is not stored."""
    stream: "SharedStream | None" = None
    """The holder's chunks so far, of a streamed answer."""
    unshared: bool = False
    """There is an answer, but later callers may not have it."""
    claim: str = ""
    """The right, among all hosts, to compute the key; empty if this host has none."""
    claiming: bool = False
    """The open question to the store includes the claim."""
    reads_entry: bool = False
    """The open question to the store includes the entry."""
    outdated: bool = False
    """The store's answer to the open question may be older than a known change."""
    pending: bool = False
    """New callers are sent `Pending` immediately."""

    def store_asked(self, *, reads_entry: bool, claiming: bool) -> None:
        """Record that the store is asked, for the entry, the claim, or both."""
        self.state = TRANSITIONS[self.state, "store_asked"]
        self.reads_entry = reads_entry
        self.claiming = claiming
        self.outdated = False

    def store_answered(self, claim: str) -> None:
        """Record the claim in the store's answer, if any."""
        self.claim = claim

    def outdate(self) -> None:
        """Distrust the store's answer to the open question: the key has changed since."""
        self.outdated = True

    def claimed_elsewhere(self) -> None:
        """Record that another host computes the key."""
        self.state = TRANSITIONS[self.state, "claimed_elsewhere"]
        self.pending = True

    def not_stored(self) -> None:
        """Record that no host has the answer: a caller must compute it."""
        self.state = TRANSITIONS[self.state, "not_stored"]
        self.pending = True

    def store_is_slow(self) -> None:
        """Send `Pending` to later callers immediately."""
        self.pending = True

    def lease_granted(self, lease: "HeldLease") -> None:
        """Record the flight's holder, whose call is attempt number ``lease.attempt``."""
        self.state = TRANSITIONS[self.state, "lease_granted"]
        self.attempts = lease.attempt
        self.lease = lease

    def lease_ended(self) -> None:
        """Remove the holder, whatever the outcome of its lease."""
        self.state = TRANSITIONS[self.state, "lease_ended"]
        self.lease = None

    def finish(self) -> None:
        """End the flight."""
        self.state = TRANSITIONS[self.state, "finished"]

    def applied(self, applicant: "Applicant | None") -> None:
        """Set the caller that waits for the lease; None if it does not wait any more."""
        self.applicant = applicant

    def count_election(self) -> None:
        """Count that a failure has led to another holder."""
        self.elections += 1

    def start_stream(self, stream: "SharedStream") -> "SharedStream":
        """Share the chunks of the holder's answer from now on."""
        self.stream = stream
        return stream

    def end_stream(self) -> None:
        """Discard the chunks of a holder that has failed."""
        self.stream = None

    def take_claim(self) -> str:
        """Return the claim, which the caller uses up by a write."""
        claim, self.claim = self.claim, ""
        return claim

    def keep_answer(self, *, unshared: bool) -> None:
        """Record, for other hosts, whether there is an answer that later callers may not have."""
        self.unshared = unshared

    def forbid_storing(self) -> None:
        """Void the call in progress: its key has been removed, so later callers must not get its answer."""
        self.void(None)

    def void(self, tag: str | None) -> None:
        """Void the call in progress, for the case that its answer has ``tag``; None means in any case.

        An answer's tags are known only at its end: 1. a call starts; 2. its tag is purged, because its sources have
        changed; 3. the answer arrives with that tag. So the flight remembers the tag. Without a call in progress nothing
        is voided: every later call starts after the removal, and a lookup in progress is repeated (`Lookups.ask_again`).
        """
        if self.state != LEASED:
            return

        if tag is None or len(self.voided_tags) >= MAX_VOIDED_TAGS:
            self.storable = False
        else:
            self.voided_tags |= {tag}

    @property
    def voided(self) -> bool:
        """Later callers must not get its answer, or not if it has a purged tag: they start another flight."""
        return not self.storable or bool(self.voided_tags)

    def replaced(self) -> None:
        """Record that another flight computes the key for later callers: what they get must not be overwritten."""
        self.storable = False

    def may_store(self, tags: tuple[str, ...]) -> bool:
        """Return whether an answer with ``tags`` is unaffected by removals during the flight."""
        return self.storable and self.voided_tags.isdisjoint(tags)

    def concerns(self, task: str) -> bool:
        """Return whether any participant's request is of ``task``. Callers of different tasks may choose the same key."""
        participants = (self.lease, self.applicant, *self.waiters.values())
        return any(one is not None and one.request.task == task for one in participants)

    def needs_holder(self) -> bool:
        """Return whether any waiter would make the call itself."""
        return any(waiter.may_lead for waiter in self.waiters.values())

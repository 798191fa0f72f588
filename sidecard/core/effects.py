"""Effects: the only way for the engine to act on the world. The counterpart of `sidecard.core.events`."""

from typing import Final, Literal

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard.core.records import Record
from sidecard_client.protocol.wire import AnyReply, Begin, LogLevel, Request, View

NO_TICKET: Final = 0
"""Ticket of a removal that nobody waits for."""


class SendReply(Struct, frozen=True):
    """Deliver ``reply`` to a peer; never addressed to a lost one."""

    peer_id: int
    reply: AnyReply
    answer_to: type[Request] = Begin
    """Class of the answered request, if an earlier event carried it."""


class ServeAgain(Struct, frozen=True):
    """Deliver the same request of the same peer again, before its others: some of its work is left for another turn."""


class SendMetrics(Struct, frozen=True):
    """Deliver a large reply to `metrics` to a peer, built in turns of its ``uid`` from `Engine.metrics_sources`."""

    peer_id: int
    uid: int
    request_id: int


class AwaitRead(Struct, frozen=True):
    """Report by `sidecard.core.events.BacklogRead` when the peer has read most of its backlog, or ``all`` of it."""

    peer_id: int
    request_id: int
    all: bool = False


class OpenView(Struct, frozen=True):
    """Make a view's file of ``size`` bytes with ``slot_count`` slots. `ViewFailed` follows if that fails."""

    view: int
    size: int
    slot_count: int


class SendView(Struct, frozen=True):
    """Deliver ``reply`` to a peer with a descriptor of the view's file; without a file, an `Error` ``unavailable`` instead."""

    peer_id: int
    reply: View
    view: int


class Publish(Struct, frozen=True):
    """Write an entry into a view: ``record`` at ``offset`` (bytes from the start of the file, a multiple of 8), then its slot.

    The slot may still have an entry of an earlier generation, which is overwritten.
    """

    view: int
    slot: int
    digest: bytes
    offset: int
    expires_at: float
    generation: int
    record: bytes


class Withdraw(Struct, frozen=True):
    """Empty slots of a view."""

    view: int
    slots: tuple[int, ...]


class WithdrawAll(Struct, frozen=True):
    """Withdraw all entries of a view: its generation becomes ``generation``."""

    view: int
    generation: int


class RetireView(Struct, frozen=True):
    """Withdraw all entries of a view for ever, and erase them. `ViewReleased` follows when no process has the file."""

    view: int


class SetLogLevel(Struct, frozen=True):
    """Log events of ``level`` and above from now on."""

    level: LogLevel


class ReadSettings(Struct, frozen=True):
    """Reread the settings at a peer's request. Ends in `sidecard.core.events.SettingsRead`."""

    peer_id: int
    request_id: int


class EmitNote(Struct, frozen=True):
    """Pass a note to its listeners: log, metrics and watchers."""

    note: Note


class StoreRead(Struct, frozen=True):
    """Read a key's entry from the store; exactly one `StoreAnswered` follows.

    ``claim`` also requests the claim of the key from a shared store, in the same round trip, in case there is no entry.
    Without ``read_entry`` only the claim is requested, as a refresh does.
    """

    ticket: int
    scope: str
    key: str
    claim: bool = False
    read_entry: bool = True


class StoreWrite(Struct, frozen=True):
    """Write an entry to the store, soon.

    ``claim`` is the claim under which the entry was computed; a shared store rejects the write if it is no longer current.
    Without a claim, an entry that another host has written meanwhile stays, unless ``replace`` is set.
    ``made_at`` is the instant, on the engine's clock, from which the record's age counts: writes may be delayed.
    """

    scope: str
    key: str
    record: Record
    claim: str = ""
    replace: bool = False
    made_at: float = 0.0


class StoreRelease(Struct, frozen=True):
    """Release a claim that led to no entry. ``unshared``: there is an answer, but other callers may not have it."""

    scope: str
    key: str
    claim: str
    unshared: bool = False


class StoreRemove(Struct, frozen=True):
    """Remove a key's entry and void its claim; a `StoreAnswered` follows, unless the ticket is `NO_TICKET`."""

    ticket: int
    scope: str
    key: str


class StorePurge(Struct, frozen=True):
    """Remove the entries that match ``namespace`` (see `sidecard.core.scopes.covers`), ``tag`` and ``task``; None is any.

    A `StoreAnswered` follows, unless the ticket is `NO_TICKET`.
    """

    ticket: int
    namespace: str | None
    tag: str | None
    task: str | None = None


class ShareSpending(Struct, frozen=True):
    """Publish this run's total spending of a budget in one period to other hosts."""

    budget: str
    period: int
    period_seconds: float
    dollars: float


CallSource = Literal["upstream", "cache", "stale", "shared", "failed", "rejected", "timeout"]


class CallRecord(Struct, frozen=True, omit_defaults=True):
    """One ended call, for the call log. ``prompt`` and ``answer`` are msgpack; both are optional."""

    source: CallSource
    task: str
    namespace: str
    """With the uid that it is private to: ``1000:default``."""
    uid: int
    pid: int
    key: str | None = None
    backend: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    billed_dollars: float = 0.0
    saved_dollars: float = 0.0
    seconds: float = 0.0
    """``upstream``, ``failed``: the backend's time. Otherwise the caller's waiting time."""
    age_seconds: float = 0.0
    ago_seconds: float = 0.0
    """How long ago the call ended. Only hits from views are reported later; otherwise 0."""
    reason: str = ""
    """``failed``: the kind of failure. ``rejected``: the reason. ``cache``: ``similar 0.9312`` for the answer to a similar
    request, with the cosine."""
    error: str = ""
    """The exception's type, if there was one."""
    trace: str = ""
    prompt: bytes | None = None
    answer: bytes | None = None


class LogCall(Struct, frozen=True):
    """Add a call to the call log."""

    record: CallRecord


ViewEffect = OpenView | SendView | Publish | Withdraw | WithdrawAll | RetireView
"""Performed before the replies of the same event."""

StoreEffect = StoreRead | StoreWrite | StoreRelease | StoreRemove | StorePurge | ShareSpending
Effect = (
    SendReply
    | ServeAgain
    | SendMetrics
    | EmitNote
    | AwaitRead
    | LogCall
    | SetLogLevel
    | ReadSettings
    | ViewEffect
    | StoreEffect
)

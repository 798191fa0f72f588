"""What to do: the only way for the engine to act on the world. The counterpart of `sidecard.core.events`."""

from typing import Literal

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard.core.records import Record
from sidecard_client.protocol.wire import AnyReply, Begin, LogLevel, Request


class Send(Struct, frozen=True):
    """Deliver ``reply`` to the peer of id ``peer``; never addressed to a lost peer."""

    peer: int
    reply: AnyReply
    late_answer_of: type[Request] = Begin
    """What was asked, where the answer is not that of the event at hand."""


class AskRoom(Struct, frozen=True):
    """Say by `sidecard.core.events.RoomForMore` when the peer has read most of what it was sent, or ``all`` of it."""

    peer: int
    request_id: int
    all: bool = False


class ChangeLog(Struct, frozen=True):
    """Let the log say what is of ``level`` and above from now on."""

    level: LogLevel


class ReadSettings(Struct, frozen=True):
    """Read the settings again, for a peer that has asked for it. Ends in `sidecard.core.events.SettingsRead`."""

    peer: int
    request_id: int


class Tell(Struct, frozen=True):
    """Let the listeners of notes know a fact."""

    note: Note


class StoreAsk(Struct, frozen=True):
    """Ask the store for a key's entry; one `StoreAnswered` follows, whatever happens.

    Where the store is shared, ``claim`` asks in the same breath for the right to compute the key, should there be no entry.
    Without ``look``, entries are passed by (a refresh): only who computes the key is of interest.
    """

    ticket: int
    scope: str
    key: str
    claim: bool = False
    look: bool = True


class StoreWrite(Struct, frozen=True):
    """Keep an entry, soon.

    ``claim`` is the claim under which it was computed: if that is no longer current, a shared store refuses.
    Without one, an entry that a shared store has meanwhile got from another host stays, unless this is to ``replace`` it.
    ``made_at`` is the instant from which the record's age counts, on the engine's clock: a write may wait for long.
    """

    scope: str
    key: str
    record: Record
    claim: str = ""
    replace: bool = False
    made_at: float = 0.0


class StoreRelease(Struct, frozen=True):
    """Give a claim back, of which no entry came. ``unshared``: there is an answer, which may be given to nobody else."""

    scope: str
    key: str
    claim: str
    unshared: bool = False


class StoreRemove(Struct, frozen=True):
    """Remove a key's entry, and void its claim; a `StoreAnswered` follows."""

    ticket: int
    scope: str
    key: str


class StorePurge(Struct, frozen=True):
    """Remove the entries that `sidecard.core.scopes.covers` by ``namespace``, that have ``tag`` and are of ``task``; None is any.

    A `StoreAnswered` follows.
    """

    ticket: int
    namespace: str | None
    tag: str | None
    task: str | None = None


class ShareSpending(Struct, frozen=True):
    """Let other hosts know what this run has spent of a budget within a period, in all."""

    budget: str
    period: int
    period_seconds: float
    dollars: float


CallSource = Literal["upstream", "cache", "stale", "shared", "failed", "rejected", "timeout"]


class CallRecord(Struct, frozen=True, omit_defaults=True):
    """One call as it ended, for the call log. ``prompt`` and ``answer`` are msgpack, and there only where they are kept."""

    source: CallSource
    task: str
    namespace: str
    """With the uid it is private to: ``1000:default``."""
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
    """``upstream``, ``failed``: how long the backend took. Otherwise how long the caller waited."""
    age_seconds: float = 0.0
    reason: str = ""
    """``failed``: the kind of failure. ``rejected``: why."""
    error: str = ""
    """The type of the exception, where there was one."""
    trace: str = ""
    prompt: bytes | None = None
    answer: bytes | None = None


class LogCall(Struct, frozen=True):
    """Add a call to the call log."""

    record: CallRecord


StoreEffect = StoreAsk | StoreWrite | StoreRelease | StoreRemove | StorePurge | ShareSpending
Effect = Send | Tell | AskRoom | LogCall | ChangeLog | ReadSettings | StoreEffect

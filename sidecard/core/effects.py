"""What to do: the only way for the engine to act on the world. The counterpart of `sidecard.core.events`."""

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard.core.records import Record
from sidecard_client.wire import AnyReply


class Send(Struct, frozen=True):
    """Deliver ``reply`` to the peer of id ``peer``; never addressed to a lost peer."""

    peer: int
    reply: AnyReply


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
    """Remove the entries that `sidecard.core.scopes.covers` by ``namespace`` and that have ``tag``; None is any.

    A `StoreAnswered` follows.
    """

    ticket: int
    namespace: str | None
    tag: str | None


class ShareSpending(Struct, frozen=True):
    """Let other hosts know what this run has spent of a budget within a period, in all."""

    budget: str
    period: int
    period_seconds: float
    dollars: float


StoreEffect = StoreAsk | StoreWrite | StoreRelease | StoreRemove | StorePurge | ShareSpending
Effect = Send | Tell | StoreEffect

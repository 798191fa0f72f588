"""What the reference model remembers, and what the oracles know of settings and namespaces."""

from dataclasses import dataclass, field
from math import inf, log
from typing import NamedTuple

from msgspec import UNSET

from sidecard.core.cache.memory import SHARING_ONLY_BYTES
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire

UNKNOWN = ""
"""Placeholder in a predicted reply for what only the engine knows: the name of a lease, the wording of a message."""

Place = tuple[str, str]
"""Scope and key of a flight and of an entry."""

Sent = tuple[int, wire.AnyReply]
"""Peer id and reply."""


def budget_bytes(settings: EngineSettings) -> int:
    """Return how many bytes the entries may take together."""
    return settings.cache_max_bytes or SHARING_ONLY_BYTES


def scope_of(settings: EngineSettings, peer: Peer, namespace: str) -> str | None:
    """Return the scope of a namespace; None where the peer may not use it."""
    if ":" in namespace:
        return namespace if peer.operator else None

    shared = settings.shared_namespaces.get(namespace)
    if shared is not None and (shared.everyone or peer.uid in shared.uids or peer.gid in shared.gids):
        return f"*:{namespace}"

    return f"{peer.uid}:{namespace}"


def own_scope_of(settings: EngineSettings, peer: Peer, namespace: str) -> str | None:
    """Return the scope of a namespace, if the peer gets the same by its name without an owner; operators get no other uid's."""
    scope = scope_of(settings, peer, namespace)
    return scope if scope == scope_of(settings, peer, namespace.rpartition(":")[2]) else None


def purge_covers(namespace: str | None, scope: str) -> bool:
    """Return whether a purge of ``namespace`` covers ``scope``."""
    return namespace in {None, scope, scope.split(":")[1]}


def ttl_seconds_of(settings: EngineSettings, task: str, *asked: float | None) -> float:
    """Return the first lifetime that was asked for, else the task's, else the default."""
    if settings.cache_max_bytes == 0:
        return 0.0

    given = [ttl_seconds for ttl_seconds in asked if ttl_seconds is not None]
    return given[0] if given else settings.task(task).ttl_seconds or settings.ttl_seconds


def stale_seconds_of(settings: EngineSettings, task: str, asked: float | None) -> float:
    """Return for how long an answer of a task is kept beyond its lifetime."""
    if settings.cache_max_bytes == 0:
        return 0.0

    given = [seconds for seconds in (asked, settings.task(task).stale_seconds) if seconds is not None]
    return given[0] if given else settings.stale_seconds


def oldest_of(begin: wire.Begin) -> float | None:
    """Return the age that every answer of a begin stays below; None if it sets no bound."""
    return min((age for age in (begin.ttl_seconds, begin.max_age_seconds) if age is not None), default=None)


def same_process(one: Peer, other: Peer) -> bool:
    """Return whether two connections are certainly of one process: pid 0 is any process of another pid namespace."""
    return one == other or (one.pid != 0 and (one.pid, one.uid) == (other.pid, other.uid))


@dataclass(eq=False)
class Answer:
    """An answer: a hit before ``expires``, shared before ``shared_until``, then stale until ``stale_until``."""

    value: bytes
    made: float
    expires: float
    shared_until: float = -inf
    seconds: float = 0.0
    backend: str = wire.DEFAULT_BACKEND
    usage: wire.Usage = field(default_factory=wire.Usage)
    tags: tuple[str, ...] = ()
    stale_until: float = -inf
    early: float = 0.0
    """`TaskSettings.early_refresh`."""

    @property
    def dollars(self) -> float:
        """Cost of its call."""
        return self.usage.cost_dollars or 0.0

    def kind(self, now: float) -> type[wire.Hit | wire.Shared] | None:
        """Return the reply that serves it to a begin; None where it is stale or gone."""
        if now < self.expires:
            return wire.Hit

        return wire.Shared if now < self.shared_until else None

    def kind_for(self, begin: wire.Begin, now: float) -> type[wire.Hit | wire.Shared] | None:
        """Return the reply that serves it to a begin as a fresh answer: no sharing window for one with a bound."""
        oldest = oldest_of(begin)
        if oldest is None:
            return self.kind(now)

        return wire.Hit if now < self.expires and now - self.made < oldest else None

    def is_there(self, now: float) -> bool:
        """Return whether some caller may be served it, be it stale."""
        return self.kind(now) is not None or now < self.stale_until

    def old_for(self, begin: wire.Begin, now: float) -> bool:
        """Return whether a begin may be served it as a stale answer."""
        if begin.mode == "refresh" or self.kind_for(begin, now) is not None or now >= self.stale_until:
            return False

        oldest, stale_seconds = oldest_of(begin), begin.stale_seconds
        if oldest is not None and now - self.made >= oldest + (stale_seconds or 0.0):
            return False

        return stale_seconds is None or now < self.expires + stale_seconds

    def drawn(self, begin: wire.Begin, now: float) -> bool:
        """Return whether it is refreshed before it is too old for the begin, where all draws are one half."""
        oldest = oldest_of(begin)
        until = self.expires if oldest is None else min(self.expires, self.made + oldest)
        return now < until and self.early > 0 and self.seconds * self.early * log(2) >= until - now


class Refusal(NamedTuple):
    """A failed call."""

    kind: wire.FailureKind
    message: str = UNKNOWN
    detail: object = UNSET
    context: str = ""

    def concerns(self, begin: wire.Begin) -> bool:
        """Return whether the caller of a begin fails alike."""
        return self.kind != "fatal" or self.context == begin.context


@dataclass(eq=False)
class Waiter:
    """A waiting begin; ``order`` is the place of its deadline among all that were set."""

    peer: Peer
    begin: wire.Begin
    since: float
    deadline: float
    order: int


@dataclass(eq=False)
class Flight:
    """One computation of one key; ``elections`` counts the holders after the first."""

    place: Place
    waiters: list[Waiter] = field(default_factory=list)
    elections: int = 0
    leases: int = 0
    may_store: bool = True
    purged_tags: frozenset[str] = frozenset()
    """Tags with which its answer is not stored."""

    @property
    def voided(self) -> bool:
        """A removal came during its call, so later callers start another flight."""
        return not self.may_store or bool(self.purged_tags)


@dataclass(eq=False)
class Lease:
    """A lease; ``turn`` is the index of its backend in the begin, ``reply_id`` the id of the request it answered."""

    peer: Peer
    begin: wire.Begin
    reply_id: int
    granted: float
    expires: float
    flight: Flight | None
    order: int
    """The place of its deadline among all that were set; a renewal sets it again."""
    turn: int = 0
    attempt: int = 1
    knows_waiters: bool = False
    """Its holder was last notified that callers wait."""
    name: str = UNKNOWN

    @property
    def backend(self) -> str:
        """The backend whose turn it is."""
        return self.begin.backends[self.turn] if self.begin.backends else wire.DEFAULT_BACKEND

    @property
    def has_next(self) -> bool:
        """Return whether the caller named a further backend."""
        return self.turn + 1 < len(self.begin.backends)


@dataclass
class Sums:
    """A task's ledger before any division."""

    hits: int = 0
    shared: int = 0
    leads: int = 0
    upstream_calls: int = 0
    billed_seconds: float = 0.0
    billed_dollars: float = 0.0
    saved_by_cache_seconds: float = 0.0
    saved_by_cache_dollars: float = 0.0
    saved_by_sharing_seconds: float = 0.0
    saved_by_sharing_dollars: float = 0.0
    waited_seconds: float = 0.0
    failed: int = 0
    not_stored: int = 0
    rejected: int = 0
    timeouts: int = 0

    def add(self, other: "Sums") -> None:
        """Add another task's."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def bill(self, seconds: float, dollars: float) -> None:
        """Count an answer of a backend."""
        self.upstream_calls += 1
        self.billed_seconds += seconds
        self.billed_dollars += dollars

    def hit(self, answer: Answer) -> None:
        """Count an answer from the cache."""
        self.hits += 1
        self.saved_by_cache_seconds += answer.seconds
        self.saved_by_cache_dollars += answer.dollars

    def share(self, answer: Answer, waited: float) -> float:
        """Count an answer that another caller fetched; return the seconds saved."""
        # A caller that waited longer than the call took saved nothing; its wait counts as that call's time.
        saved = max(0.0, answer.seconds - waited)
        self.shared += 1
        self.saved_by_sharing_seconds += saved
        self.saved_by_sharing_dollars += answer.dollars
        self.waited_seconds += answer.seconds - saved
        return saved

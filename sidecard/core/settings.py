"""What the engine may be told, each with its default and where the default comes from."""

from msgspec import Struct


class SharedWith(Struct, frozen=True):
    """Who may use a namespace that is not private to one uid."""

    everyone: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, uid: int, gid: int) -> bool:
        """Tell whether a peer of these credentials shares the namespace."""
        return self.everyone or uid in self.uids or gid in self.gids


class EngineSettings(Struct, frozen=True):
    """The engine's numbers. All seconds are of the monotonic clock."""

    cache_max_bytes: int = 256 * 1024 * 1024
    """0 switches caching off; the sharing window then has `sidecard.core.cache.SHARING_ONLY_BYTES`."""
    ttl_seconds: float = 300.0
    sharing_window_seconds: float = 60.0
    task_ttl_seconds: dict[str, float] = {}
    shared_namespaces: dict[str, SharedWith] = {}
    lease_seconds: float = 15.0
    """How long a holder may be silent. A dead holder is noticed at once; this is for one that hangs.
    Precedents: nginx proxy_cache_lock_age 5 s, Facebook's leases 10 s, etcd's sessions 60 s."""
    renew_seconds: float | None = None
    """How often holders are to renew, where not every third of the lease: they are then told that it is three times this."""
    wait_seconds: float = 120.0
    """How long a waiter waits that names no time itself."""
    max_elections: int = 2
    """Holders that may fail a flight before its waiters share the failure."""
    max_waiters: int = 16384
    max_flights: int = 16384
    max_leases: int = 32768
    max_tasks: int = 256
    """Tasks with a ledger of their own; the calls of further ones are booked under `sidecard.core.ledger.OTHER_TASKS`."""

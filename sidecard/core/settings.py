"""What the engine may be told, each with its default and where the default comes from."""

from typing import Literal

from msgspec import Struct, structs

from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol.wire import Locality, Route, is_local

TimeoutsCount = Literal["failure", "slow", "nothing"]
StoreKind = Literal["none", "own", "shared"]
Cacheability = Literal["always", "deterministic", "never"]
"""Which answers of a task are stored: all; those of requests that are meant to have one answer, as far as their callers know;
none. Calls in flight are shared whatever it is."""


class SharedWith(Struct, frozen=True):
    """Who may use a namespace that is not private to one uid."""

    everyone: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, uid: int, gid: int) -> bool:
        """Tell whether a peer of these credentials shares the namespace."""
        return self.everyone or uid in self.uids or gid in self.gids


class BreakerSettings(Struct, frozen=True):
    """When a breaker opens and for how long. Defaults from resilience4j, Polly and Envoy, which differ (README)."""

    window_seconds: float = 60.0
    window_calls: int = 100
    """At most so many of the latest outcomes count, however young."""
    min_calls: int = 10
    """With fewer outcomes in the window nothing is concluded: one failure of one call is no outage."""
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_seconds: float = 60.0
    """A call that took longer is slow. 0: none is."""
    slow_first_chunk_seconds: float = 0.0
    """A call whose first piece took longer is slow. 0: none is."""
    open_seconds: float = 10.0
    """Doubled each time that the breaker opens again, without having been closed for a window between."""
    max_open_seconds: float = 300.0
    probes: int = 1
    """Calls that are let through to learn whether to close: their outcomes, all of them, decide."""
    probe_seconds: float = 60.0
    """A probe without an outcome for so long counts as failed; at least ``slow_seconds``."""
    enabled: bool = True
    """False: measured, never trips."""


class BackendSettings(Struct, frozen=True):
    """What is known of a backend beforehand. 0 means no limit, None means not known."""

    locality: Locality = "remote"
    max_concurrent: int = 0
    max_queue: int = 512
    """Callers that may wait for a permit. Precedent: Ollama's queue of 512."""
    adaptive: bool = False
    """Whether the limit moves below ``max_concurrent`` with the time to the first chunk, or per token."""
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    input_dollars_per_million_tokens: float | None = None
    output_dollars_per_million_tokens: float | None = None
    weight: float = 1.0
    """Its share under the route ``weighted``."""
    timeouts: TimeoutsCount = "failure"
    """What it counts as that a caller's patience ended."""
    breaker: BreakerSettings = BreakerSettings()


LOCAL_MAX_CONCURRENT = 4
"""Permits of a local backend for which nothing is said. Precedent: llama.cpp's server with 4 slots."""


def settings_of_unnamed(name: str) -> BackendSettings:
    """Return what holds for a backend of which the configuration says nothing."""
    if name == "local":
        return BackendSettings(locality="local", max_concurrent=LOCAL_MAX_CONCURRENT)

    return BackendSettings(locality="local" if is_local(name) else "remote")


class BudgetSettings(Struct, frozen=True):
    """What calls may cost within a period. Periods are aligned to the epoch: 86400 s are days that end at midnight UTC."""

    dollars: float
    period_seconds: float = 86400.0
    task: str | None = None
    """None is all tasks."""
    backend: str | None = None
    hard: bool = False
    """Whether calls that would cost are refused beyond it, or only a note is made."""


class TaskSettings(Struct, frozen=True):
    """Policy of one kind of work. None means what holds for all tasks."""

    ttl_seconds: float | None = None
    stale_seconds: float | None = None
    cache: Cacheability = "always"
    """What may be stored, whatever callers say."""
    normalize: tuple[NormalForm, ...] = ()
    """In which form texts go into keys: told to clients that ask for it, who make the keys (`sidecard_client.keys.normal_form`)."""
    early_refresh: float = 0.0
    """How early an answer is fetched anew that is still asked for, as a factor of the time that its call took. 0: never.
    1 is the optimum of its inventors (`sidecard.core.cache.freshness`)."""
    failure_ttl_seconds: float = 0.0
    """How long a failure that would come again (``fatal``) is answered without a call. 0: it is not remembered."""
    similar: bool = False
    """Whether the answer to a similar request may be served (`sidecard.core.cache.similarity`)."""
    similar_threshold: float = 0.95
    """The least cosine of two vectors whose requests are similar."""
    similar_max_entries: int = 10_000
    """Answers that may be found so, of the requests that are equal but for their text; beyond it the oldest are found no more."""
    backends: tuple[str, ...] = ()
    """For begins that name none."""
    route: Route | None = None
    """For begins that name none."""


ANY_TASK = TaskSettings()
"""Of a task for which nothing is said."""


class RetrySettings(Struct, frozen=True):
    """The retry budget of the host. Precedent: Finagle's 20 % of requests plus 10 a second, over 10 s."""

    share: float = 0.2
    floor_per_second: float = 10.0
    window_seconds: float = 10.0
    backoff_seconds: float = 0.5
    """Doubled with each retry of a call, then jittered down to between half and all of it. As the OpenAI SDK."""
    max_backoff_seconds: float = 8.0


class EngineSettings(Struct, frozen=True):
    """The engine's numbers. All seconds are of the monotonic clock."""

    cache_max_bytes: int = 256 * 1024 * 1024
    """0 switches caching off; the sharing window then has `sidecard.core.cache.memory.SHARING_ONLY_BYTES`."""
    compress_min_bytes: int = 0
    """Values as large as this are kept compressed, where that makes them smaller. 0: none is."""
    ttl_seconds: float = 300.0
    stale_seconds: float = 0.0
    """How long after its time an answer may still be served while another is fetched, or where none can be."""
    sharing_window_seconds: float = 60.0
    tasks: dict[str, TaskSettings] = {}
    shared_namespaces: dict[str, SharedWith] = {}
    namespace_max_bytes: dict[str, int] = {}
    """Of namespaces that have a limit of their own: what each of their scopes may hold in memory."""
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
    spare_share: float = 0.25
    """Of the bounds of flights, leases, waiters, queues and apps' metrics, on top of them: see `sidecard.core.shares`."""
    max_tasks: int = 256
    """Tasks with a ledger of their own; the calls of further ones are booked under `sidecard.core.accounts.ledger.OTHER`."""
    backends: dict[str, BackendSettings] = {}
    max_backends: int = 256
    """Those that no configuration names and that are not in use give way beyond it."""
    budgets: dict[str, BudgetSettings] = {}
    retries: RetrySettings = RetrySettings()
    sovereign: bool = False
    """No leases on remote backends."""
    share_budgets: bool = False
    """Whether budgets count what all hosts spend that use the same store."""
    store: StoreKind = "none"
    """``own``: on this host, only ours. ``shared``: other hosts' too; it grants claims, and has news."""
    metrics: bool = True
    """Whether the engine tells its own metrics; what apps tell is told in any case."""
    max_series: int = 1000
    """Label sets of one metric of the apps."""
    log_calls: bool = False
    log_prompts: bool = False
    """Whether holders are asked to send what was said along."""
    uncached_tasks: frozenset[str] = frozenset()
    """Derived: those of which nothing is stored, which every begin asks for."""

    def __post_init__(self) -> None:
        """Derive what every begin looks at."""
        uncached = frozenset(name for name, task in self.tasks.items() if task.cache == "never")
        structs.force_setattr(self, "uncached_tasks", uncached)

    def task(self, name: str) -> TaskSettings:
        """Return the policy of a task."""
        return self.tasks.get(name, ANY_TASK)

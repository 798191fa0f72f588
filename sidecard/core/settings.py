"""The engine's settings, with their defaults and where the defaults come from.

Docstrings of backends, budgets, tasks and retries are their descriptions in the generated documentation.
"""

from typing import Literal

from msgspec import Struct, structs

from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol.wire import Locality, PrefixAffinity, Route, is_local

TimeoutsCount = Literal["failure", "slow", "nothing"]
StoreKind = Literal["none", "own", "shared"]
PrefixFamily = Literal["llama.cpp", "anthropic", "openai", "gemini"]
Cacheability = Literal["always", "deterministic", "never"]
"""Which answers of a task are stored: all, only those of requests that their callers declare deterministic, or none.
Calls in flight are shared in any case."""


class SharedWith(Struct, frozen=True):
    """The users of a shared namespace."""

    everyone: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, uid: int, gid: int) -> bool:
        """Return whether a peer with these credentials may use the namespace."""
        return self.everyone or uid in self.uids or gid in self.gids


class BreakerSettings(Struct, frozen=True):
    """When a breaker opens and for how long. The defaults are modeled on those of resilience4j, Polly and Envoy, which differ."""

    window_seconds: float = 60.0
    """Age of the oldest outcome that counts."""
    window_calls: int = 100
    """Maximum number of outcomes that count: the latest ones."""
    min_calls: int = 10
    """The breaker does not open before the window has this many outcomes: one failure of one call is no outage."""
    failure_rate: float = 0.5
    """Share of failed calls at which the breaker opens."""
    slow_rate: float = 0.8
    """Share of slow calls at which the breaker opens."""
    slow_seconds: float = 60.0
    """A call that takes longer is slow. 0: no call is slow."""
    slow_first_chunk_seconds: float = 0.0
    """A call whose first chunk arrives later is slow. 0: no call is slow."""
    open_seconds: float = 10.0
    """How long the breaker stays open; doubled at each further opening, until it has stayed closed for one window."""
    max_open_seconds: float = 300.0
    """Maximum length of one open period."""
    probes: int = 1
    """Outcomes that a half-open breaker waits for before it closes or opens again. It admits as many calls, and another one for
    each call whose outcome shows nothing about the backend. It also closes after as many calls whose answers cannot be
    classified, after ten that their callers gave up, and if no call comes for an hour."""
    probe_seconds: float = 60.0
    """A probe that takes longer opens the breaker again. ``slow_seconds`` applies instead if it is longer."""
    enabled: bool = True
    """Whether the breaker may open; otherwise it only measures."""


class BackendSettings(Struct, frozen=True):
    """One backend: a place that can answer, by the name that callers give it.

    Backends without configuration are remote, except ``local`` and ``default``.
    """

    locality: Locality = "remote"
    """Whether calls stay on this host or in its private networks."""
    max_concurrent: int = 0
    """Maximum number of calls in progress. 0 is no limit. A local backend has by default as many as the host has processors, at
    most 4."""
    max_queue: int = 512
    """Maximum number of callers that wait for a permit. Precedent: Ollama's queue of 512."""
    adaptive: bool = False
    """Whether the limit adapts, up to ``max_concurrent``, to the time to the first chunk or per token."""
    requests_per_minute: float = 0.0
    """Maximum number of calls per minute. 0 is no limit."""
    tokens_per_minute: float = 0.0
    """Maximum number of tokens per minute. 0 is no limit."""
    input_dollars_per_million_tokens: float | None = None
    """Price of prompt tokens."""
    output_dollars_per_million_tokens: float | None = None
    """Price of completion tokens."""
    cached_input_dollars_per_million_tokens: float | None = None
    """Price of prompt tokens that the backend read from its own cache; without it, that of prompt tokens."""
    cache_write_dollars_per_million_tokens: float | None = None
    """Price of prompt tokens that the backend wrote to its own cache; without it, that of prompt tokens."""
    weight: float = 1.0
    """Relative share of calls under the route ``weighted``."""
    timeouts: TimeoutsCount = "failure"
    """How a caller's own timeout is scored: failure, slow, or nothing."""
    prefix_affinity: PrefixAffinity = "off"
    """Whether calls are scheduled so that a prefix that prompts share is processed once: ``slots`` for a model server that keeps
    the last prompt of each slot, as llama.cpp's does; ``provider`` for a provider with a prompt cache."""
    prefix_family: PrefixFamily | None = None
    """Whose published minimum and lifetime apply, unless ``prefix_min_tokens`` and ``prefix_lifetime_seconds`` are set: 1,024 tokens
    and 300 s for Anthropic and OpenAI, 4,096 tokens and 300 s for Gemini; llama.cpp's are those of slots. Some models differ."""
    prefix_min_tokens: int | None = None
    """Shorter prefixes are ignored, at 4 bytes per token; unset: the minimum of the family, else 64 for slots and 1,024 for a
    provider."""
    prefix_lifetime_seconds: float | None = None
    """How long a processed prefix is kept after its last use; unset: the lifetime of the family, else without end for slots and
    300 s for a provider."""
    prefix_hold_seconds: float | None = None
    """How long callers are held at most while another call processes the same prefix; unset: 30 s for slots, 10 s for a provider.
    0: they are not held."""
    prefix_pass_seconds: float = 10.0
    """How long callers of the same uid may overtake a caller because their prefixes are warm."""
    slots: int | None = None
    """Number of slots of a model server, with ``prefix_affinity = "slots"``; at most as many calls run. Unset: ``max_concurrent``."""
    breaker: BreakerSettings = BreakerSettings()


MIN_VIEW_BYTES = 256 * 1024
"""Minimum size of a view: a smaller one is not worth its descriptor."""

LOCAL_MAX_CONCURRENT = 4
"""Maximum default permits of a local backend. Precedents: llama.cpp's server has 4 slots, LM Studio 4, Ollama 1."""


def local_limit(processors: int) -> int:
    """Return the default permits of a local backend: one per processor of the host, at most `LOCAL_MAX_CONCURRENT`.

    Calls that a model server computes together share its processors. On two, four at a time took 1.3 to 1.7 times as long as two
    (``sidecard docs benchmarks``, "A local model"); on more, they share the reading of the model's weights.
    """
    return max(1, min(LOCAL_MAX_CONCURRENT, processors))


def settings_of_unnamed(name: str, local_max_concurrent: int) -> BackendSettings:
    """Return the settings of a backend that the configuration does not name."""
    if name == "local":
        return BackendSettings(locality="local", max_concurrent=local_max_concurrent)

    return BackendSettings(locality="local" if is_local(name) else "remote")


class BudgetSettings(Struct, frozen=True):
    """What calls may cost within a period. Periods are aligned to the epoch: 86400 s are days that end at midnight UTC."""

    dollars: float
    """Limit per period."""
    period_seconds: float = 86400.0
    """Length of a period."""
    task: str | None = None
    """Task whose calls count; unset: all tasks."""
    backend: str | None = None
    """Backend whose calls count; unset: all backends."""
    hard: bool = False
    """Whether paid calls that no longer fit are rejected; otherwise a spent budget is only logged. A call fits if its expected
    cost does: the mean of the latest calls without the dearest, or on a backend with a price, before the first one, that of
    1,000 prompt and 250 completion tokens. The first call of a period is always admitted. An expected cost
    above half of the budget that no call has confirmed for ten minutes is tested by one call at a time."""


class TaskSettings(Struct, frozen=True):
    """Policy of one task: a kind of work, by the name that callers give it (``task="rag"``)."""

    ttl_seconds: float | None = None
    """How long answers are served; unset: ``cache.ttl_seconds``."""
    stale_seconds: float | None = None
    """How much longer answers past their lifetime may be served; unset: ``cache.stale_seconds``."""
    cache: Cacheability = "always"
    """Which answers may be stored, whatever callers request: all, those of requests that callers declare deterministic
    (temperature 0, a seed), or none. Calls in flight are shared in any case. Entries stored earlier stay until they expire or
    ``sidecard purge --task NAME`` removes them."""
    normalize: tuple[NormalForm, ...] = ()
    """Normal forms of texts in keys, for clients with ``normalize="task"``. Requests that differ in nothing else share an
    answer: wrong for code, and wherever layout or case matter. A change changes the keys of all clients."""
    early_refresh: float = 0.0
    """How long before the end of its lifetime a requested answer is refreshed, as a factor of its call's duration. 0: never.
    1 is the optimum according to its inventors (`sidecard.core.cache.freshness`)."""
    failure_ttl_seconds: float = 0.0
    """How long a ``fatal`` failure is served without a call. 0: failures are not remembered."""
    similar: bool = False
    """Whether answers to similar requests are served, where callers embed their requests (``pip install
    'sidecard[similar]'``). Their texts must also have comparable signatures: see ``sidecard docs benchmarks``."""
    similar_threshold: float = 0.85
    """Minimum cosine of the vectors of two similar requests. Between requests without a signature of their text (of older
    clients), the default is 0.95."""
    similar_max_entries: int = 10_000
    """Maximum number of answers that one group (requests that differ only in their text) can find; the oldest are removed first."""
    backends: tuple[str, ...] = ()
    """Backends of calls that name none."""
    route: Route | None = None
    """Route of calls that name none."""


ANY_TASK = TaskSettings()
"""Policy of a task that the configuration does not name."""


class RetrySettings(Struct, frozen=True):
    """The retry budget of the host. Precedent: Finagle's 20 % of requests plus 10 a second, over 10 s."""

    share: float = 0.2
    """Retries allowed within the window, as a share of the calls in it."""
    floor_per_second: float = 10.0
    """Retries per second allowed in any case."""
    window_seconds: float = 10.0
    """Length of the window."""
    backoff_seconds: float = 0.5
    """Wait before the first retry. Doubled with each retry of a call, then multiplied by a random factor from 0.5 to 1, as in
    the OpenAI SDK."""
    max_backoff_seconds: float = 8.0
    """Maximum wait before a retry."""


class EngineSettings(Struct, frozen=True):
    """All settings of the engine. Seconds are of the monotonic clock."""

    cache_max_bytes: int = 256 * 1024 * 1024
    """0 disables caching; the sharing window then uses `sidecard.core.cache.memory.SHARING_ONLY_BYTES`."""
    view_bytes: int = 32 * 1024 * 1024
    """Limit of the files of all views, at most a quarter of ``cache_max_bytes``. 0: there are no views."""
    view_max_entry_bytes: int = 64 * 1024
    """Larger records are not published."""
    compress_min_bytes: int = 0
    """Values of at least this size are kept compressed, if that makes them smaller. 0: none are."""
    ttl_seconds: float = 300.0
    stale_seconds: float = 0.0
    """How long after its lifetime an answer may be served while it is refreshed, or if no call is possible."""
    sharing_window_seconds: float = 60.0
    tasks: dict[str, TaskSettings] = {}
    shared_namespaces: dict[str, SharedWith] = {}
    namespace_max_bytes: dict[str, int] = {}
    """Memory limit of each scope of a namespace, for namespaces with a limit of their own."""
    lease_seconds: float = 15.0
    """Lifetime of a lease that is not renewed. A dead holder loses it immediately; this is for one that hangs.
    Precedents: nginx proxy_cache_lock_age 5 s, Facebook's leases 10 s, etcd's sessions 60 s."""
    renew_seconds: float | None = None
    """How often holders renew; by default every third of the lease. Holders are sent three times this as the lifetime."""
    max_call_seconds: float = 3600.0
    """A lease ends after this time however often it is renewed: a heartbeat shows a live process, not progress."""
    idle_seconds: float = 300.0
    """A stream's lease ends if no chunk follows the last one for this time."""
    wait_seconds: float = 120.0
    """Waiting time of a begin that names none."""
    max_elections: int = 2
    """How often a failed holder of one flight is replaced; the next failure is shared by its waiters."""
    max_waiters: int = 16384
    max_flights: int = 16384
    max_leases: int = 32768
    max_memory_bytes: int = 128 * 1024 * 1024
    """Maximum memory that peers make the daemon hold besides the cache and buffers (`sidecard.core.accounts.memory`)."""
    spare_share: float = 0.25
    """Spare room beyond the limits of flights, leases, waiters, queues and app metrics (`sidecard.core.shares`)."""
    max_tasks: int = 256
    """Maximum number of tasks with a ledger of their own; further ones share `sidecard.core.accounts.ledger.OTHER`."""
    forget_seconds: float = 7 * 86400.0
    """Names of tasks, backends and models that are neither configured nor used for so long are forgotten."""
    backends: dict[str, BackendSettings] = {}
    local_max_concurrent: int = LOCAL_MAX_CONCURRENT
    """Permits of the backend ``local`` if it has no settings."""
    max_backends: int = 256
    """Maximum number of backends; beyond it, unconfigured ones that are not in use are dropped."""
    budgets: dict[str, BudgetSettings] = {}
    retries: RetrySettings = RetrySettings()
    sovereign: bool = False
    """Grant no leases on remote backends."""
    share_budgets: bool = False
    """Budgets count the spending of all hosts that use the same store."""
    store: StoreKind = "none"
    """``own``: used by this daemon alone. ``shared``: used by several hosts; it grants claims and sends invalidations."""
    metrics: bool = True
    """Report the daemon's own metrics; app metrics are reported in any case."""
    max_series: int = 1000
    """Maximum number of label sets of one app metric."""
    log_calls: bool = False
    log_prompts: bool = False
    """Ask holders to send prompts and answers for the call log."""
    uncached_tasks: frozenset[str] = frozenset()
    """Derived, because every begin needs it: tasks whose answers are never stored."""
    prefix_backends: frozenset[str] = frozenset()
    """Derived, because every miss needs it: backends with ``prefix_affinity``."""

    def __post_init__(self) -> None:
        """Derive ``uncached_tasks`` and ``prefix_backends``."""
        uncached = frozenset(name for name, task in self.tasks.items() if task.cache == "never")
        structs.force_setattr(self, "uncached_tasks", uncached)
        prefixed = frozenset(name for name, backend in self.backends.items() if backend.prefix_affinity != "off")
        structs.force_setattr(self, "prefix_backends", prefixed)

    def task(self, name: str) -> TaskSettings:
        """Return the policy of a task."""
        return self.tasks.get(name, ANY_TASK)


class LiveSettings:
    """The settings in effect. A reload replaces ``now``, so readers keep this object and no copy of a value."""

    __slots__ = ("now",)

    def __init__(self, settings: EngineSettings) -> None:
        self.now = settings

    def has_task(self, name: str) -> bool:
        """Return whether a task is configured."""
        return name in self.now.tasks

    def has_backend(self, name: str) -> bool:
        """Return whether a backend is configured."""
        return name in self.now.backends

"""The engine: events in, effects out.

No I/O, no ``await``, no clock, no randomness, no logging: ``now`` is an argument, timers are data (`Engine.next_deadline`).
A peer's fault never raises; it leads to an error reply.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, assert_never

from sidecard.core import events
from sidecard.core.accounts.app_metrics import AppMetrics, FamilySource
from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.billing import Billing, Price, no_price
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.forgetting import Forgetting
from sidecard.core.accounts.ledger import LedgerSnapshot, TaskLedgers
from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.backend import BackendParts
from sidecard.core.backends.budgets import Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.similarity import IndexFactory, SimilarAnswers
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.counters import Counters
from sidecard.core.events import Event, Peer, RequestReceived
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import Endings
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.grants import Grants, LeaseReplies
from sidecard.core.flights.leases import HungCalls, Leases
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.requests.append import AppendOperation
from sidecard.core.flights.requests.begin import BeginOperation, Misses, NewCallers, PreviousAnswers
from sidecard.core.flights.requests.cancel import CancelOperation
from sidecard.core.flights.requests.complete import AnswerStorage, CompleteOperation
from sidecard.core.flights.requests.deadlines import DeadlineOperation
from sidecard.core.flights.requests.disconnect import DisconnectOperation
from sidecard.core.flights.requests.drain import DrainOperation
from sidecard.core.flights.requests.fail import FailOperation, FurtherAttempts
from sidecard.core.flights.requests.renew import RenewOperation
from sidecard.core.flights.requests.started import StartedOperation
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.answers import LookupAnswers, StoreEvents
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.jobs import Jobs
from sidecard.core.operations.breakers import BreakerOperations
from sidecard.core.operations.entries import EntryOperations, EntryRemoval
from sidecard.core.operations.explain import ExplainOperation
from sidecard.core.operations.metrics import MetricsOperations
from sidecard.core.operations.reports import ReportOperations
from sidecard.core.operations.settings import SettingsOperations
from sidecard.core.operations.status import RunInfo, StatusOperations
from sidecard.core.operations.view_hits import ViewHits
from sidecard.core.operations.views import ViewOperations
from sidecard.core.operations.watch import Watches
from sidecard.core.scopes import Scopes
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from sidecard.core.cache.compression import Codec
    from sidecard.core.effects import Effect


class Engine:
    """Answers "must I make this call?" for every peer of the host.

    ``shown_settings`` and ``shown_origins`` are the reply to `config`, by full name. ``jitter`` is uniform in [0, 1).
    ``price`` knows the prices of models. ``codec`` compresses large values, if the settings require it.
    ``wall_offset_seconds`` plus ``now`` is the wall clock's time, to which the periods of budgets are aligned, until
    `ClocksStepped`. ``new_index`` makes vector indexes, for tasks that serve similar requests.
    ``no_views`` is the reason why the daemon around the engine can make no views; empty if it can.
    """

    def __init__(  # noqa: PLR0915 - all parts of the engine meet here
        self,
        settings: EngineSettings,
        *,
        boot_id: str,
        version: str,
        now: float,
        shown_settings: dict[str, Any],
        shown_origins: dict[str, str],
        jitter: Callable[[], float] = lambda: 0.5,
        price: Price = no_price,
        codec: "Codec | None" = None,
        wall_offset_seconds: float = 0.0,
        new_index: IndexFactory | None = None,
        no_views: str = "",
    ) -> None:
        live = LiveSettings(settings)
        wall = WallClock(wall_offset_seconds)
        self.counters = counters = Counters()
        """Read-only outside the engine."""
        self.metrics = metrics = DaemonMetrics(settings.max_backends, wall, live.has_backend)
        """The driver measures by it too."""
        self._recorder = recorder = CallRecorder(enabled=settings.log_calls, prompts=settings.log_prompts)
        scopes = Scopes(settings.shared_namespaces)
        self._policy = policy = CachePolicy(live, counters, codec)
        self._cache = cache = policy.cache
        self._publisher = publisher = Publisher(policy, counters)
        freshness = FreshnessPolicy(cache, jitter)
        self._similar = similar = SimilarAnswers(new_index, policy)
        self.memory = memory = MemoryAccounts(settings.max_memory_bytes)
        """The connections charge their buffers to it too."""
        parts = BackendParts(jitter, memory.requests, metrics.observe_hold)
        self._backends = backends = Backends(settings, parts)
        budgets = Budgets(settings.budgets, wall)
        admission = Admission(live, backends, budgets)
        retries = RetryBudget(live, jitter)
        ledgers = TaskLedgers(settings.max_tasks, live.has_task)
        spent, shares = BackendLedgers(settings.max_backends, live.has_backend), settings.share_budgets
        self._billing = billing = Billing(ledgers, spent, budgets, metrics, price, wall, now, shares_budgets=shares)
        self._forgetting = Forgetting(live, backends, ledgers, billing.spending, metrics)
        self._flights = flights = Flights(boot_id, live, memory.requests)
        self._timers = flights.timers
        hung_calls = HungCalls(live, flights)
        metrics.gauges["hung_calls"] = lambda: len(hung_calls.by_lease)
        self._streams = streams = Streams(memory.streams)
        self._failures = failures = Failures(live, memory.requests)
        limits = TableLimits(live, flights, memory.requests, metrics)
        endings = Endings(live, limits, counters, ledgers, recorder)
        serving = Serving(
            ledgers, billing.spending, counters, recorder, streams, policy.compression, similar, endings, publisher
        )
        lease_replies = LeaseReplies(live, serving, counters, ledgers, recorder)
        grants = Grants(flights, admission, backends, retries, limits, endings, lease_replies)
        election = Election(live, flights, grants, streams, serving, freshness, endings)
        queues = Queues(flights, admission, backends, grants, election, limits, endings)
        leases = Leases(flights, admission, backends, billing, metrics, recorder, counters, hung_calls)
        departures = Departures(flights, leases, queues, election, streams, counters)

        self._store = store = StoreStatus(settings.store, policy)
        self._lookups = lookups = Lookups(flights, store, limits, endings, serving, cache, counters)
        self._writes = writes = StoreUpdates(flights, store, lookups, counters, memory.requests)
        answers = LookupAnswers(flights, lookups, store, policy, serving, election, endings)
        self._store_events = StoreEvents(flights, lookups, answers, writes, store, policy)

        callers = NewCallers(flights, grants, limits, endings, serving)
        previous = PreviousAnswers(flights, freshness, failures, serving, callers, counters)
        misses = Misses(store, flights, lookups, serving, endings, previous, callers)
        self._begin = BeginOperation(scopes, flights, streams, policy, serving, counters, misses).begin
        self._append = AppendOperation(flights, leases, streams, serving, election, queues)
        storage = AnswerStorage(policy, similar, failures, writes)
        self._complete = CompleteOperation(flights, leases, queues, streams, serving, storage).complete
        attempts = FurtherAttempts(flights, grants, admission, retries, endings, counters)
        self._fail = FailOperation(flights, streams, leases, election, queues, attempts, failures)
        self._started = StartedOperation(flights, leases, queues)
        self._renew = RenewOperation(flights, leases)
        self._cancel = CancelOperation(flights, streams, departures, counters)
        self._disconnect = DisconnectOperation(flights, streams, departures, lookups, writes, counters, hung_calls)
        self._deadlines = DeadlineOperation(flights, hung_calls, departures, queues, endings, lookups, writes, cache)
        self._drain = DrainOperation(flights, election, streams)

        self._breakers = BreakerOperations(backends, queues)
        self._watches = Watches(wall)
        run = RunInfo(boot_id, version, now, shown_settings, shown_origins)
        self._status = status = StatusOperations(
            run, cache, streams, flights, similar, store, backends, counters, memory, publisher
        )
        self._entries = EntryOperations(policy, flights, lookups, store, writes, serving, scopes, failures)
        self._jobs = Jobs([EntryRemoval(cache, writes), self._disconnect, publisher.publications])
        self._explain = ExplainOperation(policy, flights, store, scopes, failures, status, backends)
        self._reports = ReportOperations(status, flights, limits, store, backends, billing, hung_calls, metrics)
        self._apps = apps = AppMetrics(live, metrics.dropped, memory.app_metrics)
        self._reporting = MetricsOperations(status, streams, backends, billing, metrics, apps, enabled=settings.metrics)
        hits = ViewHits(scopes, publisher, ledgers, billing.spending, counters, streams, metrics, recorder)
        self._views = ViewOperations(scopes, publisher, flights, recorder, hits, no_views)
        self._settings = SettingsOperations(
            status, live, flights, similar, queues, backends, budgets, cache, memory, scopes, self._views
        )

    def handle(self, event: Event, now: float) -> "list[Effect]":
        """Handle one event; return the effects to execute, in order. ``now`` never steps back."""
        if isinstance(event, RequestReceived):
            request = event.request
            # Directly, because most requests are these: the `match` of all requests costs one more call.
            if type(request) is wire.Begin:
                effects = self._begin(event.peer, request, now)
            elif type(request) is wire.Complete:
                effects = self._complete(event.peer, request, now)
            else:
                effects = self._request(event.peer, request, now)
        else:
            effects = self._event(event, now)

        if self._publisher.changes.pending:
            effects = self._publisher.settle(now) + effects

        if self._flights.unused_claims:
            effects = effects + self._lookups.release_claims()

        return effects + self._recorder.drain() if self._recorder.pending else effects

    def _request(self, peer: Peer, request: wire.AnyRequest, now: float) -> "list[Effect]":  # noqa: C901, PLR0912 - one case for each request
        match request:
            case wire.Complete():
                return self._complete(peer, request, now)
            case wire.Append():
                return self._append.append(peer, request, now)
            case wire.Started():
                return self._started.started(peer, request, now)
            case wire.Renew():
                return self._renew.renew(peer, request, now)
            case wire.Fail():
                return self._fail.fail(peer, request, now)
            case wire.Cancel():
                self._watches.cancel(peer, request.target)
                return self._cancel.cancel(peer, request, now)
            case wire.Get():
                return self._entries.get(peer, request, now)
            case wire.Put():
                return self._entries.put(peer, request, now)
            case wire.Delete():
                return self._entries.delete(peer, request, now)
            case wire.Purge():
                return self._entries.purge(peer, request, now)
            case wire.GetView():
                return self._views.view(peer, request, now)
            case wire.RecordHits():
                return self._views.reports.hits(peer, request, now)
            case wire.RecordMetrics():
                return self._reporting.record(peer, request, now)
            case wire.Ping():
                return self._status.ping(peer, request, now)
            case wire.GetStats():
                return self._status.stats(peer, request, now)
            case wire.GetReport():
                return self._reports.report(peer, request, now)
            case wire.GetHealth():
                return self._reports.health(peer, request, now)
            case wire.GetConfig():
                return self._settings.config(peer, request)
            case wire.GetMetrics():
                return self._reporting.metrics(peer, request, now)
            case wire.SetLog():
                return self._settings.log(peer, request)
            case wire.GetBreakers():
                return self._breakers.breakers(peer, request, now)
            case wire.SetBreaker():
                return self._breakers.breaker(peer, request, now)
            case wire.Explain():
                return self._explain.explain(peer, request, now)
            case wire.Watch():
                return self._watches.watch(peer, request)
            case wire.Reload():
                return self._settings.reload(peer, request)
            case wire.Begin():
                return self._begin(peer, request, now)
            case _:
                assert_never(request)

    def _event(self, event: events.PeerEvent | events.StoreEvent | events.LifecycleEvent, now: float) -> "list[Effect]":  # noqa: C901, PLR0912 - one case for each event
        match event:
            case events.Tick():
                return self._deadlines.tick(now)
            case events.WorkContinued():
                return self._jobs.do_batch(now)
            case events.SecondsPassed():
                self._publisher.seconds_passed(now)
                return self._forgetting.forget_unused(now)
            case events.ClocksStepped():
                self._flights.host_slept(event.slept_seconds, now)
                self._billing.set_wall_clock(event.wall_offset_seconds, now)
                self._views.clocks_stepped(event)
                return []
            case events.StoreAnswered():
                return self._store_events.answered(event, now)
            case events.KeyChanged():
                return self._store_events.key_changed(event, now)
            case events.PeerJoined():
                self._status.peers += 1
                return []
            case events.PeersHungUp(peers):
                self._flights.hung_up(peers)
                return []
            case events.PeerLost(peer):
                self._status.peers -= 1
                self._apps.peer_lost(peer)
                self._watches.peer_lost(peer)
                self._views.peer_lost(peer)
                return self._disconnect.peer_lost(peer, now)
            case events.BacklogRead(peer_id, request_id):
                return self._streams.resume(peer_id, request_id) + self._watches.backlog_read(event, now)
            case events.NoteEmitted():
                return self._watches.note_emitted(event, now)
            case events.StoreMeasured():
                return self._store.measured(event)
            case events.StoreStateChanged():
                return self._store_events.state_changed(event, now)
            case events.EntriesPurged():
                return self._store_events.entries_purged(event, now)
            case events.InvalidationsMissed():
                return self._store_events.invalidations_missed(event, now)
            case events.RemoteBreakerOpened():
                return self._breakers.remote_opened(event, now)
            case events.RemoteSpending():
                return self._billing.remote_spending(event, now)
            case events.DrainRequested():
                return self._drain.start(now)
            case events.DrainExpired():
                self._views.stopped()
                return self._drain.expire(now)
            case events.SettingsRead():
                return self._settings.settings_read(event, now)
            case events.ViewFailed():
                return self._views.failed(event, now)
            case events.ViewReleased():
                return self._views.released(event)
            case _:
                assert_never(event)

    def metrics_sources(self, now: float) -> "tuple[list[Effect], Iterator[FamilySource]]":
        """Return effects to execute, and all metrics as of now or later. Events may be handled while they are made."""
        return self._status.advance_breakers(now), self._reporting.sources(now)

    @property
    def watched(self) -> bool:
        """At least one peer watches notes, so the driver must return them as `NoteEmitted`."""
        return bool(self._watches)

    @property
    def has_work(self) -> bool:
        """Jobs wait to be done in batches, each by an event `WorkContinued`."""
        return self._jobs.has_work

    def may_be_due_before(self, instant: float) -> bool:
        """Return, in less time than `next_deadline` takes, whether that may be before ``instant``."""
        return self._timers.no_earlier_than < instant or self._cache.wheel.no_expiry_before < instant

    def next_deadline(self) -> float | None:
        """Return the instant at which a `Tick` is due; None if no item has a deadline.

        It may be in the past while many expired entries are removed in batches.
        """
        due = self._timers.next_deadline()
        expiry = self._cache.next_expiry()
        if due is None or expiry is None:
            return due if expiry is None else expiry

        return min(due, expiry)

    @property
    def removed_bytes(self) -> int:
        """Bytes of all entries that ever left the cache."""
        return self._cache.removed_bytes

    @property
    def idle(self) -> bool:
        """There is no lease, no waiter and no follower of a stream."""
        flights = self._flights
        return not (flights.lease_count or flights.waiter_count or flights.applicant_count or self._streams)

    @property
    def ledger_changes(self) -> int:
        """A number that changes with each booking and each breaker: while it is equal, `ledger_snapshot` is equal too."""
        count = self.counters
        return (
            self._backends.changes
            + self._forgetting.changes
            + (
                count.hits
                + count.shared
                + count.leases_first
                + count.completed
                + count.stale_leases
                + count.failed_ignored
                + count.rejected
                + count.timeouts
                + count.failed_transient
                + count.failed_fatal
                + count.lost
                + count.expired
            )
        )

    def ledger_snapshot(self) -> LedgerSnapshot:
        """Return what a restart must remember of ledgers, budgets and breakers."""
        return self._billing.snapshot(self._backends)

    def restore_ledger(self, snapshot: LedgerSnapshot) -> None:
        """Continue an earlier run's ledgers; to be called before any event."""
        self._billing.restore(snapshot, self._backends)

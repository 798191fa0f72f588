"""The engine: events in, effects out.

No I/O, no ``await``, no clock, no randomness, no logging: ``now`` is an argument, timers are data (`Engine.next_deadline`).
Nothing here raises for a peer's fault; it answers.
"""

from typing import TYPE_CHECKING, Any

from sidecard.core.accounts.app_metrics import AppMetrics
from sidecard.core.accounts.billing import Billing, Price, no_price
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import BackendLedgers, LedgerSnapshot, TaskLedgers
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.budgets import Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.similarity import IndexFactory, SimilarAnswers
from sidecard.core.counters import Counters
from sidecard.core.events import (
    BacklogRead,
    DrainExpired,
    DrainRequested,
    EntriesPurged,
    Event,
    InvalidationsMissed,
    KeyChanged,
    NoteEmitted,
    Peer,
    PeerJoined,
    PeerLost,
    RemoteBreakerOpened,
    RemoteSpending,
    RequestReceived,
    SettingsRead,
    StoreAnswered,
    StoreMeasured,
    StoreStateChanged,
    Tick,
)
from sidecard.core.flights.calls import Calls
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flights import Flights
from sidecard.core.flights.grant import Granting
from sidecard.core.flights.lookups import Lookups
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import Streams
from sidecard.core.operations.breakers import BreakerOperations
from sidecard.core.operations.entries import EntryOperations
from sidecard.core.operations.metrics import MetricsOperations
from sidecard.core.operations.settings import SettingsOperations
from sidecard.core.operations.status import RunInfo, StatusOperations
from sidecard.core.operations.watch import Watches
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecard.core.cache.compression import Codec
    from sidecard.core.effects import Effect
    from sidecard.core.settings import EngineSettings


class Engine:
    """Answers one question, "I am about to make this call, must I?", for every peer of the host.

    ``shown_settings`` and ``shown_origins`` are what `config` shows, by full name.
    ``jitter`` is uniform in [0, 1). ``price`` knows what models cost. ``codec`` is what compresses
    large values, should the settings ask for it. ``wall_offset_seconds`` is what must be added to
    ``now`` for the wall clock's time, to which the periods of budgets are aligned; it is not adjusted while this runs.
    ``new_index`` finds vectors, for tasks that look for similar requests; it is not called as long as there is none.
    ``metrics`` is what the shell measures too, besides what the engine does.
    """

    def __init__(
        self,
        settings: "EngineSettings",
        *,
        boot_id: str,
        version: str,
        now: float,
        shown_settings: dict[str, Any],
        shown_origins: dict[str, str],
        jitter: "Callable[[], float]" = lambda: 0.5,
        price: Price = no_price,
        codec: "Codec | None" = None,
        wall_offset_seconds: float = 0.0,
        new_index: IndexFactory | None = None,
    ) -> None:
        self._count = count = Counters()
        self.metrics = metrics = DaemonMetrics(settings.max_backends, wall_offset_seconds)
        self._recorder = recorder = CallRecorder(enabled=settings.log_calls, prompts=settings.log_prompts)
        scopes = Scopes(settings.shared_namespaces)
        self._policy = policy = CachePolicy(settings, count, codec)
        self._streams = streams = Streams(policy.cache)
        self._flights = flights = Flights(boot_id, settings.lease_seconds)
        self._backends = backends = Backends(settings.backends, settings.max_backends, jitter)
        budgets = Budgets(settings.budgets, wall_offset_seconds)
        ledgers = TaskLedgers(settings.max_tasks)
        spending = BackendLedgers(settings.max_backends)
        self._billing = billing = Billing(
            ledgers, spending, budgets, metrics, price, wall_offset_seconds, now, shares_budgets=settings.share_budgets
        )
        admission = Admission(settings, backends, budgets)
        retries = RetryBudget(settings.retries, jitter)
        serving = Serving(billing, count, recorder, streams, policy.compression)
        freshness = FreshnessPolicy(policy.cache, jitter)
        failures = Failures()
        similar = SimilarAnswers(settings, new_index, policy)
        granting = Granting(
            settings,
            flights,
            admission,
            backends,
            retries,
            ledgers,
            count,
            recorder,
            streams,
            serving,
            freshness,
            metrics,
        )
        self._lookups = lookups = Lookups(settings, flights, granting, policy, serving, similar, count)
        self._calls = calls = Calls(
            settings,
            flights,
            granting,
            admission,
            backends,
            billing,
            policy,
            lookups,
            serving,
            scopes,
            count,
            metrics,
            recorder,
            streams,
            freshness,
            failures,
            similar,
        )
        breakers = BreakerOperations(backends, granting)
        self._watches = watches = Watches(wall_offset_seconds)
        run = RunInfo(boot_id, version, now, shown_settings, shown_origins)
        self._status = status = StatusOperations(run, policy.cache, streams, calls, lookups, backends, billing, count)
        entries = EntryOperations(policy, flights, lookups, serving, scopes, failures, status)
        self._apps = apps = AppMetrics(settings.max_series, metrics.dropped, settings.spare_share)
        reporting = MetricsOperations(status, streams, backends, billing, metrics, apps, enabled=settings.metrics)
        settings_ops = SettingsOperations(
            status=status,
            calls=calls,
            granting=granting,
            admission=admission,
            backends=backends,
            budgets=budgets,
            retries=retries,
            policy=policy,
            scopes=scopes,
            apps=apps,
        )
        self._answer: dict[type[wire.Request], Callable[[Peer, Any, float], list[Effect]]] = {
            wire.Ping: status.ping,
            wire.Begin: calls.begin,
            wire.Append: calls.append,
            wire.Complete: calls.complete,
            wire.Fail: calls.fail,
            wire.Renew: calls.renew,
            wire.Cancel: self._cancel,
            wire.Get: entries.get,
            wire.Put: entries.put,
            wire.Delete: entries.delete,
            wire.Purge: entries.purge,
            wire.Explain: entries.explain,
            wire.Watch: watches.watch,
            wire.GetStats: status.stats,
            wire.GetReport: status.report,
            wire.GetHealth: status.health,
            wire.GetConfig: settings_ops.config,
            wire.GetBreakers: breakers.breakers,
            wire.SetBreaker: breakers.breaker,
            wire.RecordMetrics: reporting.record,
            wire.GetMetrics: reporting.metrics,
            wire.SetLog: settings_ops.log,
            wire.Reload: settings_ops.reload,
        }

        self._hear: dict[type[Any], Callable[[Any, float], list[Effect]]] = {
            PeerJoined: self._joined,
            PeerLost: self._lost,
            BacklogRead: self._has_room,
            NoteEmitted: watches.note_emitted,
            Tick: lambda _, now: calls.tick(now),
            DrainRequested: lambda _, now: calls.drain(now),
            DrainExpired: lambda _, now: calls.give_up_draining(now),
            SettingsRead: settings_ops.settings_read,
            StoreAnswered: lookups.answered,
            StoreStateChanged: lookups.turned,
            KeyChanged: lookups.key_changed,
            EntriesPurged: lookups.purged,
            InvalidationsMissed: lookups.news_missed,
            StoreMeasured: lookups.measured,
            RemoteBreakerOpened: breakers.remote_opened,
            RemoteSpending: billing.remote_spending,
        }

    def handle(self, event: Event, now: float) -> "list[Effect]":
        """Take one event in and return what is to be done, in order. ``now`` must not step back."""
        if isinstance(event, RequestReceived):
            effects = self._answer[type(event.request)](event.peer, event.request, now)
        else:
            effects = self._hear[type(event)](event, now)

        if self._flights.given_up:
            effects = effects + self._lookups.settle()

        return effects + self._recorder.drain() if self._recorder.pending else effects

    def _joined(self, event: PeerJoined, now: float) -> "list[Effect]":  # noqa: ARG002 - as its siblings
        self._status.peers += 1
        return []

    def _lost(self, event: PeerLost, now: float) -> "list[Effect]":
        self._status.peers -= 1
        self._apps.lose(event.peer)
        self._watches.lose(event.peer)
        return self._calls.lose(event.peer, now)

    def _cancel(self, peer: Peer, request: wire.Cancel, now: float) -> "list[Effect]":
        self._watches.cancel(peer, request.target)
        return self._calls.cancel(peer, request, now)

    def _has_room(self, event: BacklogRead, now: float) -> "list[Effect]":
        return self._calls.room_for_more(event, now) + self._watches.backlog_read(event, now)

    @property
    def watched(self) -> bool:
        """Some peer wants to hear of notes: they are to come back as `NoteEmitted`."""
        return bool(self._watches)

    def next_deadline(self) -> float | None:
        """Return the instant at which a `Tick` is due; None where nothing can become due.

        It may lie in the past while a flood of expired entries is worked off batch by batch.
        """
        due = self._flights.timers.next_deadline()
        expiry = self._policy.cache.next_expiry()
        if due is None or expiry is None:
            return due if expiry is None else expiry

        return min(due, expiry)

    @property
    def idle(self) -> bool:
        """No lease and no waiter is alive, and nobody is behind with reading."""
        flights = self._flights
        return not (flights.lease_count or flights.waiter_count or flights.applicant_count or self._streams)

    @property
    def ledger_changes(self) -> int:
        """Moves with each booking and each breaker: while it is the same, `ledger_snapshot` is too."""
        count = self._count
        return self._backends.changes + (
            count.hits + count.shared + count.leases_first + count.completed + count.stale_leases + count.failed_ignored
        )

    def ledger_snapshot(self) -> LedgerSnapshot:
        """Return what is to be remembered of ledger, budgets and breakers over a restart."""
        return self._billing.snapshot(self._backends)

    def restore_ledger(self, snapshot: LedgerSnapshot) -> None:
        """Go on from an earlier run's ledger; at the start only."""
        self._billing.restore(snapshot, self._backends)

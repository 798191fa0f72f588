"""All settings of a daemon as one value."""

from operator import attrgetter
from typing import Any

from msgspec import Struct

from sidecard.config.schema import (
    FIXED,
    NAMED,
    CacheSettings,
    CallLogSettings,
    FlightSettings,
    HttpSettings,
    LimitSettings,
    LogSettings,
    MetricsSettings,
    NamespaceSettings,
    OperatorSettings,
    PriceSettings,
    PushSettings,
    Setting,
    SocketSettings,
    SovereignSettings,
    StoreSettings,
)
from sidecard.core.settings import (
    BackendSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    TaskSettings,
    settings_of_unnamed,
)
from sidecard_client.protocol.wire import DEFAULT_BACKEND


class Config(Struct, frozen=True):
    """All settings of a daemon. ``origins`` maps each setting's full name to where its value was found."""

    socket: SocketSettings
    cache: CacheSettings
    flights: FlightSettings
    store: StoreSettings
    calls: CallLogSettings
    metrics: MetricsSettings
    http: HttpSettings
    push: PushSettings
    sovereign: SovereignSettings
    prices: PriceSettings
    retries: RetrySettings
    operators: OperatorSettings
    log: LogSettings
    limits: LimitSettings
    tasks: dict[str, TaskSettings]
    namespaces: dict[str, NamespaceSettings]
    backends: dict[str, BackendSettings]
    budgets: dict[str, BudgetSettings]
    origins: dict[str, str]

    def engine_settings(self) -> EngineSettings:
        """Return the settings that the engine uses."""
        return EngineSettings(
            cache_max_bytes=self.cache.max_bytes,
            compress_min_bytes=self.cache.compress_min_bytes,
            ttl_seconds=self.cache.ttl_seconds,
            stale_seconds=self.cache.stale_seconds,
            sharing_window_seconds=self.cache.sharing_window_seconds,
            tasks=self.tasks,
            shared_namespaces={name: namespace.shared_with for name, namespace in self.namespaces.items()},
            namespace_max_bytes={
                name: namespace.max_bytes for name, namespace in self.namespaces.items() if namespace.max_bytes
            },
            lease_seconds=self.flights.lease_seconds,
            renew_seconds=self.flights.renew_seconds,
            wait_seconds=self.flights.wait_seconds,
            max_elections=self.flights.max_elections,
            max_waiters=self.flights.max_waiters,
            max_flights=self.limits.max_flights,
            # Leases without a key have no flight; they get as much room as those with one.
            max_leases=2 * self.limits.max_flights,
            spare_share=self.limits.spare_share,
            backends=self.backends,
            max_backends=self.limits.max_backends,
            budgets=self.budgets,
            retries=self.retries,
            sovereign=self.sovereign.enabled,
            share_budgets=self.store.share_budgets,
            metrics=self.metrics.enabled,
            max_series=self.limits.max_series,
            log_calls=self.calls.enabled,
            log_prompts=self.calls.prompts,
        )

    def shown(self) -> dict[str, Any]:
        """Return every setting by its full name, as plain types, without passwords."""
        fixed = {
            setting.name: _shown(getattr(self, section), setting)
            for section, settings in FIXED.items()
            for setting in settings.values()
        }
        named = {
            f"{table}.{name}.{setting.key}": _shown(entry, setting)
            for table, settings in NAMED.items()
            for name, entry in getattr(self, table).items()
            for setting in settings.values()
        }
        return fixed | named

    def warnings(self) -> list[str]:
        """Return a sentence for each setting that has less effect than an operator may expect."""
        sentences = []
        if self.calls.url and not self.calls.enabled:
            sentences.append("calls.url has no effect: set calls.enabled = true to log calls.")

        if self.push.url and not self.metrics.enabled:
            sentences.append("push.url pushes metrics of apps only: metrics.enabled is false.")

        unnamed = self.backends.get(DEFAULT_BACKEND) or settings_of_unnamed(DEFAULT_BACKEND)
        if self.sovereign.enabled and unnamed.locality == "local":
            sentences.append(
                "sovereign.enabled does not reject calls that name no backend, which count as local wherever they go: "
                f'to reject them, set backends.{DEFAULT_BACKEND}.locality = "remote".'
            )

        return sentences


def _shown(entry: Struct, setting: Setting) -> Any:
    return setting.parser.show(attrgetter(setting.key)(entry))

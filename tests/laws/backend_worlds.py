"""The settings under which backends are tried: in each, something else is scarce."""

from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings, EngineSettings, RetrySettings

_TOUCHY = BreakerSettings(
    window_seconds=20.0, window_calls=6, min_calls=3, slow_seconds=4.0, open_seconds=2.0, max_open_seconds=16.0
)
_PROBED = BreakerSettings(
    window_seconds=20.0,
    window_calls=8,
    min_calls=2,
    slow_seconds=3.0,
    open_seconds=1.0,
    max_open_seconds=4.0,
    probes=3,
    probe_seconds=6.0,
)
_SHORT = BreakerSettings(
    window_seconds=3.0,
    window_calls=4,
    min_calls=2,
    slow_seconds=1.0,
    slow_rate=0.5,
    slow_first_chunk_seconds=0.5,
    open_seconds=0.5,
    max_open_seconds=2.0,
    probe_seconds=2.0,
    probes=2,
)
_NEVER = BreakerSettings(window_seconds=20.0, window_calls=6, min_calls=3, enabled=False)

BREAKERS = (_TOUCHY, _PROBED, _SHORT, _NEVER)


def _limited(permits: int, breaker: BreakerSettings = _TOUCHY, max_queue: int = 512) -> BackendSettings:
    return BackendSettings(max_concurrent=permits, max_queue=max_queue, breaker=breaker)


BACKEND_WORLDS = {
    "tight limits": EngineSettings(backends={"a": _limited(1), "b": _limited(2), "c": _limited(1)}),
    "three probes": EngineSettings(
        backends={"a": _limited(2, _PROBED), "b": BackendSettings(breaker=_PROBED), "c": _limited(1, _PROBED)}
    ),
    "short windows": EngineSettings(
        backends={"a": _limited(2, _SHORT), "b": BackendSettings(breaker=_SHORT, timeouts="slow")}, lease_seconds=3.0
    ),
    "rates": EngineSettings(
        backends={
            "a": BackendSettings(requests_per_minute=4.0, breaker=_TOUCHY),
            "b": BackendSettings(requests_per_minute=3.0, max_concurrent=1, breaker=_SHORT),
            "c": BackendSettings(tokens_per_minute=500.0, max_concurrent=2, breaker=_TOUCHY),
        },
        wait_seconds=90.0,
    ),
    "queues of one": EngineSettings(
        backends={"a": _limited(1, max_queue=1), "b": _limited(1, max_queue=1), "c": _limited(1, max_queue=0)}
    ),
    "budgets": EngineSettings(
        backends={"a": _limited(1), "b": BackendSettings(breaker=_TOUCHY), "local": _limited(2)},
        budgets={
            "all": BudgetSettings(2.0, period_seconds=30.0, hard=True),
            "soft": BudgetSettings(0.5, period_seconds=45.0),
            "of b": BudgetSettings(1.0, period_seconds=60.0, backend="b", hard=True),
        },
    ),
    "sovereign": EngineSettings(
        backends={"a": _limited(2), "b": BackendSettings(locality="local", max_concurrent=1, breaker=_TOUCHY)},
        sovereign=True,
    ),
    "adaptive": EngineSettings(
        backends={
            "a": BackendSettings(max_concurrent=6, adaptive=True, breaker=_TOUCHY),
            "b": BackendSettings(max_concurrent=2, adaptive=True, breaker=_NEVER),
        }
    ),
    "small tables": EngineSettings(
        backends={"a": _limited(1), "b": _limited(2, _SHORT)},
        max_waiters=2,
        max_leases=3,
        max_flights=2,
        spare_share=0.0,
    ),
    "few retries": EngineSettings(
        backends={"a": _limited(1, _SHORT), "b": BackendSettings(breaker=_NEVER, timeouts="nothing")},
        retries=RetrySettings(share=0.5, floor_per_second=0.1),
        max_elections=5,
    ),
    "few elections": EngineSettings(
        backends={"a": _limited(1, _PROBED), "b": _limited(1, _PROBED)}, max_elections=0, lease_seconds=2.0
    ),
}
"""Backends that a world does not name are called by its trials as well: those that nobody configured."""

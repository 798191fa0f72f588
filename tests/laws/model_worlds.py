"""The settings under which trials run: each makes some part of the law matter that others leave idle."""

from msgspec import structs

from sidecard.core.settings import BackendSettings, BreakerSettings, EngineSettings, SharedWith, TaskSettings

TEAM = {"team": SharedWith(uids=frozenset({0, 1000}))}

_WORLDS = {
    "defaults": EngineSettings(shared_namespaces=TEAM, tasks={"rag": TaskSettings(ttl_seconds=20.0)}),
    "nothing cached, answers shared": EngineSettings(ttl_seconds=0.0, sharing_window_seconds=8.0, lease_seconds=10.0),
    "cached, not shared afterwards": EngineSettings(ttl_seconds=30.0, sharing_window_seconds=0.0, wait_seconds=20.0),
    "neither": EngineSettings(ttl_seconds=0.0, sharing_window_seconds=0.0, lease_seconds=30.0, wait_seconds=10.0),
    "caching off": EngineSettings(cache_max_bytes=0, sharing_window_seconds=16.0, shared_namespaces=TEAM),
    "one election, few tasks": EngineSettings(max_elections=1, max_tasks=2, ttl_seconds=5.0, shared_namespaces=TEAM),
    "many elections": EngineSettings(max_elections=9, ttl_seconds=0.0, sharing_window_seconds=0.0, lease_seconds=4.0),
    "no elections": EngineSettings(max_elections=0, ttl_seconds=10.0, sharing_window_seconds=20.0),
    "patient": EngineSettings(lease_seconds=600.0, wait_seconds=900.0, ttl_seconds=0.0, sharing_window_seconds=0.0),
    "small tables": EngineSettings(
        max_waiters=2, max_flights=2, max_leases=4, ttl_seconds=2.0, sharing_window_seconds=1.0
    ),
    "one of each": EngineSettings(max_waiters=1, max_flights=1, max_leases=1, ttl_seconds=2.0),
    "stale answers": EngineSettings(
        ttl_seconds=4.0,
        stale_seconds=20.0,
        sharing_window_seconds=2.0,
        tasks={
            "rag": TaskSettings(stale_seconds=0.0),
            "code": TaskSettings(early_refresh=4.0, failure_ttl_seconds=8.0),
        },
    ),
    "stale from the beginning": EngineSettings(
        ttl_seconds=0.0,
        stale_seconds=30.0,
        sharing_window_seconds=0.0,
        max_leases=2,
        max_flights=2,
        tasks={"code": TaskSettings(ttl_seconds=16.0, early_refresh=8.0)},
    ),
    "small cache": EngineSettings(cache_max_bytes=8_000, ttl_seconds=60.0, sharing_window_seconds=4.0),
}

_ALWAYS = BackendSettings(breaker=BreakerSettings(enabled=False))

WORLDS = {
    # Bounds are the same for all uids here; who else has room beyond them is told in tests/unit/core/test_shares.py.
    name: structs.replace(
        world, spare_share=0.0, backends=dict.fromkeys(("default", "x", "y", "local", "cloud", "a", "b", "c"), _ALWAYS)
    )
    for name, world in _WORLDS.items()
}
"""With backends that take every call: what happens where they do not is `tests.properties.test_backend_laws`'s."""

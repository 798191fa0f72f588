"""The kinds of worlds: each makes some part of the whole matter that others leave idle. Times are short, so that much happens."""

from typing import Any

from msgspec import structs

from sidecard.core.settings import (
    BackendSettings,
    BreakerSettings,
    EngineSettings,
    RetrySettings,
    SharedWith,
    TaskSettings,
)
from sidecard_client.protocol.wire import PrefixAffinity
from tests.simulation.host.apps import TEAM, TEAM_UIDS
from tests.simulation.host.world import Setting

_ALWAYS = BackendSettings(locality="local", breaker=BreakerSettings(enabled=False))
_BREAKER = BreakerSettings(
    window_seconds=10.0,
    min_calls=3,
    slow_seconds=1.5,
    open_seconds=0.6,
    max_open_seconds=3.0,
    probe_seconds=1.5,
)

_PLAIN = EngineSettings(
    ttl_seconds=4.0,
    sharing_window_seconds=1.0,
    lease_seconds=2.0,
    wait_seconds=3.0,
    cache_max_bytes=40_000,
    shared_namespaces={TEAM: SharedWith(uids=TEAM_UIDS)},
    backends={"default": _ALWAYS, "local": _ALWAYS, "cloud": _ALWAYS},
)

_ORDERLY = {"go": 300, "pass": 45, "call": 40, "start": 4, "get": 2}
_FAULTS = {
    "interrupt": 4,
    "kill": 3,
    "pause": 3,
    "pause daemon": 1,
    "cut": 3,
    "crash": 1,
    "boot": 3,
    "stop": 1,
    "delete": 3,
    "put": 2,
    "purge": 2,
    "break": 1,
    "reload": 1,
    "say": 6,
    "half-close": 1,
}

_CALLS: dict[str, Any] = {
    "key": ["hot", "hot", "hot", "warm", "cold"],
    "wait": [None, None, None, 0.3, 1.2, 0.0],
    "mode": [None] * 8 + ["refresh", "only_if_cached"],
    "size": [1, 1, 2, 3],
    "ttl": [None] * 6 + [0.0, 0.7],
    "stream": [None, None, True],
    "reads": [None] * 6 + [0.2],
    "leave": [None] * 6 + [1, 2],
    "seconds": [0.0, 0.02, 0.1, 0.5, 1.6],
    "ends": ["ok"] * 8 + ["transient", "transient", "fatal", "ignored", "unshareable"],
    "how": [None] * 5 + ["silent", "late", "twice"],
    "backends": [None],
    "retries": [None],
    "stale": [None],
    "namespace": [None] * 5 + [TEAM],
}

_STALE = structs.replace(
    _PLAIN,
    ttl_seconds=1.0,
    stale_seconds=4.0,
    sharing_window_seconds=0.3,
    tasks={"general": TaskSettings(early_refresh=2.0, failure_ttl_seconds=0.5)},
)

_SCARCE = structs.replace(
    _PLAIN,
    ttl_seconds=1.5,
    sharing_window_seconds=0.0,
    retries=RetrySettings(backoff_seconds=0.1, max_backoff_seconds=0.5),
    backends={
        "default": BackendSettings(locality="local", max_concurrent=1, breaker=_BREAKER),
        "local": BackendSettings(locality="local", max_concurrent=1, max_queue=3, breaker=_BREAKER),
        "cloud": BackendSettings(max_concurrent=2, breaker=structs.replace(_BREAKER, probes=2)),
    },
)

_PROMPTS = [None, "one", ("one", "two"), ("one", "two", "three"), ("one", "other")]
"""Prefixes of prompts, in worlds whose backends have prefix affinity."""


def _affine(settings: EngineSettings, affinity: PrefixAffinity) -> EngineSettings:
    """Return a world whose backends have prefix affinity."""
    backends = {
        name: structs.replace(
            given,
            prefix_affinity=affinity,
            prefix_min_tokens=0,
            prefix_hold_seconds=0.4,
            prefix_pass_seconds=0.3,
            prefix_lifetime_seconds=2.0,
            slots=given.max_concurrent or 2,
        )
        for name, given in settings.backends.items()
    }
    return structs.replace(settings, backends=backends)


SETTINGS: dict[str, Setting] = {
    "calm": Setting(
        _PLAIN,
        _ORDERLY,
        calls=_CALLS
        | {
            "wait": [None],
            "mode": [None, None, "refresh"],
            "seconds": [0.0, 0.02, 0.1, 0.4],
            "ends": ["ok"],
            "leave": [None],
        },
        kinds=("blocking", "async", "blocking", "async", "blocking", "async", "async"),
        calm=True,
    ),
    "plain": Setting(
        _PLAIN,
        _ORDERLY | _FAULTS,
        calls=_CALLS,
        reloads=({}, {"lease_seconds": 0.9}, {"max_elections": 0}, {"cache_max_bytes": 12_000}, {"ttl_seconds": 0.5}),
    ),
    "streams": Setting(
        structs.replace(_affine(_PLAIN, "provider"), max_elections=1),
        _ORDERLY | _FAULTS,
        calls=_CALLS
        | {"prefix": _PROMPTS}
        | {"stream": [True, True, True, None], "size": [1, 2, 4, 8], "seconds": [0.0, 0.01, 0.05, 0.3]},
        reloads=({}, {"sharing_window_seconds": 0.0, "ttl_seconds": 0.0}),
    ),
    "stale": Setting(
        _STALE,
        _ORDERLY | _FAULTS | {"purge": 6},
        calls=_CALLS | {"stale": [None, None, None, 0.0, 1.0], "key": ["hot", "warm"]},
        reloads=({}, {"stale_seconds": 0.0}, {"ttl_seconds": 0.3}),
    ),
    "impatient": Setting(
        structs.replace(_affine(_PLAIN, "slots"), ttl_seconds=0.3, sharing_window_seconds=0.0, max_elections=4),
        _ORDERLY | {"call": 60} | {"interrupt": 25, "pause daemon": 5, "cut": 5, "kill": 3, "delete": 3, "say": 2},
        calls=_CALLS
        | {
            "prefix": _PROMPTS,
            "key": ["hot", "hot", "warm"],
            "wait": [0.05, 0.1, 0.1, 0.2],
            "seconds": [0.05, 0.1, 0.1, 0.2],
            "ends": ["ok", "transient", "transient"],
        },
    ),
    "scarce": Setting(
        _affine(_SCARCE, "slots"),
        _ORDERLY | _FAULTS | {"break": 5},
        calls=_CALLS
        | {
            "prefix": _PROMPTS,
            "backends": [None, ("local", "cloud"), ("cloud",), ("cloud", "local")],
            "retries": [None, None, 1, 2],
            "key": ["hot", "hot", "warm", "cold", "cool"],
        },
        reloads=(
            {},
            {"backends": {"default": BackendSettings(max_concurrent=2), "local": BackendSettings(locality="local")}},
            {"max_elections": 5},
        ),
    ),
    "tight": Setting(
        structs.replace(
            _PLAIN, max_flights=2, max_leases=3, max_waiters=2, cache_max_bytes=8_000, max_elections=1, ttl_seconds=0.0
        ),
        _ORDERLY | _FAULTS,
        calls=_CALLS | {"key": ["hot", "hot", "warm", "cold", "cool", "chilly"]},
        reloads=({}, {"max_leases": 1}, {"sharing_window_seconds": 0.0}),
    ),
    "views": Setting(
        structs.replace(_PLAIN, cache_max_bytes=200_000, view_bytes=32_768, ttl_seconds=10.0),
        _ORDERLY | {"call": 120, "get": 60} | {name: weight for name, weight in _FAULTS.items() if name != "say"},
        calls=_CALLS
        | {
            "mode": [None] * 8 + ["only_if_cached"],
            "ttl": [None] * 8 + [0.7],
            "leave": [None],
            "seconds": [0.0, 0.02],
            "ends": ["ok"] * 8 + ["fatal"],
            "stream": [None, None, None, True],
        },
        reloads=({}, {"ttl_seconds": 5.0}, {"view_bytes": 0}, {"view_bytes": 20_000}, {"shared_namespaces": {}}),
        kinds=("blocking", "blocking", "blocking", "async", "blocking", "blocking", "blocking"),
        has_views=True,
    ),
    "own store": Setting(
        structs.replace(_affine(_PLAIN, "provider"), store="own", ttl_seconds=10.0),
        _ORDERLY | _FAULTS | {"cut store": 3, "slow store": 2, "crash": 2},
        calls=_CALLS | {"prefix": _PROMPTS},
    ),
    "shared store": Setting(
        structs.replace(_PLAIN, store="shared", ttl_seconds=3.0),
        _ORDERLY | _FAULTS | {"cut store": 3, "slow store": 2, "elsewhere": 8},
        calls=_CALLS,
    ),
}

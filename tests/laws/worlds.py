"""The settings of trials: each world makes some part of the laws matter that others leave idle."""

import random
from collections.abc import Sequence
from typing import TypedDict

from msgspec import structs

from sidecard.core.settings import (
    BackendSettings,
    BreakerSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    SharedWith,
    TaskSettings,
)

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
    "short calls": EngineSettings(max_call_seconds=20.0, idle_seconds=6.0, lease_seconds=12.0, max_elections=3),
    "small cache": EngineSettings(cache_max_bytes=8_000, ttl_seconds=60.0, sharing_window_seconds=4.0),
    "small views": EngineSettings(
        cache_max_bytes=120_000, ttl_seconds=60.0, sharing_window_seconds=4.0, shared_namespaces=TEAM
    ),
}

_ALWAYS = BackendSettings(breaker=BreakerSettings(enabled=False))

MODEL_WORLDS = {
    # Bounds are the same for all uids here; tests/unit/core/test_shares.py is about the rest.
    name: structs.replace(
        world,
        spare_share=0.0,
        view_bytes=32 * 1024,
        backends=dict.fromkeys(("default", "x", "y", "local", "cloud", "a", "b", "c"), _ALWAYS),
    )
    for name, world in _WORLDS.items()
}
"""With backends that take every call."""

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
    "short calls": EngineSettings(
        backends={"a": _limited(1, _PROBED), "b": _limited(2)},
        max_call_seconds=9.0,
        idle_seconds=3.0,
        lease_seconds=6.0,
    ),
}
"""Trials also call backends that a world does not name, which no operator configured."""


_HOLD_SECONDS = 4.0


class Prompt(TypedDict, total=False):
    """Fields of a begin."""

    prefix: tuple[str, ...]
    prefix_bytes: tuple[int, ...]


def with_affinity(settings: EngineSettings) -> EngineSettings:
    """Return a world whose backends schedule calls by their prompts: those with several permits as slots, the others as providers."""
    backends = {
        name: structs.replace(
            given,
            prefix_affinity="slots" if given.max_concurrent > 1 else "provider",
            prefix_min_tokens=1,
            prefix_hold_seconds=_HOLD_SECONDS,
            prefix_lifetime_seconds=16.0,
            prefix_pass_seconds=2.0,
        )
        for name, given in settings.backends.items()
    }
    return structs.replace(settings, backends=backends)


def without_holds(settings: EngineSettings) -> EngineSettings:
    """Return a world with affinity in which every reply is as without it.

    Callers never wait for prompts, and of the backends that a begin names at most one has affinity: none is preferred.
    """
    backends = {
        name: structs.replace(given, prefix_affinity="provider", prefix_min_tokens=1, prefix_hold_seconds=0.0)
        if name in {"default", "local", "a"}
        else given
        for name, given in settings.backends.items()
    }
    return structs.replace(settings, backends=backends)


def prompt(chance: random.Random) -> Prompt:
    """Return the fields of a begin with the prompt of one of few applications."""
    names = [chance.choice("aaab")]
    for _ in range(chance.randrange(3)):
        names.append(names[-1] + chance.choice("cd"))

    return prompt_of(names)


def prompt_of(names: Sequence[str]) -> Prompt:
    """Return the fields of a begin whose prompt has these prefixes."""
    return {
        "prefix": tuple(name.encode().hex().ljust(32, "0") for name in names),
        "prefix_bytes": tuple(400 * (place + 1) for place in range(len(names))),
    }

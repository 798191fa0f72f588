"""Order equivalent backends for a call: first the one that has processed its longest prefix, within a bounded load.

Each backend has a fair share of the calls in progress and waiting: by its limit if all have one, under the route ``weighted`` by its
weight, else an equal one. A backend with more than `MAX_LOAD` times its share of the calls, including the new one, is full, and comes
after the others. A backend whose breaker is not closed has no share, since the others take its calls: it is called for its own prefixes
if the breaker admits a probe. Of those with room, the first is the one that has processed, or is processing, the longest prefix; of equals,
the one that rendezvous hashing gives for the shortest prefix, so that calls that share a cold prefix meet.

Sources: Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2016), which proves few moves with a factor
of 1.25; Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998), for rendezvous hashing.
"""

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from math import ceil
from typing import Final

from sidecard.core.backends.backend import Backend
from sidecard.core.backends.prefix_policy import NO_PREFIX
from sidecard_client.protocol.wire import Begin, Route

MAX_LOAD: Final = 1.25

Choice = tuple[str, Backend]
"""A backend with the name that the caller used, which differs from its own if it is `OTHER_BACKENDS`."""


def by_prefix(choices: list[Choice], route: Route, scope: str, request: Begin, now: float) -> list[Choice]:
    """Return backends with equivalent ones reordered among their places; ``choices`` are in the route's order.

    Under the routes ``least_busy`` and ``weighted``, all are equivalent; under ``order``, only those of one kind (`_kind`).
    """
    if route in {"cheapest", "fastest"}:
        return choices

    places: dict[Hashable, list[int]] = {}
    for place, (_, backend) in enumerate(choices):
        if backend.affinity is not None:
            places.setdefault(_kind(backend) if route == "order" else None, []).append(place)

    ordered = list(choices)
    for equal in places.values():
        full = _full([choices[place][1] for place in equal], route)
        ranks = [
            _rank(choices[place][1], scope, request, now, full=is_full)
            for place, is_full in zip(equal, full, strict=True)
        ]
        preferred = sorted(range(len(equal)), key=ranks.__getitem__)
        for place, number in zip(equal, preferred, strict=True):
            ordered[place] = choices[equal[number]]

    return ordered


def _kind(backend: Backend) -> Hashable:
    """Return what equivalent backends have in common."""
    settings = backend.settings
    prices = (
        settings.input_dollars_per_million_tokens,
        settings.output_dollars_per_million_tokens,
        settings.cached_input_dollars_per_million_tokens,
        settings.cache_write_dollars_per_million_tokens,
    )
    return settings.prefix_affinity, settings.prefix_family, settings.locality, prices


def _full(backends: Sequence[Backend], route: Route) -> list[bool]:
    """Return for each backend whether one more call would exceed its share."""
    up = [backend for backend in backends if backend.breaker.state in {"closed", "disabled"}]
    shares = [backend.settings.weight if route == "weighted" else float(backend.limit) for backend in up]
    if not all(shares):
        shares = [1.0] * len(shares)

    loads = [backend.permits + len(backend.queue) for backend in up]
    calls, total = sum(loads) + 1, sum(shares)
    full = {
        backend.name
        for backend, load, share in zip(up, loads, shares, strict=True)
        if load >= ceil(MAX_LOAD * calls * share / total)
    }
    return [backend.name in full for backend in backends]


def _rank(backend: Backend, scope: str, request: Begin, now: float, *, full: bool) -> tuple[bool, float, bytes]:
    """Return the rank of a backend: the least is preferred. Without a prefix that is long enough, all are equal."""
    affinity = backend.affinity
    chain = NO_PREFIX if affinity is None else affinity.chain_of(scope, request)
    if affinity is None or full or not chain.keys:
        return full, 0.0, b""

    fit = affinity.fit(scope, request, now)
    place = blake2b(f"{chain.keys[0][1]} {backend.name}".encode(), digest_size=8).digest()
    return False, -(fit.warm_tokens + fit.gain_tokens), place

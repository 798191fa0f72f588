"""Order equivalent backends for a call: first the one that has processed its longest prefix, within a bounded load.

Each backend has a fair share of the calls in progress and waiting: by its limit if all have one, under the route ``weighted`` by its
weight, else an equal one. A backend with more than `MAX_LOAD` times its share of the calls, including the new one, is full, and comes
after the others. Of those with room, the first is the one that has processed, or is processing, the longest prefix; of equals,
the one that rendezvous hashing gives for the shortest prefix, so that calls that share a cold prefix meet.

Sources: Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2016), which proves few moves with a factor
of 1.25; Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998), for rendezvous hashing.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from typing import Final

from sidecard.core.backends.backend import Backend
from sidecard.core.backends.prefix_policy import NO_PREFIX
from sidecard_client.protocol.wire import Begin, Route

MAX_LOAD: Final = 1.25

_SEVERAL = 2

Choice = tuple[str, Backend]
"""A backend with the name that the caller used, which differs from its own if it is `OTHER_BACKENDS`."""


def by_prefix(choices: list[Choice], route: Route, scope: str, request: Begin, now: float) -> list[Choice]:
    """Return backends with those that have prefix affinity reordered among their places; ``choices`` are in the route's order."""
    affine = [choice for choice in choices if choice[1].affinity is not None]
    if len(affine) < _SEVERAL or route in {"cheapest", "fastest"}:
        return choices

    full = _full([backend for _, backend in affine], route)
    ranks = [
        _rank(backend, scope, request, now, full=is_full) for (_, backend), is_full in zip(affine, full, strict=True)
    ]
    preferred = iter([affine[place] for place in sorted(range(len(affine)), key=ranks.__getitem__)])
    return [choice if choice[1].affinity is None else next(preferred) for choice in choices]


def _full(backends: Sequence[Backend], route: Route) -> list[bool]:
    """Return for each backend whether one more call would exceed its share."""
    shares = [backend.settings.weight if route == "weighted" else float(backend.limit) for backend in backends]
    if not all(shares):
        shares = [1.0] * len(shares)

    loads = [backend.permits + len(backend.queue) for backend in backends]
    calls, total = sum(loads) + 1, sum(shares)
    return [load >= ceil(MAX_LOAD * calls * share / total) for load, share in zip(loads, shares, strict=True)]


def _rank(backend: Backend, scope: str, request: Begin, now: float, *, full: bool) -> tuple[bool, float, bytes]:
    """Return the rank of a backend: the least is preferred. Without a prefix that is long enough, all are equal."""
    affinity = backend.affinity
    chain = NO_PREFIX if affinity is None else affinity.chain_of(scope, request)
    if affinity is None or full or not chain.keys:
        return full, 0.0, b""

    fit = affinity.fit(scope, request, now)
    place = blake2b(f"{chain.keys[0][1]} {backend.name}".encode(), digest_size=8).digest()
    return False, -(fit.warm_tokens + fit.gain_tokens), place

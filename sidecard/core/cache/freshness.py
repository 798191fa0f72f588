"""How old an answer a caller accepts: its own bound, stale answers, and refreshing shortly before an answer becomes stale.

A begin's ``ttl_seconds`` and ``max_age_seconds`` are its *bound*: the lesser one limits the age of every answer that it gets, and
the sharing window does not apply to it. An explicit ``stale_seconds`` says how much older a stale answer may be. An answer
that arrived after the begin is always accepted, as from a flight in progress.

`sidecard docs protocol` ("Stale answers") describes which callers get a stale answer. Precedents: RFC 5861 (stale-while-revalidate,
stale-if-error), Varnish's grace, nginx' ``proxy_cache_use_stale``, Facebook's leases with stale values (memcache, NSDI 2013).

With ``early_refresh`` an answer may be refreshed early, by a random draw at each hit: Vattani, Chierichetti, Lowenstein,
"Optimal probabilistic cache stampede prevention", VLDB 2015. A slow call is repeated earlier; a popular entry is certainly
refreshed, an unpopular one never. The lease makes sure that one caller does it. If that caller would wait for a permit or be
rejected, it is served the answer that is still fresh.
"""

import math
from collections.abc import Callable

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.values import bound_of
from sidecard_client.protocol.wire import Begin


def fresh_seconds_for(request: Begin, entry: Entry) -> float:
    """Return until which age an entry is fresh for a begin. The sharing window is for begins without a bound."""
    bound = bound_of(request)
    return entry.terms.fresh_seconds if bound is None else min(bound, entry.terms.ttl_seconds)


def is_fresh_for(request: Begin, entry: Entry, now: float) -> bool:
    """Return whether a begin may be served an entry as a fresh answer."""
    return now - entry.stored_at < fresh_seconds_for(request, entry)


def accepts_found(request: Begin, began_at: float, entry: Entry, now: float) -> bool:
    """Return whether a begin that has waited since ``began_at`` accepts an entry that was found meanwhile."""
    return entry.stored_at >= began_at or (request.mode != "refresh" and is_fresh_for(request, entry, now))


class FreshnessPolicy(Struct, frozen=True, eq=False):
    """Decides which stale answers are served and when to refresh early. ``jitter`` is uniform in [0, 1)."""

    cache: MemoryCache
    jitter: Callable[[], float]

    def find_stale(self, scope: str, request: Begin, now: float) -> Entry | None:
        """Return the stale answer that a begin may be served; None if there is none, or a fresh one."""
        if request.key is None or request.mode == "refresh":
            return None

        entry = self.cache.get(scope, request.key, now)
        if entry is None or is_fresh_for(request, entry, now) or not self.accepts_stale(request, entry, now):
            return None

        return entry

    @staticmethod
    def accepts_stale(request: Begin, entry: Entry, now: float) -> bool:
        """Return whether the entry is within its own stale time and the request's limits."""
        age, terms, limit, bound = now - entry.stored_at, entry.terms, request.stale_seconds, bound_of(request)
        stale_seconds = terms.stale_seconds if limit is None else min(limit, terms.stale_seconds)
        return age < terms.ttl_seconds + stale_seconds and (bound is None or age < bound + (limit or 0.0))

    def draws_early_refresh(self, request: Begin, entry: Entry, now: float) -> bool:
        """Draw whether the caller is to refresh an entry now that is fresh for it."""
        terms = entry.terms
        left_seconds = entry.stored_at + min(terms.ttl_seconds, fresh_seconds_for(request, entry)) - now
        if terms.early_refresh <= 0 or left_seconds <= 0:
            return False

        return entry.seconds * terms.early_refresh * -math.log(1.0 - self.jitter()) >= left_seconds

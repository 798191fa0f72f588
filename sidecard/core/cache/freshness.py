"""Stale answers, and refreshing shortly before an answer becomes stale.

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
from sidecard_client.protocol.wire import Begin


class FreshnessPolicy(Struct, frozen=True, eq=False):
    """Decides which stale answers are served and when to refresh early. ``jitter`` is uniform in [0, 1)."""

    cache: MemoryCache
    jitter: Callable[[], float]

    def find_stale(self, scope: str, request: Begin, now: float) -> Entry | None:
        """Return the stale answer that a begin may be served; None if there is none, or a fresh one."""
        if request.key is None or request.mode == "refresh":
            return None

        entry = self.cache.get(scope, request.key, now)
        return (
            entry if entry is not None and not entry.is_fresh(now) and self.accepts_stale(request, entry, now) else None
        )

    @staticmethod
    def accepts_stale(request: Begin, entry: Entry, now: float) -> bool:
        """Return whether the entry is within the request's own stale limit."""
        limit = request.stale_seconds
        return limit is None or now - entry.stored_at < entry.terms.ttl_seconds + limit

    def draws_early_refresh(self, entry: Entry, now: float) -> bool:
        """Draw whether the caller is to refresh a fresh entry now."""
        terms = entry.terms
        left_seconds = entry.stored_at + terms.ttl_seconds - now
        if terms.early_refresh <= 0 or left_seconds <= 0:
            return False

        return entry.seconds * terms.early_refresh * -math.log(1.0 - self.jitter()) >= left_seconds

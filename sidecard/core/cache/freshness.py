"""Answers beyond their time, and shortly before it.

An entry is a hit until its ``ttl_seconds``. Then it is *stale* for the ``stale_seconds`` that it was stored with, or fewer
where a begin says so itself: one caller gets a lease, with the stale answer in case that its call fails, and all others are
served the stale answer meanwhile. A caller that would have to wait for a permit is served it too, and one that is refused
is given it with the refusal. Precedents: RFC 5861 (stale-while-revalidate, stale-if-error), Varnish's grace, nginx'
``proxy_cache_use_stale``, Facebook's leases with stale values (memcache, NSDI 2013).

With ``early_refresh`` an answer may be fetched anew before its time. When is decided by probability: Vattani, Chierichetti,
Lowenstein, "Optimal probabilistic cache stampede prevention", VLDB 2015. A call that took long is begun early, and an entry
that is asked for often is refreshed for certain, one that nobody asks for not at all. Who does it is decided by the lease.

=====================  ==========================================  =======================================================
entry                  no flight of its key                        a flight of its key
=====================  ==========================================  =======================================================
fresh                  hit                                         hit
fresh, drawn           lease with the answer; hit where that        hit
                       would wait or is refused
stale                  lease with the answer; hit (stale) where     hit (stale)
                       that would wait; rejection with the answer
stale, the store may   as the store says; then one lease with the   hit (stale)
have it                answer, hit (stale) for the others
beyond, doubted,       as if there were no entry                    wait
``mode`` refresh
=====================  ==========================================  =======================================================
"""

import math
from collections.abc import Callable

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import Begin


class FreshnessPolicy:
    """Decides which old answers may be served. ``jitter`` is uniform in [0, 1)."""

    def __init__(self, cache: MemoryCache, jitter: Callable[[], float]) -> None:
        self._cache = cache
        self._jitter = jitter

    def find(self, scope: str, request: Begin, now: float) -> Entry | None:
        """Return the stale answer that a begin may be served; None where there is none, or a fresh one."""
        if request.key is None or request.mode == "refresh":
            return None

        entry = self._cache.get(scope, request.key, now)
        return entry if entry is not None and not entry.is_fresh(now) and self.allows(request, entry, now) else None

    @staticmethod
    def allows(request: Begin, entry: Entry, now: float) -> bool:
        """Tell whether a stale entry is young enough for a begin. That it is for the entry itself goes without saying: it is there."""
        asked = request.stale_seconds
        return asked is None or now - entry.stored_at < entry.terms.ttl_seconds + asked

    def is_due_early(self, entry: Entry, now: float) -> bool:
        """Draw whether a fresh entry is to be fetched anew by who asks for it now."""
        terms = entry.terms
        left_seconds = entry.stored_at + terms.ttl_seconds - now
        if terms.early_refresh <= 0 or left_seconds <= 0:
            return False

        return entry.seconds * terms.early_refresh * -math.log(1.0 - self._jitter()) >= left_seconds

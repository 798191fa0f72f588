"""Which scopes have a view, and how much memory their files take.

A file cannot shrink, and its memory is charged to the daemon for as long as any process maps it. So each file counts until every
connection that received it has ended. What a process keeps beyond that is bounded by the number of views that are ever dropped
for others: `MAX_DROPS` in a run, and `MAX_DROPS_PER_UID` of those that one uid received.
"""

from collections import Counter
from collections.abc import Iterable
from math import inf
from operator import attrgetter

from sidecard.core.cache.view.changes import ViewChanges
from sidecard.core.cache.view.publication import Publications
from sidecard.core.cache.view.scope_view import ScopeView
from sidecard.core.effects import OpenView, RetireView
from sidecard.core.events import Peer
from sidecard.core.scopes import EVERYONE, owner_of
from sidecard.core.settings import EngineSettings, LiveSettings

PAGE_BYTES = 4096

MIN_VIEW_BYTES = 256 * 1024
"""A smaller view is not worth its descriptor."""

MAX_FILES = 16
"""Views and retired files together."""

MAX_PRIVATE_VIEWS = 4
"""Views of one uid's private namespaces."""

MAX_DROPS = 64
MAX_DROPS_PER_UID = 8

CACHE_SHARE = 1 / 4
"""Maximum share of the cache's limit that all files take."""

RETRY_SECONDS = 60.0
"""After a file could not be made, no other is tried for so long."""


class NoViewError(Exception):
    """There is no view, and none can be opened. The text is the reason, as a clause."""


class Views:
    """The views by scope, and the retired ones that clients still have."""

    def __init__(self, settings: LiveSettings, publications: Publications, changes: ViewChanges) -> None:
        self.by_scope: dict[str, ScopeView] = {}
        """Serving checks whether it is empty, so it stays the same object."""
        self.file_bytes = 0
        """Size of all files."""
        self._settings = settings
        self._publications = publications
        self._changes = changes
        self._retired: list[ScopeView] = []
        """Those that some connection still has."""
        self._last_number = 0
        self._drops = 0
        self._drops_by_uid: Counter[int] = Counter()
        self._failure = ""
        self._retry_at = -inf

    def open(self, scope: str, peer: Peer, now: float) -> ScopeView:
        """Return the view of a scope for a connection, which receives its file. Raises `NoViewError`."""
        view = self.by_scope.get(scope)
        if view is None:
            view = self._add(scope, now)
        elif peer.id in view.peers:
            raise NoViewError("this connection has already received it; open another one")

        view.peers.add(peer.id)
        view.uids.add(peer.uid)
        view.used_at = now
        return view

    def peer_lost(self, peer: Peer) -> bool:
        """Note that a connection has ended; return whether fewer files are left: those retired ones that it alone had do not count."""
        before = self.file_bytes
        for view in self.by_scope.values():
            view.peers.discard(peer.id)

        for view in [view for view in self._retired if peer.id in view.peers]:
            view.peers.discard(peer.id)
            if not view.peers:
                self._retired.remove(view)
                self.file_bytes -= view.size

        return self.file_bytes != before

    def retire(self, view: ScopeView) -> None:
        """Withdraw a view for ever."""
        self._changes.add(RetireView(view.number))
        self._forget(view)

    def retire_all(self) -> None:
        """Withdraw all views for ever."""
        for view in list(self.by_scope.values()):
            self.retire(view)

    def failed(self, number: int, reason: str, now: float) -> bool:
        """Forget a view whose file could not be made, and try no other for a while; return whether the reason is a new one."""
        is_new, self._failure, self._retry_at = reason != self._failure, reason, now + RETRY_SECONDS
        for view in list(self.by_scope.values()):
            if view.number == number:
                view.peers.clear()
                self._forget(view)

        return is_new

    def _add(self, scope: str, now: float) -> ScopeView:
        """Open the view of a scope, and drop unused ones that are in its way."""
        if now < self._retry_at:
            raise NoViewError(self._failure)

        budget = budget_of(self._settings.now)
        if budget < MIN_VIEW_BYTES:
            raise NoViewError(f"cache.view_bytes, or a quarter of cache.max_bytes, is less than {MIN_VIEW_BYTES} bytes")

        owner = owner_of(scope)
        own = [view for view in self.by_scope.values() if owner_of(view.scope) == owner]
        if owner != EVERYONE and len(own) >= MAX_PRIVATE_VIEWS:
            self._drop(own, f"uid {owner} has {MAX_PRIVATE_VIEWS} views of private namespaces, and all are in use")

        while len(self.by_scope) + len(self._retired) >= MAX_FILES or not (size := self._next_size(budget)):
            self._drop(self.by_scope.values(), "the memory for views (cache.view_bytes), or their number, is used up")

        self._last_number += 1
        view = self.by_scope[scope] = ScopeView(self._last_number, scope, size, now)
        self.file_bytes += size
        self._changes.add(OpenView(view.number, size, view.space.slot_count))
        return view

    def _next_size(self, budget: int) -> int:
        """Return the size of the next file: half of what is left; 0 if that is too little."""
        left = budget - self.file_bytes
        half = left // 2 // PAGE_BYTES * PAGE_BYTES
        return max(half, MIN_VIEW_BYTES) if left >= MIN_VIEW_BYTES else 0

    def _drop(self, views: Iterable[ScopeView], obstacle: str) -> None:
        """Retire the view that no connection has and that was not used for longest. Raises `NoViewError` if there is none."""
        unused = [view for view in views if not view.peers and self._may_drop(view)]
        if not unused:
            raise NoViewError(obstacle)

        view = min(unused, key=attrgetter("used_at"))
        self._drops += 1
        self._drops_by_uid.update(view.uids)
        self.retire(view)

    def _may_drop(self, view: ScopeView) -> bool:
        return self._drops < MAX_DROPS and all(self._drops_by_uid[uid] < MAX_DROPS_PER_UID for uid in view.uids)

    def _forget(self, view: ScopeView) -> None:
        self._publications.end(view.space.clear())
        del self.by_scope[view.scope]
        if view.peers:
            self._retired.append(view)
        else:
            self.file_bytes -= view.size


def budget_of(settings: EngineSettings) -> int:
    """Return how many bytes all files may take."""
    return min(settings.view_bytes, int(settings.cache_max_bytes * CACHE_SHARE))

"""Open, drop and retire the views of scopes, within bounds on files and memory.

A file cannot shrink, and its memory is charged to the daemon for as long as any process has it. So each file counts until the server
reports that none has it any more (`sidecard.core.events.ViewReleased`), whether or not the connections that received it have ended.
"""

from math import inf
from operator import attrgetter

from sidecard.core.cache.view.changes import ViewChanges
from sidecard.core.cache.view.publication import Publications
from sidecard.core.cache.view.scope_view import ScopeView
from sidecard.core.effects import OpenView, RetireView
from sidecard.core.events import Peer
from sidecard.core.scopes import EVERYONE, owner_of
from sidecard.core.settings import MIN_VIEW_BYTES, EngineSettings, LiveSettings
from sidecard_client.protocol.view import MAX_VIEW_BYTES

PAGE_BYTES = 4096

MAX_FILES = 16
"""Views and retired files together."""

MAX_PRIVATE_VIEWS = 4
"""Files of one uid's private namespaces, retired ones included."""

DROP_SECONDS = 1.0
"""At most one view is dropped to make room in this time. Its memory is free when the client asks again."""

IDLE_SECONDS = 60.0
"""A view may be dropped although clients have it, if they have reported no hit on it for so long. At most one is dropped in this
time: an idle client looks once a minute whether its view is retired, and only then is the file released."""

CACHE_SHARE = 1 / 4
"""Maximum share of the cache's limit that all files take."""

RETRY_SECONDS = 60.0
"""After a file could not be made, the next one is tried after this time."""

_NOTHING: dict[str, int] = {}
_NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))


class NoViewError(Exception):
    """There is no view, and none can be opened. The text is the reason, as a clause."""


class Views:
    """The views by scope, and the retired ones whose files some process may still have."""

    def __init__(self, settings: LiveSettings, publications: Publications, changes: ViewChanges) -> None:
        self.by_scope: dict[str, ScopeView] = {}
        """Serving checks whether it is empty, so it stays the same object."""
        self.file_bytes = 0
        """Size of all files."""
        self._settings = settings
        self._publications = publications
        self._changes = changes
        self._retired: dict[int, ScopeView] = {}
        """By number."""
        self._received: dict[int, dict[str, int]] = {}
        """By the id of a connection that has not ended, and by namespace: the number of the view that it received last."""
        self._last_number = 0
        self._dropped_at = -inf
        self._idle_dropped_at = -inf
        self._failure = ""
        self._failures: set[str] = set()
        """All reasons so far, without the numbers in them."""
        self._retry_at = -inf

    def open(self, scope: str, namespace: str, peer: Peer, now: float) -> ScopeView:
        """Return the view of a scope for a connection, which asked for ``namespace`` and receives the file. Raises `NoViewError`."""
        view = self.by_scope.get(scope)
        if view is None:
            view = self._add(scope, now)
        elif peer.id in view.peers:
            raise NoViewError("this connection has already received it; open another one")

        view.peers.add(peer.id)
        view.used_at = now
        received = self._received.setdefault(peer.id, {})
        received[namespace] = view.number
        if len(received) > MAX_FILES:
            del received[min(received, key=received.__getitem__)]

        return view

    def received(self, peer: Peer, namespace: str) -> int:
        """Return the number of the view of a namespace that a connection received last, even if it is retired; 0 if none."""
        return self._received.get(peer.id, _NOTHING).get(namespace, 0)

    def peer_lost(self, peer: Peer) -> None:
        """Note that a connection has ended."""
        self._received.pop(peer.id, None)
        for view in self.by_scope.values():
            view.peers.discard(peer.id)

    def released(self, number: int) -> None:
        """Stop counting a retired view whose file no process has any more."""
        view = self._retired.pop(number, None)
        if view is not None:
            self.file_bytes -= view.size

    def retire(self, view: ScopeView) -> None:
        """Withdraw a view for ever."""
        self._end(view)
        self._changes.add(RetireView(view.number))

    def retire_all(self) -> None:
        """Withdraw all views for ever."""
        for view in list(self.by_scope.values()):
            self.retire(view)

    def failed(self, number: int, reason: str, now: float) -> bool:
        """Forget a view whose file could not be made; return whether the reason is a new one, numbers such as free memory aside."""
        self._failure, self._retry_at = reason, now + RETRY_SECONDS
        kind = reason.translate(_NO_DIGITS)
        is_new = kind not in self._failures
        self._failures.add(kind)
        for view in list(self.by_scope.values()):
            if view.number == number:
                self._end(view)

        self.released(number)
        return is_new

    def _end(self, view: ScopeView) -> None:
        self._publications.end_all(view.clear())
        del self.by_scope[view.scope]
        self._retired[view.number] = view

    def _add(self, scope: str, now: float) -> ScopeView:
        """Open the view of a scope. If there is no room, drop another one: the client asks again later."""
        if now < self._retry_at:
            raise NoViewError(self._failure)

        budget = budget_of(self._settings.now)
        if budget < MIN_VIEW_BYTES:
            raise NoViewError(f"cache.view_bytes, or a quarter of cache.max_bytes, is less than {MIN_VIEW_BYTES} bytes")

        obstacle = self._obstacle(scope, budget)
        if obstacle:
            self._drop_one(scope, now)
            raise NoViewError(obstacle)

        size = self._next_size(budget)
        self._last_number += 1
        view = self.by_scope[scope] = ScopeView(self._last_number, scope, size, now)
        self.file_bytes += size
        self._changes.add(OpenView(view.number, size, view.space.slot_count))
        return view

    def _next_size(self, budget: int) -> int:
        """Return the size of the next file: half of what is left; 0 if that is too little."""
        left = budget - self.file_bytes
        half = left // 2 // PAGE_BYTES * PAGE_BYTES
        return min(max(half, MIN_VIEW_BYTES), MAX_VIEW_BYTES) if left >= MIN_VIEW_BYTES else 0

    def _obstacle(self, scope: str, budget: int) -> str:
        """Return why there is no room for one more view; empty if there is."""
        owner = owner_of(scope)
        if owner != EVERYONE and len(self._files_of(owner)) >= MAX_PRIVATE_VIEWS:
            return (
                f"processes of uid {owner} have {MAX_PRIVATE_VIEWS} files of private namespaces, retired ones included"
            )

        if len(self.by_scope) + len(self._retired) >= MAX_FILES or not self._next_size(budget):
            return f"all {MAX_FILES} files, or all memory for views (cache.view_bytes), are in use"

        return ""

    def _drop_one(self, scope: str, now: float) -> None:
        """Retire the least recently used view: of those without connections, or else of the idle ones.

        If the owner of ``scope`` is at its bound, it is one of its own.
        """
        owner = owner_of(scope)
        own = self._files_of(owner) if owner != EVERYONE else []
        files = own if len(own) >= MAX_PRIVATE_VIEWS else list(self.by_scope.values())
        views = sorted((view for view in files if self.by_scope.get(view.scope) is view), key=attrgetter("used_at"))
        unused = [view for view in views if not view.peers]
        if unused:
            if now - self._dropped_at >= DROP_SECONDS:
                self._dropped_at = now
                self.retire(unused[0])

        elif views and now - max(views[0].used_at, self._idle_dropped_at) >= IDLE_SECONDS:
            self._idle_dropped_at = now
            self.retire(views[0])

    def _files_of(self, owner: str) -> list[ScopeView]:
        return [view for view in (*self.by_scope.values(), *self._retired.values()) if owner_of(view.scope) == owner]


def budget_of(settings: EngineSettings) -> int:
    """Return how many bytes all files may take."""
    return min(settings.view_bytes, int(settings.cache_max_bytes * CACHE_SHARE))

"""Whose namespace is whose.

A *scope* is a namespace's real place: ``1000:default`` is private to uid 1000, ``*:team`` is shared by config.
Names cannot contain a colon, so no peer can name another's scope but an operator.
"""

import re

from sidecard.core.events import Peer
from sidecard.core.settings import SharedWith

_FULL_NAME = re.compile(r"(\d+|\*):[^:]+")
_MAX_REMEMBERED = 4096


class Scopes:
    """Finds scopes; remembers a bounded number of answers, since this is on the way of every hit."""

    def __init__(self, shared: dict[str, SharedWith]) -> None:
        self._shared = shared
        self._known: dict[tuple[int, int, str], str] = {}

    def share(self, shared: dict[str, SharedWith]) -> None:
        """Let other namespaces be shared from now on. What was stored under the earlier scopes stays there until it expires."""
        self._shared = shared
        self._known.clear()

    def find(self, peer: Peer, namespace: str) -> str | None:
        """Return the scope of a peer's namespace; None where the peer may not name it."""
        scope = self._known.get((peer.uid, peer.gid, namespace))
        if scope is not None:
            return scope

        if ":" in namespace:
            return namespace if peer.operator and _FULL_NAME.fullmatch(namespace) else None

        shared = self._shared.get(namespace)
        admitted = shared is not None and shared.admits(peer.uid, peer.gid)
        scope = f"*:{namespace}" if admitted else f"{peer.uid}:{namespace}"
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()

        self._known[peer.uid, peer.gid, namespace] = scope
        return scope


def covers(namespace: str | None, scope: str) -> bool:
    """Tell whether a purge's namespace means ``scope``: None means all, ``NAME`` that name of every uid."""
    return namespace is None or scope == namespace or namespace_of(scope) == namespace


def namespace_of(scope: str) -> str:
    """Return the name that peers call a scope by."""
    return scope.partition(":")[2]

"""Scopes: which uid's namespace a name means.

A *scope* is a namespace with its owner: ``1000:default`` is private to uid 1000, ``*:team`` is shared by configuration.
Namespace names contain no colon, so only operators can name another uid's scope.
"""

import re

from sidecard.core.events import Peer
from sidecard.core.settings import SharedWith

EVERYONE = "*"
"""Owner of the shared scopes."""

_FULL_NAME = re.compile(r"(\d+|\*):[^:]+")
_MAX_CACHED = 4096


class Scopes:
    """Resolves namespaces to scopes; caches a bounded number of results, because every hit needs one."""

    def __init__(self, shared: dict[str, SharedWith]) -> None:
        self._shared = shared
        self._known: dict[tuple[int, int, str], str] = {}

    def share(self, shared: dict[str, SharedWith]) -> None:
        """Replace the shared namespaces. Entries of earlier scopes stay until they expire."""
        self._shared = shared
        self._known.clear()

    def find(self, peer: Peer, namespace: str) -> str | None:
        """Return the scope of a peer's namespace; None if the peer is not allowed to use it."""
        scope = self._known.get((peer.uid, peer.gid, namespace))
        if scope is not None:
            return scope

        if ":" in namespace:
            return namespace if peer.operator and _FULL_NAME.fullmatch(namespace) else None

        shared = self._shared.get(namespace)
        admitted = shared is not None and shared.admits(peer.uid, peer.gid)
        scope = f"{EVERYONE}:{namespace}" if admitted else f"{peer.uid}:{namespace}"
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()

        self._known[peer.uid, peer.gid, namespace] = scope
        return scope

    def find_own(self, peer: Peer, namespace: str) -> str | None:
        """Return the scope of a namespace that is the peer's own or shared with it; None for another uid's, operators included."""
        scope = self.find(peer, namespace)
        return scope if scope is not None and scope == self.find(peer, namespace_of(scope)) else None


def covers(namespace: str | None, scope: str) -> bool:
    """Return whether a purge of ``namespace`` includes ``scope``: None means all, ``NAME`` that name of every uid."""
    return namespace is None or scope == namespace or namespace_of(scope) == namespace


def namespace_of(scope: str) -> str:
    """Return a scope's namespace, without its owner."""
    return scope.partition(":")[2]


def owner_of(scope: str) -> str:
    """Return a scope's owner: a uid, or `EVERYONE`."""
    return scope.partition(":")[0]

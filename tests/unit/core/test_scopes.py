"""Scopes of namespaces."""

from sidecard.core.events import Peer
from sidecard.core.scopes import _MAX_CACHED, Scopes
from sidecard.core.settings import SharedWith


def peer(uid: int) -> Peer:
    """Return a connection of a uid."""
    return Peer(1, uid, uid, 1, operator=False)


def test_known_scopes_are_bounded() -> None:
    """A uid that invents namespaces fills no memory; each still has its own scope."""
    scopes = Scopes({})
    for number in range(3 * _MAX_CACHED):
        assert scopes.find(peer(1000), f"n{number}") == f"1000:n{number}"

    assert len(scopes._known) <= _MAX_CACHED


def test_a_scope_is_looked_up_once() -> None:
    """Every hit needs a scope, so a known one is not formatted again."""
    scopes = Scopes({})
    scope = scopes.find(peer(1000), "n")
    assert scopes.find(peer(2000), "n") == "2000:n"
    assert scopes.find(peer(1000), "n") is scope


def test_a_namespace_that_becomes_shared_has_another_scope() -> None:
    """A known scope is no longer valid after a reload."""
    scopes = Scopes({})
    assert scopes.find(peer(1000), "n") == "1000:n"
    scopes.share({"n": SharedWith(everyone=True)})
    assert scopes.find(peer(1000), "n") == "*:n"

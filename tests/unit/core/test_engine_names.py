"""Names that peers invent: the flood of one uid costs others nothing, and totals stay."""

from sidecard.core.backends.registry import OTHER_BACKENDS
from tests.host import Host


def test_a_flood_of_broken_backends_of_one_uid_leaves_others_their_breakers() -> None:
    """Each is open for an hour. Nevertheless, later names of all uids have a breaker of their own."""
    host = Host(max_backends=64)
    for number in range(300):
        mallory = host.peer(uid=1)
        mallory.fails(mallory.calls(f"gone{number}").lease, retry_after_seconds=3600.0)

    for uid in (2, 3, 1):
        peer = host.peer(uid=uid)
        peer.fails(peer.calls(f"mine{uid}").lease, retry_after_seconds=100.0)
        host.peer(uid=uid).calls(f"another{uid}")
        host.peer(uid=uid).refused(f"mine{uid}")

    assert OTHER_BACKENDS not in host.breakers()
    assert len(host.breakers()) <= 64


def test_calls_in_progress_of_one_uid_leave_others_room() -> None:
    """Names in use stay, so others get room beyond the bound, and only the flood shares a breaker."""
    host = Host(max_backends=64)
    for number in range(100):
        host.peer(uid=1).calls(f"busy{number}")

    bob = host.peer(uid=2)
    bob.fails(bob.calls("mine").lease, retry_after_seconds=100.0)
    assert host.breakers()["mine"].state == "open"
    assert host.breakers()[OTHER_BACKENDS].state == "closed"
    assert len(host.breakers()) <= 64 + 16 + 1


def test_the_idle_names_of_who_has_most_make_room() -> None:
    """In the order of their latest use; a uid with few names keeps them."""
    host = Host(max_backends=64)
    for number in range(5):
        peer = host.peer(uid=2)
        peer.completes(peer.calls(f"bob{number}").lease, 1)

    for number in range(200):
        host.passes(1.0)
        peer = host.peer(uid=1)
        peer.completes(peer.calls("used again and again").lease, 1)
        peer.completes(peer.calls(f"junk{number}").lease, 1)

    known = host.breakers().keys()
    assert {f"bob{number}" for number in range(5)} | {"used again and again", "junk199"} <= known
    assert "junk0" not in known

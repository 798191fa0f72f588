"""How a holder is notified that other callers wait for its answer."""

from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Lease, Ok, Pending, Wanted
from tests.host import Host


def test_holder_is_notified_of_its_first_waiter_once() -> None:
    """The notice is immediate, and further waiters cause none."""
    host = Host()
    alice, bob, carol = (host.peer() for _ in range(3))
    lease = alice.leads("key", request_id=7, wanted=True, stream=True)
    bob.waits("key", stream=True)
    assert alice.receives() == [Wanted(7, lease)]
    carol.waits("key", stream=True)
    assert alice.receives() == []


def test_holder_that_does_not_ask_is_not_notified() -> None:
    """Clients of older versions would close their connection."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", stream=True)
    bob.waits("key")
    assert alice.receives() == []
    alice.asks(wire.Renew(lease, id=2))
    assert alice.receives() == [Ok(2, 1)]


def test_elected_holder_knows_of_waiters_from_its_lease() -> None:
    """The lease has their number; no message follows it."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    lease = alice.leads("key")
    bob.waits("key", wanted=True)
    carol.waits("key")
    alice.fails(lease)
    assert bob.gets(Lease).waiters == 1
    dave.waits("key")
    assert bob.receives() == []


def test_holder_is_notified_again_after_a_renewal_without_waiters() -> None:
    """Its latest information is always right: 1. a waiter leaves; 2. the holder renews; 3. another one waits."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", wanted=True)
    for expected in (Wanted(1, lease), None):
        bob.waits("key")
        assert alice.receives() == ([] if expected is None else [expected])
        bob.asks(wire.Cancel(1, id=5))
        bob.receives()

    alice.asks(wire.Renew(lease, id=2))
    assert alice.receives() == [Ok(2, 0)]
    bob.waits("key")
    assert alice.receives() == [Wanted(1, lease)]
    alice.asks(wire.Renew(lease, id=3))
    assert alice.receives() == [Ok(3, 1)]


def test_holder_whose_call_was_voided_is_not_notified_of_later_callers() -> None:
    """They are not its waiters: they start another flight."""
    host = Host()
    alice, bob, carol = (host.peer() for _ in range(3))
    alice.leads("key", wanted=True)
    bob.asks(wire.Delete("key", id=2))
    bob.receives()
    bob.leads("key", request_id=3, wanted=True)
    carol.asks(wire.Begin("key", id=1))
    assert carol.receives() == [Pending(1)]
    assert alice.receives() == []
    assert isinstance(bob.gets(Wanted), Wanted)

"""Work that makes no progress although its process is alive: leases end, permits return, `health` names the holder."""

from typing import Any

import pytest

from sidecard.core.events import ClocksStepped
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Failed, Lease, Ok, Renew, StaleLease
from tests.host import Actor, Host, packed

LOCAL = {"local": BackendSettings(locality="local", max_concurrent=4)}


def renews(host: Host, holder: Actor, lease: str, seconds: float, **chunks: Any) -> list[wire.AnyReply]:
    """Let a live process renew its lease every second; return the replies."""
    replies: list[wire.AnyReply] = []
    for _ in range(int(seconds)):
        host.passes(1.0)
        if holder.peer.id in host.actors:
            holder.asks(Renew(lease, id=50))
            replies += holder.receives()

    return replies


def health(host: Host) -> wire.Health:
    """Ask for health through a peer of its own."""
    actor = host.peer()
    actor.asks(wire.GetHealth(id=1))
    reply = actor.gets(wire.Health)
    actor.dies()
    return reply


def test_hung_calls_return_their_permits_to_other_callers() -> None:
    """Four hung calls of a live process that renews give `local` back; all their later messages are stale."""
    host = Host(max_call_seconds=10.0, backends=LOCAL)
    hung, other = host.peer(pid=7), host.peer(uid=1001)
    leases = [hung.leads(f"k{number}", number, backends=("local",)) for number in range(4)]
    other.asks(Begin("mine", id=1, backends=("local",)))
    assert other.receives() == [wire.Pending(1)]
    for _ in range(9):
        host.passes(1.0)
        for number, lease in enumerate(leases):
            hung.asks(Renew(lease, id=10 + number))

    assert hung.receives() == [Ok(10 + number) for _ in range(9) for number in range(4)]
    assert other.receives() == []
    host.passes(1.0)

    assert other.gets(Lease).backend == "local"
    assert host.breakers()["local"].permits == 1
    for number, lease in enumerate(leases):
        hung.asks(Renew(lease, id=20 + number))
        hung.asks(wire.Complete(lease, packed("late"), id=30 + number))

    assert [type(reply) for reply in hung.receives()] == [StaleLease] * 8
    assert host.stats().expired == 4
    assert host.stats().cache_entries == 0
    assert host.breakers()["local"].state == "closed"


def test_waiter_of_hung_call_is_elected() -> None:
    """The longest-waiting caller of another process makes the call; elections are bounded."""
    host = Host(max_call_seconds=10.0, max_elections=1)
    hung, second, third = host.peer(pid=7), host.peer(pid=8), host.peer(pid=9)
    lease = hung.leads("key")
    second.waits("key")
    third.waits("key")
    renews(host, hung, lease, 10)
    again = second.gets(Lease).lease
    renews(host, second, again, 10)

    assert third.gets(Failed).kind == "transient"
    assert host.stats().flights == 0


def test_stream_that_stops_fails_its_followers_and_elects_others() -> None:
    """A caller that has seen a chunk fails; a plain caller of the key is elected; the time before the first chunk is free."""
    host = Host(idle_seconds=5.0, lease_seconds=15.0)
    hung, follower, plain = host.peer(), host.peer(), host.peer()
    lease = hung.leads("key", stream=True)
    follower.waits("key", stream=True)
    plain.waits("key")
    renews(host, hung, lease, 20)
    hung.appends(lease, "a")
    assert follower.reads() == (["a"], None)
    renews(host, hung, lease, 4)
    hung.appends(lease, "")
    assert follower.reads() == ([""], None)
    renews(host, hung, lease, 4)
    assert follower.receives() == []
    assert renews(host, hung, lease, 1) == [StaleLease(50)]

    assert "idle_seconds" in follower.gets(Failed).message
    assert plain.gets(Lease).attempt == 2
    hung.asks(wire.Append(lease, packed("late"), id=3))
    assert hung.receives() == [StaleLease(3)]


@pytest.mark.parametrize("stream", [False, True])
def test_work_before_its_first_chunk_is_limited_by_the_whole_call(stream: bool) -> None:
    """A stream that hangs before its first chunk ends as a plain call does."""
    host = Host(max_call_seconds=30.0, idle_seconds=1.0)
    hung = host.peer()
    lease = hung.leads("key", stream=stream)
    assert StaleLease(50) not in renews(host, hung, lease, 29)
    assert renews(host, hung, lease, 1) == [StaleLease(50)]


def test_stream_with_rare_chunks_goes_on() -> None:
    """A thinking model that produces a chunk now and then keeps its lease, up to the limit of the whole call."""
    host = Host(max_call_seconds=60.0, idle_seconds=5.0)
    holder = host.peer()
    lease = holder.leads("key", stream=True)
    for _ in range(14):
        holder.appends(lease, "thinking")
        assert StaleLease(50) not in renews(host, holder, lease, 4)

    holder.appends(lease, "thinking")
    assert StaleLease(50) in renews(host, holder, lease, 4)


def test_call_without_key_is_limited_too() -> None:
    """A call that shares nothing holds a permit as well; its stream's chunks are progress."""
    host = Host(idle_seconds=5.0, backends=LOCAL)
    holder = host.peer()
    lease = holder.calls("local", stream=True).lease
    for _ in range(3):
        holder.appends(lease, "a")
        assert StaleLease(50) not in renews(host, holder, lease, 4)

    renews(host, holder, lease, 2)
    assert host.breakers()["local"].permits == 0


def test_reload_changes_limits_of_leases_in_progress() -> None:
    """A lowered limit ends leases that exceed it; a raised one lets them go on."""
    host = Host(max_call_seconds=10.0)
    holder = host.peer()
    lease = holder.leads("key")
    renews(host, holder, lease, 8)
    host.reads(max_call_seconds=30.0)
    assert StaleLease(50) not in renews(host, holder, lease, 10)
    host.reads(max_call_seconds=12.0)
    host.passes(0.0)
    holder.asks(Renew(lease, id=5))

    assert holder.receives() == [StaleLease(5)]


def test_sleep_of_the_host_is_no_lack_of_progress() -> None:
    """Nothing makes progress while the host sleeps, so that time does not count."""
    host = Host(max_call_seconds=10.0, idle_seconds=5.0)
    plain, streaming = host.peer(), host.peer()
    lease, stream = plain.leads("key"), streaming.leads("stream", stream=True)
    streaming.appends(stream, "a")
    host.passes(2.0)
    host.now += 3600.0
    host.happens(ClocksStepped(3600.0, 0.0))
    host.passes(2.0)
    plain.asks(Renew(lease, id=5))
    streaming.asks(Renew(stream, id=5))

    assert plain.receives() == streaming.receives() == [Ok(5)]


def test_health_names_the_holder_until_it_reports() -> None:
    """`health` has task, backend, pid and seconds of a hung call until its holder reports or disconnects."""
    host = Host(max_call_seconds=10.0, backends=LOCAL)
    hung, dying = host.peer(pid=7), host.peer(pid=8)
    lease = hung.leads("key", task="rag", backends=("local",))
    host.passes(1.0)
    other = dying.leads("other", task="chat")
    for _ in range(5):
        renews(host, hung, lease, 1)
        dying.asks(Renew(other, id=3))

    assert health(host).long_calls == [
        wire.LongCall("rag", "local", 1000, 7, 6.0, expired=False),
        wire.LongCall("chat", "default", 1000, 8, 5.0, expired=False),
    ]
    assert health(host).reasons == []
    for _ in range(6):
        renews(host, hung, lease, 1)
        dying.asks(Renew(other, id=3))

    reasons = health(host).reasons
    assert len(reasons) == 2
    assert "task 'rag' on backend 'local', by process 7" in reasons[0]
    assert [call.expired for call in health(host).long_calls] == [True, True]
    hung.asks(wire.Complete(lease, packed("late"), id=9))
    assert [call.pid for call in health(host).long_calls] == [8]
    dying.dies()
    assert health(host).long_calls == []


def test_remembered_hung_calls_are_bounded() -> None:
    """Further hung calls replace the oldest; sentences are few."""
    host = Host(max_call_seconds=10.0)
    hung = host.peer()
    for number in range(100):
        hung.leads(f"k{number}", number)

    host.passes(10.0)
    state = health(host)
    assert (len(state.long_calls), len(state.reasons)) == (32, 5)
    assert state.reasons[-1] == "60 further calls have made no progress."

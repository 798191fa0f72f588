"""Prefix affinity at a provider: which callers are held, and what ends each hold."""

from typing import Any

import pytest

from sidecard.core.backends.prefix_policy import PrefixChain
from sidecard.core.backends.prompt_caches.cache import Fit
from sidecard.core.events import Tick
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.host import Host, packed
from tests.prompts import LONG, Caller, Ending, digest, prompt, provider

ENDS_WITHOUT_OUTPUT: list[Ending] = ["transient", "fatal", "ignored", "cancelled", "withdrawn", "lost", "expired"]


def test_the_second_call_of_a_cold_prefix_waits_for_the_first_output() -> None:
    """The first one is asked to report its output; then all that waited proceed together."""
    host = provider()
    first = Caller(host, "a", "b")
    others = [Caller(host, "a", "c"), Caller(host, "a")]
    stranger = Caller(host, "d")
    assert first.granted().prefix
    assert stranger.granted().prefix
    assert all(other.waits for other in others)
    assert host.breakers()["a"].held == 2
    host.passes(2.0)
    first.starts()
    assert [other.granted().prefix for other in others] == [True, False]
    assert host.breakers()["a"].held == 0
    assert not Caller(host, "a", "b").granted().prefix


@pytest.mark.parametrize("how", ["completed", *ENDS_WITHOUT_OUTPUT])
def test_the_end_of_the_first_call_lets_others_proceed(how: Ending) -> None:
    """After an answer all proceed. After any other end one leads, and the others wait for it: the prefix is still cold."""
    host = provider(prefix_hold_seconds=50.0)
    first = Caller(host, "a")
    others = [Caller(host, "a") for _ in range(3)]
    assert [other.waits for other in others] == [True] * 3
    first.ends(how)
    expected = [False] * 3 if how == "completed" else [False, True, True]
    assert [other.waits for other in others] == expected
    assert others[0].granted().prefix == (how != "completed")


def test_the_first_chunk_of_a_stream_is_its_first_output() -> None:
    """A stream needs no report of its own."""
    host = provider()
    leader = host.peer()
    lease = leader.leads("key", stream=True, backends=("a",), **prompt("a"))
    other = Caller(host, "a")
    assert other.waits
    leader.appends(lease, "chunk")
    other.granted()


def test_a_shorter_prefix_that_is_available_may_leave_too_little_to_wait_for() -> None:
    """Else a caller that comes later, and does not wait, would overtake one that does."""
    host = provider()
    lengths: dict[str, Any] = {"prefix": (digest("a"), digest("b")), "prefix_bytes": (LONG, LONG + 400)}
    host.peer().calls("a", **lengths)
    held = host.peer()
    held.asks(wire.Begin(None, id=1, backends=("a",), **lengths))
    further = Caller(host, "a", "c")
    impatient = Caller(host, "a", wait_seconds=0.0)
    assert host.breakers()["a"].held == 2
    assert held.receives() == [wire.Pending(1)]
    impatient.starts()
    held.gets(wire.Lease)
    further.granted()


def test_a_long_prefix_is_waited_for_although_a_shorter_one_is_available() -> None:
    """What is left is worth the wait."""
    host = provider()
    Caller(host, "a", "b").granted()
    held = Caller(host, "a", "b")
    impatient = Caller(host, "a", wait_seconds=0.0)
    impatient.starts()
    assert held.waits


def test_a_chunk_before_the_output_releases_no_held_caller() -> None:
    """Followers get it as any other; callers with the same prefix wait for the next chunk, for `started` or for the end."""
    for then in ("append", "started", "complete"):
        host = provider(prefix_hold_seconds=60.0)
        leader, follower = host.peer(), host.peer()
        lease = leader.leads("key", stream=True, backends=("a",), **prompt("a"))
        other = Caller(host, "a")
        follower.asks(wire.Begin("key", id=1, stream=True, backends=("a",), **prompt("a")))
        assert follower.receives() == [wire.Pending(1)]
        for text in ("created", "in progress"):
            leader.asks(wire.Append(lease, packed(text), output=False, id=3))
            assert other.waits
            assert host.breakers()["a"].held == 1

        assert follower.reads()[0] == ["created", "in progress"]
        match then:
            case "append":
                leader.appends(lease, "output")
            case "started":
                leader.asks(wire.Started(lease, id=4))
            case _:
                leader.asks(wire.Complete(lease, id=4))

        other.granted()


def test_a_call_that_fails_before_its_output_leaves_its_prefix_cold() -> None:
    """Although it has sent a chunk: the next caller leads, and the others wait for it."""
    host = provider(prefix_hold_seconds=60.0)
    leader = host.peer()
    lease = leader.leads("key", stream=True, backends=("a",), **prompt("a"))
    others = [Caller(host, "a") for _ in range(2)]
    leader.asks(wire.Append(lease, packed("created"), output=False, id=3))
    leader.fails(lease, "transient")
    assert [other.waits for other in others] == [False, True]
    assert others[0].granted().prefix


def test_a_report_of_the_first_output_needs_a_current_lease() -> None:
    """`started` has no reply, except for a lease that is not current; a repeated one changes nothing."""
    host = provider()
    first = Caller(host, "a")
    first.starts()
    first.starts()
    assert first.actor.receives() == []
    lease = first.granted().lease
    first.completes()
    first.actor.receives()
    first.actor.asks(wire.Started(lease, id=5))
    assert first.actor.receives() == [wire.StaleLease(5)]


@pytest.mark.parametrize(("wait_seconds", "held_seconds"), [(None, 10.0), (8.0, 4.0)])
def test_a_hold_ends_with_its_time(wait_seconds: float | None, held_seconds: float) -> None:
    """A caller waits for ``prefix_hold_seconds``, but never for more than half of its own wait."""
    host = provider()
    first = Caller(host, "a")
    host.passes(3.0)
    other = Caller(host, "a", wait_seconds=wait_seconds)
    host.passes(held_seconds - 0.01)
    assert other.waits
    host.passes(0.01)
    other.granted()
    first.granted()
    assert host.samples()["sidecard_prefix_holds_total backend=a"] == 1
    assert host.samples()["sidecard_prefix_hold_seconds_sum backend=a"] == pytest.approx(held_seconds)


def test_a_caller_that_cannot_wait_is_not_held() -> None:
    """No deadline is missed, and no stale answer is served, for the sake of a prompt."""
    host = provider()
    Caller(host, "a")
    Caller(host, "a", wait_seconds=0.0).granted()
    host = provider(prefix_hold_seconds=0.0)
    Caller(host, "a")
    Caller(host, "a").granted()


def test_a_caller_is_not_held_if_no_one_may_wait() -> None:
    """A full table of waiters, or a full queue, rejects no caller for the sake of a prompt."""
    backend = BackendSettings(prefix_affinity="provider", max_queue=1)
    host = Host(backends={"a": backend}, spare_share=0.0)
    Caller(host, "a")
    assert Caller(host, "a").waits
    Caller(host, "a").granted()


@pytest.mark.parametrize("how", ["open", "drain", "reload"])
def test_a_held_caller_is_served_or_rejected_at_once(how: str) -> None:
    """An opened breaker and a drain reject it; settings without affinity let it go."""
    host = provider()
    Caller(host, "a")
    other = Caller(host, "a")
    assert other.waits
    match how:
        case "open":
            host.sets("a", "open")
        case "drain":
            host.drains()
        case _:
            host.reads(backends={"a": BackendSettings()})

    assert not other.waits
    assert (other.lease is not None) == (how == "reload")
    assert host.breakers()["a"].held == 0


def test_a_reload_keeps_what_was_processed() -> None:
    """Other limits of the same mode forget no prefix, and what a caller waited counts."""
    host = provider()
    first = Caller(host, "a")
    other = Caller(host, "a")
    host.passes(4.0)
    host.reads(backends={"a": BackendSettings(prefix_affinity="provider", prefix_hold_seconds=6.0)})
    assert other.waits
    host.passes(2.0)
    other.granted()
    first.starts()
    host.reads(backends={"a": BackendSettings(prefix_affinity="provider")})
    assert not Caller(host, "a").granted().prefix


def test_a_change_of_mode_forgets_what_was_processed() -> None:
    """Calls in progress end as before."""
    host = provider()
    first = Caller(host, "a")
    host.reads(backends={"a": BackendSettings(prefix_affinity="slots", slots=2)})
    first.starts()
    first.completes()
    assert host.breakers()["a"].warm_prefixes == 0
    assert sum(host.engine.memory.by_uid().values()) == 0


def test_a_warm_prefix_expires_after_its_last_use() -> None:
    """Each use renews it."""
    host = provider(prefix_lifetime_seconds=100.0)
    Caller(host, "a").completes()
    host.passes(99.0)
    second = Caller(host, "a")
    assert not second.granted().prefix
    second.completes()
    host.passes(99.0)
    assert host.breakers()["a"].warm_prefixes == 1
    host.passes(1.0)
    assert host.breakers()["a"].warm_prefixes == 0
    assert sum(host.engine.memory.by_uid().values()) == 0
    assert Caller(host, "a").granted().prefix


def test_short_beginnings_do_not_count() -> None:
    """Those of less than ``prefix_min_tokens`` are neither waited for nor kept, nor is a gain of less."""
    host = provider(prefix_min_tokens=1000)
    Caller(host, "a", step=3_999)
    Caller(host, "a", step=3_999).granted()
    Caller(host, "b", "c", step=4_000).completes()
    assert host.breakers()["a"].warm_prefixes == 2
    Caller(host, "b", "c", "d", step=3_000)
    Caller(host, "b", "c", "d", step=3_000).granted()


def test_a_prompt_of_unknown_length_counts() -> None:
    """Without ``prefix_bytes`` each prefix is long enough."""
    host = provider()
    alice, bob = host.peer(), host.peer()
    assert alice.calls("a", prefix=(digest("a"), digest("b"))).prefix
    bob.asks(wire.Begin(None, id=1, backends=("a",), prefix=(digest("a"), digest("b"))))
    assert bob.receives() == [wire.Pending(1)]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prefix": ("A" * 32,)}, "hexadecimal"),
        ({"prefix": ("a" * 32, "a" * 32)}, "repeated"),
        ({"prefix": ("a" * 32,), "prefix_bytes": (1, 2)}, "2 numbers for 1 digests"),
        ({"prefix_bytes": (1,)}, "1 numbers for 0 digests"),
        ({"prefix": ("a" * 32, "b" * 32), "prefix_bytes": (2, 1)}, "must ascend"),
        ({"prefix": ("a" * 32, "b" * 32), "prefix_bytes": (2, 2)}, "must ascend"),
    ],
)
def test_malformed_prefixes_are_rejected(fields: dict[str, Any], problem: str) -> None:
    """The error says what is wrong; the begin counts as none."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.Begin("key", id=1, **fields))
    reply = alice.gets(wire.Error)
    assert reply.code == "bad_request"
    assert problem in reply.message
    assert host.stats().begins == 0


def test_users_do_not_learn_of_each_others_prompts() -> None:
    """Equal digests of two uids are two prefixes; in a shared namespace they are one."""
    host = provider()
    Caller(host, "a", uid=1)
    Caller(host, "a", uid=2).granted()
    eve = host.peer(2)
    eve.asks(wire.Explain(prefix=(digest("a"), digest("b"))))
    assert eve.gets(wire.Explained).prefixes["a"].states == ("processing", "cold")


def test_explain_shows_the_state_of_each_prefix() -> None:
    """Only backends with affinity are shown."""
    host = Host(backends={"a": BackendSettings(prefix_affinity="provider"), "b": BackendSettings()})
    Caller(host, "a").completes()
    Caller(host, "a", "b")
    alice = host.peer()
    alice.asks(wire.Explain(key="key", prefix=tuple(map(digest, "abc"))))
    explained = alice.gets(wire.Explained)
    assert explained.prefixes == {"a": wire.BackendPrefixes("provider", 1024, ("warm", "processing", "cold"))}
    alice.asks(wire.Explain())
    assert alice.gets(wire.Explained).prefixes == {}


def test_a_second_call_that_processes_a_prefix_keeps_it_processing() -> None:
    """A first call that fails after another caller's hold has ended wakes no one: that caller's call goes on."""
    host = provider()
    first = Caller(host, "a")
    host.passes(1.0)
    second = Caller(host, "a")
    host.passes(5.0)
    third = Caller(host, "a")
    host.passes(5.0)
    second.granted()
    first.ends("transient")
    assert third.waits
    second.starts()
    third.granted()


def test_a_held_caller_does_not_take_another_backend() -> None:
    """It waits where its prompt is processed; if that backend closes, the next one gets it."""
    backends = {"a": BackendSettings(prefix_affinity="provider"), "b": BackendSettings()}
    host = Host(backends=backends)
    Caller(host, "a")
    alice = host.peer()
    alice.asks(wire.Begin(None, id=1, backends=("a", "b"), **prompt("a")))
    assert alice.receives() == [wire.Pending(1)]
    host.sets("a", "open")
    assert alice.gets(wire.Lease).backend == "b"


def test_what_the_backend_reports_is_counted() -> None:
    """Cached tokens count only where they are reported."""
    host = provider()
    Caller(host, "a").completes(prompt_tokens=1000, completion_tokens=1)
    assert host.breakers()["a"].cached_prompt_share is None
    Caller(host, "a").completes(prompt_tokens=1000, cached_prompt_tokens=750)
    Caller(host, "a").completes(prompt_tokens=1000, cached_prompt_tokens=250)
    assert host.breakers()["a"].cached_prompt_share == 0.5
    samples = host.samples()
    assert samples["sidecard_prompt_tokens_total backend=a kind=cached"] == 1000
    assert samples["sidecard_prompt_tokens_total backend=a kind=processed"] == 2000
    assert samples["sidecard_prefix_warm backend=a"] == 1


def test_a_full_table_drops_the_oldest_prefix_of_the_uid_with_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uid with many prompts does not displace those of others."""
    monkeypatch.setattr("sidecard.core.backends.prompt_caches.provider.MAX_WARM", 4)
    host = provider()
    for uid, name in ((2, "a"), (1, "b"), (1, "c"), (1, "d"), (1, "e")):
        Caller(host, name, uid=uid).completes()

    assert host.breakers()["a"].warm_prefixes == 4
    states: list[wire.PrefixState] = []
    for uid, names in ((2, "a"), (1, "bcde")):
        peer = host.peer(uid)
        peer.asks(wire.Explain(prefix=tuple(map(digest, names))))
        states += peer.gets(wire.Explained).prefixes["a"].states

    assert states == ["warm", "cold", "warm", "warm", "warm"]


def test_every_answer_of_a_batch_and_every_late_one_is_counted() -> None:
    """As in the ledger: the backend did the work."""
    host = provider()
    alice = host.peer()
    usage = wire.Usage(prompt_tokens=1000, cached_prompt_tokens=500)
    leases = [alice.calls("a", request_id=number, batch=1) for number in (1, 2)]
    for lease in leases:
        alice.completes(lease.lease, "x", usage=usage)

    late = alice.calls("a").lease
    host.passes(15.0)
    alice.asks(wire.Complete(late, packed("x"), usage, id=3))
    alice.gets(wire.StaleLease)
    assert host.breakers()["a"].cached_prompt_share == 0.5
    samples, spent = host.samples(), host.report().backends["a"]
    assert samples["sidecard_prompt_tokens_total backend=a kind=cached"] == spent.cached_prompt_tokens == 1500
    assert samples["sidecard_prompt_tokens_total backend=a kind=processed"] == spent.processed_prompt_tokens == 1500


def test_a_crowd_that_has_waited_for_one_prompt_proceeds_in_parts() -> None:
    """No event makes hundreds of grants: other peers have their turn between the parts, which are due at once."""
    host = provider()
    first, crowd = Caller(host, "a"), host.peer()
    for number in range(512):
        crowd.asks(wire.Begin(None, id=number, backends=("a",), **prompt("a", f"{number}")))

    assert set(map(type, crowd.receives())) == {wire.Pending}
    first.starts()
    parts = [len(crowd.receives())]
    while sum(parts) < 512:
        assert host.engine.next_deadline() == host.now
        host.happens(Tick())
        parts.append(len(crowd.receives()))

    assert max(parts) < 64
    assert host.breakers()["a"].queued == 0


def test_a_caller_that_joins_a_crowd_is_served_without_looking_at_all_of_it() -> None:
    """Begins of one batch take one place in the queue, so thousands may wait."""
    host = provider()
    Caller(host, "a")
    crowd = host.peer()
    affinity = host.engine._backends.of("a").affinity
    assert affinity is not None
    fits = 0
    find = affinity._cache.fit

    def count(chain: PrefixChain, now: float) -> Fit:
        nonlocal fits
        fits += 1
        return find(chain, now)

    affinity._cache.fit = count  # type: ignore[method-assign]  # counts the work
    queue = host.engine._backends.of("a").queue
    turns = queue.turns
    queue.turns = lambda: pytest.fail("looks at the whole queue")  # type: ignore[method-assign]  # see above
    for number in range(100):
        crowd.asks(wire.Begin(None, id=number, backends=("a",), batch=1, **prompt("a", f"{number}")))

    other = Caller(host, "b")
    other.granted()
    assert fits <= 3 * 101
    queue.turns = turns  # type: ignore[method-assign]  # see above
    assert host.breakers()["a"].held == 100

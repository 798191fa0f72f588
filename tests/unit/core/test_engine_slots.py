"""Prefix affinity on a model server: which call gets which slot, and when one is worth waiting for."""

import pytest

from sidecard.core.backends.prompt_caches.slots import SlotModel
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.host import packed
from tests.prompts import Caller, Ending, prompt, server


def test_calls_of_one_prefix_follow_one_another_while_others_use_the_other_slots() -> None:
    """At most one call of a prefix at a time: the first output does not help, only the slot does."""
    host = server(2)
    first, second, third = (Caller(host, "a") for _ in range(3))
    other = Caller(host, "b")
    first.granted()
    other.granted()
    assert second.waits
    assert third.waits
    first.starts()
    assert second.waits
    first.completes()
    assert not second.granted().prefix
    assert third.waits
    second.completes()
    third.granted()


def test_a_warm_caller_overtakes_within_its_uid() -> None:
    """The freed slot goes to the prompt that it has; the cold caller is served when no one is warm."""
    host = server(1)
    running = Caller(host, "a")
    cold, warm = Caller(host, "b"), Caller(host, "a")
    running.completes()
    warm.granted()
    assert cold.waits
    warm.completes()
    assert cold.granted().prefix


def test_the_longest_beginning_is_served_first() -> None:
    """Of two warm callers, the one with more in common; of equals, the one that came first."""
    host = server(1)
    running = Caller(host, "a", "b", "c")
    callers = [Caller(host, "a", "x"), Caller(host, "a", "b", "x"), Caller(host, "a", "b", "y")]
    running.completes()
    assert [caller.waits for caller in callers] == [True, False, True]


def test_a_caller_that_was_passed_over_long_enough_is_next() -> None:
    """``prefix_pass_seconds`` counts from the first time that another one was served before it."""
    host = server(1, prefix_pass_seconds=10.0)
    running = Caller(host, "a")
    cold = Caller(host, "b")
    host.passes(14.0)
    for seconds in (5.0, 4.9, 0.1):
        warm = Caller(host, "a")
        running.completes()
        assert cold.waits, "it was not passed over for so long"
        running = warm
        host.passes(seconds)

    warm = Caller(host, "a")
    running.completes()
    cold.granted()
    assert warm.waits


def test_another_uid_is_never_passed_over() -> None:
    """Uids take turns, whatever is warm; a uid whose callers are all held loses its turn only while they are."""
    host = server(1)
    running = Caller(host, "a", uid=1)
    warm = [Caller(host, "a", uid=1) for _ in range(3)]
    cold = [Caller(host, "b", uid=2) for _ in range(2)]
    order = []
    waiting = {**{f"warm {n}": one for n, one in enumerate(warm)}, **{f"cold {n}": one for n, one in enumerate(cold)}}
    while waiting:
        running.completes()
        (name,) = (name for name, caller in waiting.items() if caller.lease is not None)
        running = waiting.pop(name)
        order.append(name)

    assert order == ["warm 0", "cold 0", "warm 1", "cold 1", "warm 2"]


def test_a_caller_without_a_prompt_takes_the_slot_that_was_not_used_for_longest() -> None:
    """It is served in its turn, and what the slot had is gone."""
    host = server(2)
    a, b = Caller(host, "a"), Caller(host, "b")
    a.completes()
    host.passes(1.0)
    b.completes()
    plain = Caller(host)
    assert not plain.granted().prefix
    plain.completes()
    assert Caller(host, "a").granted().prefix
    assert not Caller(host, "b").granted().prefix


@pytest.mark.parametrize("how", ["transient", "fatal", "cancelled", "withdrawn", "lost", "expired"])
def test_a_failed_call_leaves_what_its_slot_had_before(how: Ending) -> None:
    """The prefix that both prompts share stays warm; callers that waited for the rest process it themselves."""
    host = server(2)
    Caller(host, "a").completes()
    failing = Caller(host, "a", "b")
    waiting = [Caller(host, "a", "b") for _ in range(2)]
    assert [caller.waits for caller in waiting] == [True, True]
    failing.ends(how)
    assert [caller.waits for caller in waiting] == [False, True]
    assert waiting[0].granted().prefix
    assert host.breakers()["a"].warm_prefixes == 1


def test_a_call_that_fails_after_its_first_output_has_processed_its_prompt() -> None:
    """Its slot has the whole prompt."""
    host = server(1)
    failing = Caller(host, "a")
    failing.starts()
    failing.ends("transient")
    assert not Caller(host, "a").granted().prefix


def test_a_short_beginning_of_a_long_prompt_is_not_waited_for() -> None:
    """Long documents after a short system text use all slots at once."""
    host = server(3)
    prompts = [{**prompt("a", name), "prefix_bytes": (4_000, 40_000)} for name in "bcd"]
    for fields in prompts:
        host.peer().calls("a", **fields)


def test_long_answers_use_idle_slots_as_more_callers_wait() -> None:
    """Until an answer is measured, callers wait. Then one more slot is used as soon as that takes less work in total."""
    host = server(4)
    warm_up = Caller(host, "x")
    warm_up.completes(prompt_tokens=10_000, completion_tokens=1_000)
    Caller(host, "a")
    callers = [Caller(host, "a") for _ in range(6)]
    # Work of a call: 4 * 1,000 tokens. A second slot saves n * 4,000 / 2 at the cost of 10,000 tokens, from n = 6 on.
    assert sum(not caller.waits for caller in callers) == 0
    host.passes(0.0)
    assert [caller.waits for caller in callers] == [False, *[True] * 5]


def test_answers_that_take_more_work_than_the_prompt_are_not_waited_for() -> None:
    """A caller that would wait for a long answer processes the prompt again in an idle slot."""
    host = server(2)
    Caller(host, "x").completes(prompt_tokens=10_000, completion_tokens=5_000)
    Caller(host, "a").granted()
    Caller(host, "a").granted()


def test_the_work_of_answers_is_measured() -> None:
    """Where an answer's token takes as long as one of the prompt, the same answers are worth waiting for."""
    host = server(2)
    first = Caller(host, "x")
    host.passes(10.0)
    first.starts()
    host.passes(5.0)
    first.completes(prompt_tokens=10_000, completion_tokens=5_001)
    Caller(host, "a")
    assert Caller(host, "a").waits


def test_no_caller_waits_for_a_slot_beyond_its_hold() -> None:
    """After ``prefix_hold_seconds`` an idle slot is used, although the prompt is processed again."""
    host = server(2, prefix_hold_seconds=12.0)
    Caller(host, "a")
    other = Caller(host, "a")
    host.passes(11.9)
    assert other.waits
    host.passes(0.1)
    assert other.granted().prefix


def test_slots_bound_the_calls_in_progress() -> None:
    """``slots`` is the limit, unless ``max_concurrent`` is less; without one, nothing else limits the calls."""
    for slots, most, limit in ((2, 0, 2), (2, 3, 2), (3, 2, 2)):
        host = server(most, slots=slots)
        callers = [Caller(host) for _ in range(4)]
        assert [caller.waits for caller in callers] == [False] * limit + [True] * (4 - limit)
        assert host.breakers()["a"].limit == limit


def test_a_reload_changes_the_number_of_slots() -> None:
    """Surplus slots leave when they are idle, the one that was not used for longest first; prompts stay in the others."""
    host = server(3)
    a, b, c = (Caller(host, name) for name in "abc")
    for caller in (a, b):
        host.passes(1.0)
        caller.completes()

    host.reads(backends={"a": BackendSettings(prefix_affinity="slots", max_concurrent=1)})
    assert host.breakers()["a"].warm_prefixes == 0
    assert Caller(host, "d").waits
    c.completes()
    assert host.breakers()["a"].permits == 1
    host.reads(backends={"a": BackendSettings(prefix_affinity="slots", max_concurrent=4)})
    assert [Caller(host, name).waits for name in "efg"] == [False] * 3
    assert Caller(host, "h").waits


def test_batches_use_one_slot() -> None:
    """The begins of a batch share a permit, and its slot is idle when the last of them has ended."""
    host = server(2)
    alice = host.peer()
    leases = [alice.calls("a", request_id=number, batch=1, **prompt("a")) for number in (1, 2)]
    assert [lease.prefix for lease in leases] == [True, False]
    other = Caller(host, "a")
    alice.completes(leases[0].lease, "x")
    assert other.waits
    alice.completes(leases[1].lease, "x")
    other.granted()


def test_explain_shows_prompts_in_busy_slots() -> None:
    """A prompt is warm once its call had an output."""
    host = server(1)
    caller = Caller(host, "a")
    alice = host.peer()

    def states() -> tuple[wire.PrefixState, ...]:
        alice.asks(wire.Explain(prefix=prompt("a", "b")["prefix"]))
        return alice.gets(wire.Explained).prefixes["a"].states

    assert states() == ("processing", "cold")
    caller.starts()
    assert states() == ("warm", "cold")
    caller.completes()
    assert states() == ("warm", "cold")


def test_a_prompt_in_a_slot_expires_if_it_has_a_lifetime() -> None:
    """By default it stays until another prompt replaces it."""
    for lifetime_seconds, cold in ((None, False), (100.0, True)):
        host = server(1, prefix_lifetime_seconds=lifetime_seconds)
        Caller(host, "a").completes()
        host.passes(100.0)
        assert host.breakers()["a"].warm_prefixes == (not cold)
        assert Caller(host, "a").granted().prefix == cold


@pytest.mark.parametrize(
    "lie",
    [
        {"completion_tokens": 2**53},
        {"completion_tokens": 9, "first_chunk_seconds": 0.0},
        {"completion_tokens": 2**53, "first_chunk_seconds": 0.0},
    ],
)
def test_one_false_report_does_not_decide_who_waits(lie: dict[str, float]) -> None:
    """An answer of any length, or one in no time, changes nothing for the callers of honest ones."""
    host = server(2)
    for number in range(6):
        caller = Caller(host, f"{number}")
        host.passes(1.08)
        usage = {"completion_tokens": 9, "first_chunk_seconds": 1.0}
        caller.completes(prompt_tokens=1000, cached_prompt_tokens=0, **(lie if number == 3 else usage))

    running = Caller(host, "a", "b")
    running.granted()
    assert Caller(host, "a", "b").waits
    affinity = host.engine._backends.of("a").affinity
    assert affinity is not None
    assert isinstance(affinity._cache, SlotModel)
    cost = affinity._cache._cost
    assert cost.tokens == pytest.approx(9 * cost.ratio)
    assert cost.ratio == pytest.approx(10)


def test_a_process_that_lost_its_turns_gets_all_of_them_back() -> None:
    """Its callers are passed over together, and not one after another for ``prefix_pass_seconds`` each."""
    host = server(1, prefix_pass_seconds=10.0)
    busy, other = host.peer(pid=1), host.peer(pid=2)
    for number in range(30):
        busy.asks(wire.Begin(None, id=number, backends=("a",), **prompt("warm", f"{number}")))

    for number in range(5):
        other.asks(wire.Begin(None, id=number, backends=("a",), **prompt(f"cold {number}")))

    served = []
    for number in range(30, 70):
        actor, lease = next(
            (actor, reply.lease)
            for actor in (busy, other)
            for reply in actor.receives()
            if isinstance(reply, wire.Lease)
        )
        served.append(actor is other)
        busy.asks(wire.Begin(None, id=number, backends=("a",), **prompt("warm", f"{number}")))
        host.passes(0.5)
        actor.asks(wire.Complete(lease, packed("x")))

    assert served.index(True) >= 20
    assert sum(served[20:30]) == 5

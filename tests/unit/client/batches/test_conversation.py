"""The decisions of a batch, around a real engine: one upstream call for what is missing, and nothing held while waiting."""

import gc
import threading
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from sidecard_client.batches.batch import LARGEST_BATCH, batch_of, divided, listed, template_of, usage_shares
from sidecard_client.batches.conversation import GROUP
from sidecard_client.call.call import prepare
from sidecard_client.call.commands import Raised
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallFailed, CallRejected, UnkeyableRequest, WrongAnswers
from tests.batch_callers import BatchCaller, Upstream, shout
from tests.host import Host


class Interruption(BaseException):
    """A cancellation, or Ctrl-C."""


@pytest.fixture
def upstream() -> Upstream:
    """A backend that answers."""
    return Upstream()


def test_missing_inputs_are_one_upstream_call_in_order(upstream: Upstream) -> None:
    """Known inputs are hits, duplicates are asked once, and every answer is in its input's place."""
    host = Host()
    first = BatchCaller(host, upstream, ["a", "b"])
    first.runs()
    caller = BatchCaller(host, upstream, ["c", "a", "d", "c"])
    caller.runs()

    assert caller.values == ["C", "A", "D", "C"]
    assert caller.sources == ["upstream", "cache", "upstream", "upstream"]
    assert upstream.calls == [["a", "b"], ["c", "d"]]
    assert host.stats().leases == 0


def test_a_batch_takes_two_round_trips_for_a_group(upstream: Upstream) -> None:
    """All begins of a group are sent together, and so are the answers."""
    caller = BatchCaller(Host(), upstream, [str(number) for number in range(GROUP)])
    caller.runs()
    assert caller.rounds == 2


def test_thousands_of_inputs_are_few_upstream_calls(upstream: Upstream) -> None:
    """Each call has ``max_batch`` missing inputs, whatever was stored between them."""
    host = Host()
    BatchCaller(host, upstream, [str(number) for number in range(0, 3000, 2)], max_batch=2000).runs()
    caller = BatchCaller(host, upstream, [str(number) for number in range(3000)], max_batch=700)
    caller.runs()

    assert caller.values == [str(number) for number in range(3000)]
    assert [len(call) for call in upstream.calls] == [1500, 700, 700, 100]


def test_overlapping_batches_in_opposite_orders_both_end(upstream: Upstream) -> None:
    """1. A leads x; 2. B leads y and waits for x; 3. A waits for y; 4. both call; 5. each answers the other."""
    host = Host()
    a = BatchCaller(host, upstream, ["x", "y"], max_batch=1)
    b = BatchCaller(host, upstream, ["y", "x"], max_batch=1)
    for caller in (a, b, a, b):
        caller.step()  # the begin of the first input, and its lease

    for caller in (a, b) * 20:
        caller.step()

    assert (a.values, b.values) == (["X", "Y"], ["Y", "X"])
    assert sorted(upstream.inputs) == ["x", "y"]


def test_inputs_in_flight_elsewhere_are_awaited_after_the_own_call(upstream: Upstream) -> None:
    """B's call for y is made while A's call for x runs."""
    host = Host()
    a = BatchCaller(host, upstream, ["x"])
    for _ in range(3):
        a.step()

    b = BatchCaller(host, upstream, ["x", "y"])
    b.runs()
    assert upstream.calls == [["x"], ["y"]]
    assert not b.ended
    a.runs()
    b.runs()
    assert (b.values, b.sources) == (["X", "Y"], ["shared", "upstream"])


def test_elected_inputs_are_one_further_upstream_call(upstream: Upstream) -> None:
    """The holder of three inputs dies: one of its waiters makes one call for all three."""
    host = Host()
    a = BatchCaller(host, upstream, ["x", "y", "z"])
    for _ in range(3):
        a.step()

    b = BatchCaller(host, upstream, ["x", "y", "z", "own"])
    b.runs()
    a.dies()
    b.runs()

    assert b.values == ["X", "Y", "Z", "OWN"]
    assert upstream.calls[1:] == [["own"], ["x", "y", "z"]]


def test_a_failed_batch_raises_and_keeps_what_was_obtained(upstream: Upstream) -> None:
    """With one input in each call: the first is stored, the second fails, the third is not asked."""
    host, down = Host(), ConnectionError("down")
    upstream.errors = [None, down]
    caller = BatchCaller(host, upstream, ["a", "b", "c"], max_batch=1)
    caller.runs()

    assert caller.result == Raised(down)
    assert upstream.calls == [["a"], ["b"]]
    stats = host.stats()
    assert (stats.leases, stats.flights, stats.waiters, stats.cache_entries) == (0, 0, 0, 1)


def test_failure_for_good_of_several_inputs_fails_no_other_caller(upstream: Upstream) -> None:
    """One text of A's list is refused. B, which waits for another one of them, makes its own call, which is stored."""
    host = Host()
    upstream.errors = [ValueError("text 1 is too long")]
    a = BatchCaller(host, upstream, ["good", "bad"], failure_ttl=60)
    a.step(), a.step(), a.step()
    b = BatchCaller(host, upstream, ["good"])
    b.runs()
    a.runs()
    b.runs()

    assert isinstance(a.result, Raised)
    assert (b.values, b.sources) == (["GOOD"], ["upstream"])
    assert host.stats().cache_entries == 1


def test_more_failures_than_elections_fail_no_other_caller(upstream: Upstream) -> None:
    """Three batches fail with the input that the last one waits for, which begins again."""
    host = Host(max_elections=1)
    upstream.errors = [ValueError("bad")] * 3
    failing = [BatchCaller(host, upstream, ["good", f"bad{number}"]) for number in range(3)]
    for caller in failing:
        caller.step(), caller.step(), caller.step()

    last = BatchCaller(host, upstream, ["good"])
    for _ in range(30):
        for caller in (*failing, last):
            caller.step()

    assert last.values == ["GOOD"]


def test_failure_for_good_of_one_input_is_that_input_s(upstream: Upstream) -> None:
    """A waiter of the only input in a call shares its failure, as with `call`."""
    host = Host()
    upstream.errors = [ValueError("too long")]
    a = BatchCaller(host, upstream, ["bad"])
    a.step(), a.step(), a.step()
    b = BatchCaller(host, upstream, ["bad", "good"])
    b.runs()
    a.runs()
    b.runs()

    assert isinstance(b.result, Raised)
    assert isinstance(b.result.error, CallFailed)
    assert b.result.error.kind == "fatal"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: ["A"], r"returned a list of 1 for 2 inputs"),
        (lambda _: [], r"returned a list of 0 for 2 inputs"),
        (lambda _: ["A", "B", "C"], r"returned a list of 3 for 2 inputs"),
        (lambda _: "AB", r"returned a str for 2 inputs"),
        (lambda _: {"a": "A", "b": "B"}, r"returned a dict for 2 inputs"),
        (lambda _: {"A", "B"}, r"returned a set for 2 inputs"),
        (lambda _: None, r"returned a NoneType for 2 inputs"),
    ],
)
def test_wrong_answers_are_an_error_and_leases_are_given_back(upstream: Upstream, answer: Any, said: str) -> None:
    """What is no list of one answer for each input gives no input an answer."""
    host = Host()
    caller = BatchCaller(host, upstream, ["a", "b"], function=answer, name="f")
    caller.runs()

    assert isinstance(caller.result, Raised)
    with pytest.raises(WrongAnswers, match=said):
        raise caller.result.error

    assert (host.stats().leases, host.stats().cache_entries) == (0, 0)


def test_any_iterable_of_answers_will_do(upstream: Upstream) -> None:
    """A generator and a tuple have one answer for each input, too."""
    host = Host()
    functions: list[Callable[..., Any]] = [tuple, lambda inputs: (one for one in inputs)]
    for number, function in enumerate(functions):
        caller = BatchCaller(host, upstream, ["a", "b"], function=function, name=f"f{number}")
        caller.runs()
        assert caller.values == ["a", "b"]


def test_a_function_may_change_the_list_that_it_gets(upstream: Upstream) -> None:
    """The function may change its list: neither the inputs nor the division of the usage depend on it."""

    def take_all(inputs: list[str]) -> list[str]:
        return [inputs.pop(0).upper() for _ in range(len(inputs))]

    given = ["a", "b"]
    caller = BatchCaller(Host(), upstream, given, function=take_all, usage=lambda _: wire.Usage("m", 10))
    caller.runs()

    assert (caller.values, given) == (["A", "B"], ["a", "b"])


@pytest.mark.parametrize("steps", range(7))
def test_interruption_gives_everything_back(upstream: Upstream, steps: int) -> None:
    """After a cancellation at any step, the daemon holds nothing for the batch, and a waiter gets the lease."""
    host = Host()
    other = BatchCaller(host, upstream, ["x"])
    other.step(), other.step(), other.step()
    caller = BatchCaller(host, upstream, ["x", "y"])
    for _ in range(steps):
        caller.step()

    if caller.ended:
        return

    waiter = BatchCaller(host, upstream, ["y"])
    waiter.runs()
    caller.interrupted(Interruption())
    other.runs()
    waiter.runs()

    assert isinstance(caller.error, Interruption)
    assert waiter.values == ["Y"]
    stats = host.stats()
    assert (stats.leases, stats.flights, stats.waiters) == (0, 0, 0)


def test_a_lost_connection_begins_again(upstream: Upstream) -> None:
    """Inputs without a reply begin again over another connection."""
    host = Host()
    caller = BatchCaller(host, upstream, ["a", "b"])
    caller.step()
    caller.loses_connection()
    caller.runs()
    assert caller.values == ["A", "B"]
    assert upstream.calls == [["a", "b"]]


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_of_a_lost_connection_is_canceled_over_the_next_one(upstream: Upstream, interrupted: bool) -> None:
    """There, its ids are those of other calls. The answer to a is sent, and b waits, when the connection ends."""
    host = Host()
    other = BatchCaller(host, upstream, ["b"])
    other.step(), other.step()
    caller = BatchCaller(host, upstream, ["a", "b", *map(str, range(GROUP))])
    while not any(isinstance(request, wire.Complete) for request in caller.sent):
        caller.step()

    caller.loses_connection()
    caller.step(), caller.step()
    if interrupted:
        caller.interrupted(Interruption())

    other.runs()
    caller.runs()
    assert not [request for request in caller.sent if isinstance(request, wire.Cancel) and request.target < GROUP]
    assert interrupted or "B" in caller.values


@pytest.mark.parametrize("errors", [[], [ValueError("bad")]])
def test_batch_is_freed_when_it_ends(upstream: Upstream, errors: list[BaseException | None]) -> None:
    """Its inputs and answers may be large, and vectors of numbers do not trigger the garbage collector."""

    class Text(str):
        __slots__ = ("__weakref__",)

    upstream.errors = errors
    caller = BatchCaller(Host(), upstream, [Text("a"), Text("b")], usage=lambda _: None)
    kept = [ref(text) for text in caller.inputs]
    gc.collect()
    gc.disable()
    try:
        caller.runs()
        assert caller.ended
        upstream.calls.clear()
        del caller
        assert [text() for text in kept] == [None, None]
    finally:
        gc.enable()


def test_usage_is_divided_exactly(upstream: Upstream) -> None:
    """The sums of tokens and dollars are those of the call."""
    host = Host()
    usage = wire.Usage("m", 100, None, 0.7)
    caller = BatchCaller(host, upstream, ["a", "bb", "cccc"], usage=lambda _: usage)
    caller.runs()
    shares = [request.usage for request in caller.sent if isinstance(request, wire.Complete)]

    assert [share.prompt_tokens for share in shares if share] == [14, 29, 57]
    assert host.report().total.billed_dollars == pytest.approx(0.7, abs=1e-15)


def test_hooks_judge_each_answer(upstream: Upstream) -> None:
    """``valid`` and ``store`` get one answer: those that they reject reach their caller and are not stored."""
    host = Host()
    policy: dict[str, Any] = {"valid": lambda value: value != "B", "store": lambda value: value != "C"}
    for sources in (["upstream", "upstream", "upstream"], ["cache", "upstream", "upstream"]):
        caller = BatchCaller(host, upstream, ["a", "b", "c"], **policy)
        caller.runs()
        assert (caller.values, caller.sources) == (["A", "B", "C"], sources)

    assert upstream.calls == [["a", "b", "c"], ["b", "c"]]


def test_only_if_cached_makes_no_call(upstream: Upstream) -> None:
    """A missing input is rejected as with `call`."""
    caller = BatchCaller(Host(), upstream, ["a"], mode="only_if_cached")
    caller.runs()
    assert isinstance(caller.result, Raised)
    assert isinstance(caller.result.error, CallRejected)
    assert upstream.calls == []


def test_without_a_daemon_a_process_asks_each_input_once(upstream: Upstream) -> None:
    """Batches of one process with the same inputs in opposite orders share, and none waits for ever."""
    flights = LocalFlights(threading.Event)
    callers = [
        BatchCaller(None, upstream, inputs, flights=flights)
        for inputs in (["x", "y", "a"], ["y", "x", "b"], ["a", "b", "x"])
    ]
    for _ in range(40):
        for caller in callers:
            caller.step()

    assert [caller.values for caller in callers] == [["X", "Y", "A"], ["Y", "X", "B"], ["A", "B", "X"]]
    assert sorted(upstream.inputs) == ["a", "b", "x", "y"]
    assert len(flights) == 0


def test_an_election_is_seen_while_another_call_of_the_process_runs(upstream: Upstream) -> None:
    """1. a batch waits for x and y; 2. the call for y fails; 3. the batch calls for y, although x is not answered yet."""
    flights = LocalFlights(threading.Event)
    x, y = (BatchCaller(None, upstream, inputs, flights=flights) for inputs in (["x"], ["y"]))
    for leader in (x, y):
        leader.step()

    waiter = BatchCaller(None, upstream, ["x", "y"], flights=flights)
    waiter.runs()
    upstream.errors = [ConnectionError("down")]
    y.runs()
    waiter.runs()
    assert upstream.calls == [["y"], ["y"]]
    x.runs()
    waiter.runs()
    assert waiter.values == ["X", "Y"]


def test_key_is_that_of_a_call_only_under_a_common_name() -> None:
    """Without ``name=`` a text and a list of one text mean different things to one function; with it they are declared equal."""
    options = Options()

    def key(name: str | None) -> str | None:
        template = template_of(options, shout, ["a"], {"name": name}, 10)
        assert template is not None
        return batch_of(template, ["a"], 10, None).calls[0].key

    assert key(None) != prepare(options, shout, ("a",), {}).key
    assert key("shout") == prepare(options, lambda text: text.upper(), ("a",), {"name": "shout"}).key


@pytest.mark.parametrize(
    ("keywords", "max_batch", "said"),
    [
        ({"key": "k"}, 10, "key= is the key of one answer"),
        ({}, 0, f"max_batch= must be 1 to {LARGEST_BATCH}, not 0"),
        ({}, "10", "max_batch= must be a whole number, not str"),
        ({}, True, "max_batch= must be a whole number, not bool"),
    ],
)
def test_wrong_policy_is_refused(keywords: dict[str, Any], max_batch: Any, said: str) -> None:
    """The message names the keyword."""
    with pytest.raises((TypeError, ValueError), match=said):
        template_of(Options(), shout, ["a"], keywords, max_batch)


@pytest.mark.parametrize("inputs", ["text", b"text", {"a": 1}])
def test_one_text_is_no_list_of_inputs(inputs: Any) -> None:
    """A text, bytes or a mapping in place of the list raises `TypeError`."""
    with pytest.raises(TypeError, match="The inputs must be a list"):
        listed(inputs)


def test_nothing_is_asked_for_no_inputs() -> None:
    """Without inputs, no call is prepared."""
    assert template_of(Options(), shout, [], {}, 10) is None


def test_an_input_without_a_stable_form_is_named() -> None:
    """The error has the input's number."""
    template = template_of(Options(), shout, ["a"], {}, 10)
    assert template is not None
    with pytest.raises(UnkeyableRequest, match=r"^Input 2: shout: \w+ is NaN"):
        batch_of(template, ["a", "b", float("nan")], 10, None)


@pytest.mark.parametrize("total", [0, 1, 7, 100, 12345])
@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [5, 1, 9, 2], list(range(1, 60))])
def test_division_is_exact(total: int, weights: list[int]) -> None:
    """No part is more than one off its share, and the sum is the total."""
    parts = divided(total, weights)
    assert sum(part or 0 for part in parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert part is not None
        assert abs(part - total * weight / sum(weights)) < 1


def test_usage_of_a_call_is_the_sum_over_its_inputs() -> None:
    """Every count and the dollars, also the tokens that the provider's cache read or wrote."""
    whole = wire.Usage("m", 101, 53, 0.7, 0.25, cached_prompt_tokens=64, cache_write_prompt_tokens=11)
    shares = [share for share in usage_shares(whole, ["a", "four", "seven!!"]) if share is not None]
    for name in ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "cache_write_prompt_tokens"):
        assert sum(getattr(share, name) for share in shares) == getattr(whole, name), name

    assert sum(share.cost_dollars or 0 for share in shares) == pytest.approx(0.7)
    assert {(share.model, share.first_chunk_seconds) for share in shares} == {("m", 0.25)}


def test_usage_without_numbers_has_none() -> None:
    """A usage without counts is divided into usages without counts."""
    assert usage_shares(None, ["a", "b"]) == [None, None]
    assert usage_shares(wire.Usage("m"), ["a"]) == [wire.Usage("m")]

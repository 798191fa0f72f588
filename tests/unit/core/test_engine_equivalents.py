"""Several backends with prefix affinity: a prompt prefers the one that has processed it, within a bounded load."""

from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from sidecard.core.settings import BackendSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Actor, Host, packed
from tests.prompts import prompt

AFFINE = BackendSettings(prefix_affinity="provider", prefix_hold_seconds=0.0)
NAMES = ("a", "b", "c")


def call(peer: Actor, *names: str, request_id: int = 1, route: wire.Route | None = None) -> wire.Lease:
    """Begin a call whose prompt has these prefixes on any of three backends, and return its lease."""
    return peer.calls(*NAMES, request_id=request_id, route=route, **prompt(*names))


@pytest.mark.parametrize("route", ["order", "least_busy", "weighted"])
def test_a_prompt_goes_to_the_backend_that_has_processed_it(route: wire.Route) -> None:
    """One call at a time: all calls that share a prefix meet at one backend, and other calls spread."""
    host = Host(backends=dict.fromkeys(NAMES, AFFINE))
    peer, chosen = host.peer(), Counter[str]()
    for number in range(30):
        places = set()
        for question in "xyz":
            lease = call(peer, f"system {number}", f"question {number} {question}", route=route)
            places.add(lease.backend)
            peer.completes(lease.lease, "x")

        (place,) = places
        chosen[place] += 1

    assert set(chosen) == set(NAMES)


def test_a_popular_prompt_does_not_overload_its_backend() -> None:
    """No backend has more than 1.25 times its share of the calls, rounded up."""
    host = Host(backends=dict.fromkeys(NAMES, AFFINE))
    peer, calls = host.peer(), Counter[str]()
    for number in range(1, 25):
        calls[call(peer, "popular", request_id=number).backend] += 1
        assert max(calls.values()) <= -(-1.25 * number // 3)

    assert len(calls) == 3


def test_shares_follow_limits_and_weights() -> None:
    """A backend with a larger limit, or under the route ``weighted`` a larger weight, gets as much more."""
    for settings, route in (({"max_concurrent": 16}, "least_busy"), ({"weight": 4.0}, "weighted")):
        large = BackendSettings(prefix_affinity="provider", prefix_hold_seconds=0.0, **settings)
        small = BackendSettings(
            prefix_affinity="provider", prefix_hold_seconds=0.0, max_concurrent=4 if route == "least_busy" else 0
        )
        host = Host(backends={"a": large, "b": small, "c": small})
        peer = host.peer()
        chosen = Counter(call(peer, "popular", request_id=number, route=route).backend for number in range(1, 19))  # type: ignore[arg-type]  # a route
        assert chosen["a"] >= 2 * max(chosen["b"], chosen["c"]), route


def test_routes_by_price_and_speed_stay_as_they_are() -> None:
    """They compare backends that are not equivalent."""
    cheap = BackendSettings(
        prefix_affinity="provider", input_dollars_per_million_tokens=1.0, output_dollars_per_million_tokens=1.0
    )
    dear = BackendSettings(
        prefix_affinity="provider", input_dollars_per_million_tokens=9.0, output_dollars_per_million_tokens=9.0
    )
    host = Host(backends={"a": dear, "b": cheap, "c": dear})
    peer = host.peer()
    for number in range(9):
        lease = call(peer, f"system {number}", route="cheapest")
        assert lease.backend == "b"
        peer.completes(lease.lease, "x")


@pytest.mark.parametrize(
    "first",
    [
        {"prefix_affinity": "slots", "max_concurrent": 4, "locality": "local"},
        {"prefix_affinity": "provider", "locality": "local"},
        {"prefix_affinity": "provider", "prefix_family": "openai"},
        {
            "prefix_affinity": "provider",
            "input_dollars_per_million_tokens": 1.0,
            "output_dollars_per_million_tokens": 1.0,
        },
    ],
    ids="-".join,
)
def test_a_preferred_backend_of_another_kind_stays_preferred(first: dict[str, Any]) -> None:
    """A local server before a provider, or a cheap one before a dear one, is an order and no equivalence."""
    host = Host(backends={"a": BackendSettings(**first), "b": AFFINE, "c": AFFINE})
    peer, others = host.peer(), set()
    for number in range(9):
        lease = call(peer, f"system {number}")
        assert lease.backend == "a"
        others.add(peer.calls("b", "c", request_id=2, **prompt(f"system {number}")).backend)
        peer.completes(lease.lease, "x")

    assert others == {"b", "c"}


def test_backends_without_affinity_keep_their_places() -> None:
    """Only those with affinity change places among each other; a short prompt changes none."""
    host = Host(backends={"a": BackendSettings(), "b": AFFINE, "c": AFFINE})
    peer = host.peer()
    for number in range(9):
        lease = call(peer, f"system {number}")
        assert lease.backend == "a"
        peer.completes(lease.lease, "x")

    host = Host(backends=dict.fromkeys(NAMES, AFFINE))
    peer = host.peer()
    for number in range(9):
        lease = peer.calls(*NAMES, **prompt(f"short {number}", step=10))
        assert lease.backend == "a"
        peer.completes(lease.lease, "x")


def test_a_hold_is_measured_once_for_all_backends() -> None:
    """1. It is held at one. 2. That one's breaker opens. 3. The other one is processing its prefix, too: the rest of the hold is left."""
    host = Host(backends=dict.fromkeys("ab", BackendSettings(prefix_affinity="provider", prefix_hold_seconds=10.0)))
    host.peer().calls("a", **prompt("p"))
    held = host.peer()
    held.asks(wire.Begin(None, id=1, backends=("a", "b"), wait_seconds=120.0, **prompt("p")))
    host.passes(9.5)
    host.peer().calls("b", **prompt("p"))
    host.sets("a", "open")
    host.passes(0.4)
    assert host.breakers()["b"].held == 1
    assert held.receives() == [wire.Pending(1)]
    host.passes(0.1)
    assert held.gets(wire.Lease).backend == "b"


def test_a_caller_whose_hold_ends_takes_the_other_backend_if_its_own_is_full() -> None:
    """It waited although the other one was free; it is not held again."""
    backends = {
        "a": BackendSettings(prefix_affinity="provider", max_concurrent=2),
        "b": BackendSettings(max_concurrent=1),
    }
    host = Host(backends=backends)
    first, other, held, late = (host.peer() for _ in range(4))
    first.calls("a", **prompt("p"))
    held.asks(wire.Begin(None, id=1, backends=("a", "b"), **prompt("p")))
    late.asks(wire.Begin(None, id=1, backends=("a", "b"), **prompt("p")))
    assert held.receives() == late.receives() == [wire.Pending(1)]
    other.calls("a", **prompt("q"))
    host.passes(9.9)
    assert held.receives() == late.receives() == []
    host.passes(0.1)
    assert held.gets(wire.Lease).backend == "b"
    assert late.receives() == []
    assert host.breakers()["b"].queued == 1, "it waits for both"


@pytest.mark.parametrize("obstacle", ["breaker", "budget", "sovereign"])
def test_a_backend_that_cannot_be_called_has_no_share(obstacle: str) -> None:
    """Its calls go to the others, which have room for them: at half of the load, each call is at its prompt's own backend."""
    backends = dict.fromkeys(
        NAMES,
        structs.replace(
            AFFINE, input_dollars_per_million_tokens=1.0, output_dollars_per_million_tokens=1.0, locality="local"
        ),
    )
    if obstacle != "breaker":
        backends["c"] = structs.replace(backends["c"], locality="remote")

    budgets = {"small": BudgetSettings(1e-9, backend="c", hard=True)} if obstacle == "budget" else {}
    host = Host(backends=backends, budgets=budgets, sovereign=obstacle == "sovereign")
    peer = host.peer()
    if obstacle == "breaker":
        host.sets("c", "open")
    elif obstacle == "budget":
        lease = peer.calls("c").lease
        peer.asks(wire.Complete(lease, packed("x"), wire.Usage(prompt_tokens=1000, completion_tokens=1), id=2))
        assert isinstance(peer.receives()[0], wire.Stored)

    own = {system: call(peer, system, request_id=1, route="least_busy").backend for system in ("s", "t", "u", "v", "w")}
    assert set(own.values()) == {"a", "b"}
    one, other = (next(system for system in own if own[system] == name) for name in "ab")
    for number in range(2, 22):
        system = (one, other)[number % 2]
        assert call(peer, system, request_id=number, route="least_busy").backend == own[system]

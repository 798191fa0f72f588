"""Holders that are killed, frozen, interrupted, forked or outlived by their daemon, at each moment of a call.

Each with the blocking client and the asynchronous one, plain and streamed. See `tests.acceptance.fault_index`.
"""

import os
import signal
from collections.abc import Callable

import pytest

from sidecard_client import Client
from tests.acceptance.fault_worker import End
from tests.daemons import Daemon, ask, poll
from tests.faults import Injected, Scene, clients_and_shapes, frozen, judge, whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Start = Callable[..., Daemon]

MOMENTS = {"before the first piece": 0, "in the middle": 1, "after the last piece": 3}
"""Number of pieces that the upstream has sent."""


def cached(scene: Scene, shape: str) -> list[str] | None:
    """Return the stored answer."""
    entry = ask(scene.daemon.socket, {"op": "get", "key": "key"})
    pieces = entry.get("value")
    assert pieces is None or isinstance(pieces, list), (shape, entry)
    return pieces


def holder_after(scene: Scene, pieces: int) -> int:
    """Let the first upstream send this many pieces, and return its process."""
    holder = scene.wait_for("start")
    for number in range(pieces):
        scene.open(str(number))
        scene.wait_for(f"piece.{number}")

    return holder


@pytest.mark.parametrize("moment", MOMENTS)
@clients_and_shapes()
def test_killed_holder_costs_one_more_call_and_delivers_no_partial_answer(
    kind: str, shape: str, moment: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """A waiter without a chunk gets the next holder's answer, a waiter with one fails, and nothing partial is stored."""
    scene = scenes()
    apps = scene.apps(kind, shape, processes=3, callers=2)
    scene.waits(5)
    pieces = MOMENTS[moment]
    holder = holder_after(scene, pieces)
    if shape == "stream" and pieces:
        # The holder and all its followers.
        scene.wait_for(f"seen.{pieces}", count=6)

    os.kill(holder, signal.SIGKILL)
    scene.open("all")
    ends = apps.ends()
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert len(ends) == 4
    assert len(notified) == (4 if shape == "stream" and pieces else 0)
    assert len(scene.noted("start")) == (1 if notified else 2)
    kept = cached(scene, shape)
    assert (kept is None) == bool(notified)
    assert kept is None or whole(End(0, "value", kept))
    assert not any(piece.startswith(f"{holder}:") for piece in kept or ())
    scene.calm()


@clients_and_shapes()
def test_holder_frozen_beyond_its_lease_is_refused(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """1. a lease expires; 2. the next holder leads and completes; 3. the first thaws, and the fence refuses all its messages."""
    # Renewed often, so that the second holder does not lose its lease on a busy machine.
    scene = scenes(SIDECARD_FLIGHTS_LEASE_SECONDS="2", SIDECARD_FLIGHTS_RENEW_SECONDS="0.1")
    apps = scene.apps(kind, shape, processes=2)
    scene.waits(1)
    holder = scene.wait_for("start")
    with frozen(holder):
        poll(lambda: scene.stats()["expired"] == 1, "the lease never ran out")
        scene.open("all")
        poll(lambda: scene.stats()["completed"] == 1, "nobody led in its place")
        kept = cached(scene, shape)

    ends = apps.ends()
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert not notified
    assert len(ends) == len(scene.noted("start")) == 2
    assert kept is not None
    assert whole(End(0, "value", kept))
    assert not kept[0].startswith(f"{holder}:")
    assert cached(scene, shape) == kept
    assert scene.stats()["stale_leases"] >= 1
    scene.calm()


@clients_and_shapes()
def test_interrupted_holder_is_replaced(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """Another caller takes over from a holder that SIGINT interrupts: `KeyboardInterrupt` in one client, cancellation in the other."""
    scene = scenes()
    holders = scene.apps(kind, shape)
    holder = scene.wait_for("start")
    others = scene.apps(kind, shape, processes=2)
    scene.waits(2)
    os.kill(holder, signal.SIGINT)
    (interrupted,) = holders.ends()
    scene.open("all")
    ends = others.ends()
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert interrupted.end == "KeyboardInterrupt"
    assert len(ends) == 2
    assert not notified
    assert len(scene.noted("start")) == 2
    scene.calm()


@clients_and_shapes()
def test_completion_sent_to_a_restarted_daemon_changes_nothing(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """1. a lease; 2. the daemon is killed and restarted; 3. another caller leads; 4. the first completes with the old fence."""
    scene = scenes()
    early = scene.apps(kind, shape)
    holder = scene.wait_for("start")
    scene.daemon.kill()
    scene.daemon.start_again()
    late = scene.apps(kind, shape)
    second = scene.wait_for("start", count=2)
    scene.open("all")
    ends = [*early.ends(), *late.ends()]
    injected(1, callers=len(ends), notified=len(judge(ends)))

    assert holder != second
    assert [got.end for got in ends] == ["value", "value"]
    assert [got.pieces[0].partition(":")[0] for got in ends] == [str(holder), str(second)]
    kept = cached(scene, shape)
    assert kept is not None
    assert whole(End(0, "value", kept))
    assert kept[0].startswith(f"{second}:")
    stats = scene.stats()
    assert (stats["completed"], stats["stored"]) == (1, 1)
    scene.calm(restarted=True)


@clients_and_shapes()
def test_delete_that_races_with_the_completion_prevents_storing(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """A deleted key's answer in flight reaches its waiters and is not stored: the next caller makes the call."""
    scene = scenes()
    apps = scene.apps(kind, shape, processes=2)
    scene.waits(1)
    holder_after(scene, 2)
    with Client(scene.daemon.socket) as other:
        other.delete("key")

    scene.open("all")
    ends = apps.ends()
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert not notified
    assert len({tuple(got.pieces) for got in ends}) == len(scene.noted("start")) == 1
    assert cached(scene, shape) is None
    assert not judge(scene.apps(kind, shape).ends())
    assert len(scene.noted("start")) == 2
    assert cached(scene, shape) is not None
    scene.calm()


@clients_and_shapes()
def test_probe_whose_holder_dies_is_replaced(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """After a probe's holder dies, the next caller probes: the breaker neither sticks half-open nor admits all callers."""
    scene = scenes()
    for action in ("open", "auto"):
        ask(scene.daemon.socket, {"op": "breaker", "backend": "default", "action": action})

    apps = scene.apps(kind, shape, processes=3)
    probe = scene.wait_for("start")
    scene.waits(2)
    os.kill(probe, signal.SIGKILL)
    scene.open("all")
    ends = apps.ends()
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert not notified
    assert len(ends) == len(scene.noted("start")) == 2
    poll(lambda: ask(scene.daemon.socket, {"op": "health"})["reasons"] == [], "the breaker did not close")
    scene.calm()


@pytest.mark.parametrize("shape", ["plain", "stream"])
def test_fork_during_a_call_disturbs_neither_process(
    shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """After a fork during a call, the parent goes on with it, and the child waits for it on its own connection."""
    scene = scenes()
    apps = scene.apps("sync", shape, forks=True)
    scene.waits(1)
    scene.wait_for("forked")
    scene.open("all")
    (parent,) = apps.ends()
    poll(lambda: len(scene.noted("child.value")) == 1, "the child had no answer")
    injected(1, callers=2)

    assert not judge([parent])
    assert scene.noted("start") == apps.pids
    assert scene.stats()["lost"] == 0
    scene.calm()

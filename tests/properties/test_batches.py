"""Batches with overlapping inputs, interleaved at random around a real engine, against the law.

Without faults each distinct input is asked upstream exactly once. With faults (calls that fail, processes and connections that
end), every batch ends all the same, with the right answers or with its own failure, and the daemon holds nothing afterwards.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard.core.settings import BackendSettings
from sidecard_client.call.commands import Raised
from tests.batch_callers import BatchCaller, Upstream
from tests.host import Host
from tests.thoroughness import cases

INPUTS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8)
LISTS = st.lists(INPUTS, min_size=1, max_size=4)


def _interleave(callers: list[BatchCaller], data: st.DataObject) -> None:
    """Step callers in a drawn order until none can move."""
    moving = list(callers)
    while moving:
        caller = data.draw(st.sampled_from(moving))
        moving = list(callers) if caller.step() else [one for one in moving if one is not caller]


def _check_answers(callers: list[BatchCaller]) -> None:
    for caller in callers:
        assert caller.ended
        assert caller.values == [one.upper() for one in caller.inputs]


@settings(max_examples=cases(100), deadline=None, database=None)
@given(LISTS, st.integers(1, 9), st.sampled_from([0, 1, 2]), st.booleans(), st.data())
def test_each_input_is_asked_upstream_once(
    lists: list[list[str]], max_batch: int, max_concurrent: int, daemon_is_old: bool, data: st.DataObject
) -> None:
    """Whatever the order, the size of batches and the backend's limit; and if the daemon grants a permit for each lease."""
    host, upstream = Host(backends={"default": BackendSettings(max_concurrent=max_concurrent)}), Upstream()
    callers = [
        BatchCaller(host, upstream, inputs, max_batch=max_batch, daemon_is_old=daemon_is_old) for inputs in lists
    ]
    _interleave(callers, data)

    _check_answers(callers)
    assert sorted(upstream.inputs) == sorted(set().union(*lists))
    assert max(map(len, upstream.calls)) <= max_batch
    _check_nothing_is_held(host)


@settings(max_examples=cases(100), deadline=None, database=None)
@given(LISTS, st.integers(1, 9), st.lists(st.sampled_from([None, None, "transient", "fatal"]), max_size=6), st.data())
def test_every_batch_ends_whatever_fails(
    lists: list[list[str]], max_batch: int, failures: list[str | None], data: st.DataObject
) -> None:
    """A batch that has no answer has failed itself, has died, or shares the failure of its backend."""
    host, upstream = Host(), Upstream()
    errors = {None: None, "transient": ConnectionError("down"), "fatal": ValueError("bad")}
    upstream.errors = [errors[failure] for failure in failures]
    callers = [BatchCaller(host, upstream, inputs, max_batch=max_batch) for inputs in lists]
    for caller in data.draw(st.lists(st.sampled_from(callers), max_size=3)):
        for _ in range(data.draw(st.integers(0, 12))):
            data.draw(st.sampled_from(callers)).step()

        if not (caller.ended or caller.dead):
            data.draw(st.sampled_from([caller.dies, caller.loses_connection]))()

    _interleave(callers, data)
    for caller in callers:
        assert caller.ended or caller.dead
        if not isinstance(caller.result, Raised) and not caller.dead:
            assert caller.values == [one.upper() for one in caller.inputs]

        if caller.actor is not None and not caller.dead:
            caller.actor.dies()

    if not any(failures):
        assert not [caller for caller in callers if isinstance(caller.result, Raised)]

    _check_nothing_is_held(host)


def _check_nothing_is_held(host: Host) -> None:
    stats = host.stats()
    assert (stats.leases, stats.flights, stats.waiters) == (0, 0, 0)
    assert {(backend.permits, backend.queued) for backend in host.breakers().values()} <= {(0, 0)}

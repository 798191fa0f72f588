"""Half-open never lasts: neutral probes and an hour without a call close the breaker."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sidecard.core import notes
from sidecard.core.backends.breaker import MAX_ABANDONED_PROBES, UNPROBED_SECONDS, Breaker, CallResult
from tests.unit.core.backends.test_breaker import PLAIN, Bench

_ALL_BUT_ONE: list[CallResult] = ["nothing"] * (MAX_ABANDONED_PROBES - 1)


def test_as_many_neutral_probes_as_results_are_needed_close() -> None:
    """They decide nothing and take no place of a result; the window judges the next calls."""
    bench = Bench(structs.replace(PLAIN, probes=3))
    bench.trip()
    bench.wait_for_probes()
    assert bench.calls("neutral", "nothing", "success", "neutral", "nothing", "failure") == []
    assert bench.state() == "half_open"
    assert [type(note) for note in bench.calls("neutral")] == [notes.BreakerClosed]
    assert bench.calls("neutral", "nothing") == []
    assert bench.breaker.calls == 0
    bench.trip()


@given(st.integers(1, 5), st.data())
def test_half_open_ends_whatever_the_outcomes_of_its_probes(probes: int, data: st.DataObject) -> None:
    """Fewer than so many of each kind leave it open; one more of any kind ends it."""
    bench = Bench(structs.replace(PLAIN, probes=probes))
    bench.trip()
    bench.wait_for_probes()
    most = 2 * (probes - 1) + MAX_ABANDONED_PROBES - 1
    kinds: st.SearchStrategy[CallResult] = st.sampled_from(get_args(CallResult))
    for _ in range(most + 1):
        if bench.state() != "half_open":
            break

        bench.calls(data.draw(kinds))

    assert bench.state() in {"open", "closed"}


def test_many_abandoned_probes_close() -> None:
    """Callers that all give up must not keep the others waiting for ever; one dead caller proves nothing."""
    bench = Bench(structs.replace(PLAIN, probes=3))
    bench.trip()
    bench.wait_for_probes()
    assert bench.calls("success", "success", *_ALL_BUT_ONE) == []
    assert bench.state() == "half_open"
    assert [type(note) for note in bench.calls("nothing")] == [notes.BreakerClosed]


def test_a_decided_probe_ends_the_count_of_abandoned_ones() -> None:
    """They count from the start of each half-open time."""
    bench = Bench()
    bench.trip()
    for _ in range(3):
        bench.wait_for_probes()
        bench.calls(*_ALL_BUT_ONE)
        assert [type(note) for note in bench.calls("failure")] == [notes.BreakerOpened]


def test_neutral_probes_count_from_the_start_of_each_half_open_time() -> None:
    """And from a change of settings."""
    bench = Bench(structs.replace(PLAIN, probes=2))
    bench.trip()
    bench.wait_for_probes()
    bench.calls("neutral")
    bench.now += bench.breaker.open_as_remote(5.0, bench.now)[0].seconds or 0.0  # type: ignore[union-attr] # it has opened
    bench.wait_for_probes()
    bench.calls("neutral")
    bench.breaker.reconfigure(structs.replace(PLAIN, probes=2, window_calls=7), bench.now)
    bench.calls("neutral")
    assert bench.state() == "half_open"
    bench.calls("neutral")
    assert bench.state() == "closed"


def test_a_breaker_that_is_never_probed_closes() -> None:
    """An hour after its open time has passed, whether or not anything has looked at it meanwhile."""
    for looks in (True, False):
        bench = Bench()
        seconds = bench.trip()
        start = bench.now
        if looks:
            bench.wait_for_probes()

        bench.now = start + seconds + UNPROBED_SECONDS - 1.0
        bench.advance()
        assert bench.state() == "half_open"
        bench.now += 1.0
        assert [type(note) for note in bench.advance()] == [notes.BreakerClosed]
        assert bench.breaker.memory(0.0) is None


def test_a_probe_in_progress_keeps_a_breaker_half_open() -> None:
    """The breaker closes once it has been returned without a result; a restart does not start the hour again."""
    bench = Bench(structs.replace(PLAIN, probe_seconds=10_000.0))
    bench.trip()
    bench.wait_for_probes()
    out = bench.admit()
    bench.now += UNPROBED_SECONDS
    assert bench.advance() == []
    memory = bench.breaker.memory(0.0)
    assert memory is not None
    later = Breaker("cloud", PLAIN, lambda: 0.5)
    later.restore(memory, bench.now, 0.0)
    assert [type(note) for note in later.advance(bench.now)] == [notes.BreakerClosed]
    bench.record(out, "nothing")
    assert [type(note) for note in bench.advance()] == [notes.BreakerClosed]


def test_a_breaker_that_an_operator_released_is_half_open_for_an_hour() -> None:
    """Whatever it was before it was opened."""
    bench = Bench()
    bench.set("open")
    bench.now += 10 * UNPROBED_SECONDS
    assert bench.advance() == []
    bench.set("auto")
    bench.now += UNPROBED_SECONDS - 1.0
    bench.advance()
    assert bench.state() == "half_open"
    bench.now += 1.0
    bench.advance()
    assert bench.state() == "closed"

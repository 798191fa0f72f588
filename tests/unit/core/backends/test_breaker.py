"""The breaker's state table, entry by entry, and the races around it."""

from itertools import product
from typing import Literal, get_args

import pytest
from msgspec import structs

from sidecard.core import notes
from sidecard.core.backends.breaker import (
    JITTER,
    MAX_ABANDONED_PROBES,
    MAX_RETRY_AFTER_SECONDS,
    PROBING_RETRY_SECONDS,
    Breaker,
    BreakerMemory,
    BreakerPass,
    CallResult,
    Pause,
)
from sidecard.core.notes import BreakerNote
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState

PLAIN = BreakerSettings(min_calls=4, open_seconds=10.0, max_open_seconds=300.0)
TOUCHY = BreakerSettings(min_calls=1, slow_rate=0.5, open_seconds=10.0, probe_seconds=60.0, slow_seconds=60.0)
STATES: tuple[BreakerState, ...] = get_args(BreakerState)
RESULTS: tuple[CallResult, ...] = get_args(CallResult)
ACTIONS: tuple[BreakerAction, ...] = get_args(BreakerAction)
NOTE_OF: dict[BreakerState, type[BreakerNote]] = {
    "closed": notes.BreakerClosed,
    "open": notes.BreakerOpened,
    "half_open": notes.BreakerProbing,
    "forced_open": notes.BreakerOpened,
    "disabled": notes.BreakerDisabled,
}
Event = CallResult | BreakerAction | Literal["paused", "cooled_down", "overdue"]


class Bench:
    """A breaker, a clock, and the notes so far."""

    def __init__(self, settings: BreakerSettings = PLAIN, jitter: float = 0.5) -> None:
        self.now = 100.0
        self.jitter = jitter
        self.breaker = Breaker("cloud", settings, lambda: self.jitter)
        self.made: list[BreakerNote] = []

    def admit(self) -> BreakerPass:
        """Admit a call."""
        self.advance()
        assert self.breaker.admits()
        return self.breaker.admit(self.now)

    def advance(self) -> list[BreakerNote]:
        """Make the changes that depend on time."""
        made = self.breaker.advance(self.now)
        self.made += made
        return made

    def record(self, breaker_pass: BreakerPass, result: CallResult) -> list[BreakerNote]:
        """Return a pass with its result."""
        made = self.breaker.record(breaker_pass, result, self.now)
        self.made += made
        return made

    def calls(self, *results: CallResult) -> list[BreakerNote]:
        """Make calls with these results, one after the other; return the notes of the last one."""
        made: list[BreakerNote] = []
        for result in results:
            made = self.record(self.admit(), result)

        return made

    def times(self, result: CallResult, count: int) -> list[BreakerNote]:
        """Make so many calls with one result."""
        return self.calls(*[result for _ in range(count)])

    def state(self) -> BreakerState:
        """Return the breaker's state."""
        return self.breaker.state

    def set(self, action: BreakerAction) -> list[BreakerNote]:
        """Apply an operator's action."""
        return self.breaker.set(action, self.now)

    def trip(self) -> float:
        """Open the breaker by failures; return for how long."""
        (note,) = self.times("failure", self.breaker._settings.min_calls)
        assert isinstance(note, notes.BreakerOpened)
        assert note.seconds is not None
        return note.seconds

    def wait_for_probes(self) -> None:
        """Wait until the breaker is half-open."""
        self.now += self.breaker.retry_after_seconds(self.now) or 0.0
        self.advance()
        assert self.breaker.state == "half_open"


def in_state(state: BreakerState) -> tuple[Bench, BreakerPass]:
    """Return a breaker in a state, with a pass of the current generation if it admits calls, else an older one."""
    bench = Bench(TOUCHY)
    breaker_pass = bench.admit()
    match state:
        case "closed":
            pass
        case "open":
            bench.trip()
        case "half_open":
            bench.trip()
            bench.wait_for_probes()
            breaker_pass = bench.admit()
        case "forced_open":
            bench.set("open")
        case "disabled":
            bench.set("disable")
            breaker_pass = bench.admit()

    assert bench.state() == state
    return bench, breaker_pass


CHANGES: dict[tuple[BreakerState, Event], BreakerState] = {
    ("closed", "failure"): "open",
    ("closed", "slow"): "open",
    ("closed", "paused"): "open",
    ("closed", "open"): "forced_open",
    ("closed", "close"): "closed",
    ("closed", "disable"): "disabled",
    ("open", "cooled_down"): "half_open",
    ("open", "overdue"): "half_open",
    ("open", "open"): "forced_open",
    ("open", "close"): "closed",
    ("open", "disable"): "disabled",
    ("half_open", "success"): "closed",
    ("half_open", "failure"): "open",
    ("half_open", "slow"): "open",
    ("half_open", "neutral"): "closed",
    ("half_open", "paused"): "open",
    ("half_open", "overdue"): "open",
    ("half_open", "open"): "forced_open",
    ("half_open", "close"): "closed",
    ("half_open", "disable"): "disabled",
    ("forced_open", "close"): "closed",
    ("forced_open", "auto"): "half_open",
    ("forced_open", "disable"): "disabled",
    ("disabled", "open"): "forced_open",
    ("disabled", "close"): "closed",
    ("disabled", "auto"): "closed",
}
"""All that changes anything. ``close`` of a closed one forgets what was counted, so it is a change too."""
EVENTS: tuple[Event, ...] = (*RESULTS, *ACTIONS, "paused", "cooled_down", "overdue")


def happen(bench: Bench, breaker_pass: BreakerPass, event: Event) -> list[BreakerNote]:
    """Make an event happen; ``breaker_pass`` is the pass of the call that it concerns, if it concerns one."""
    match event:
        case "paused":
            return bench.breaker.honor_retry_after(breaker_pass, Pause(5.0), bench.now)
        case "cooled_down":
            bench.now += 10.0
            return bench.advance()
        case "overdue":
            bench.now += 60.0
            return bench.advance()
        case "open" | "close" | "auto" | "disable":
            return bench.set(event)
        case _:
            return bench.record(breaker_pass, event)


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_every_event_in_every_state_follows_the_table(state: BreakerState, event: Event) -> None:
    """A change makes a note and a new generation; any other event changes nothing."""
    bench, breaker_pass = in_state(state)
    generation = bench.breaker.generation
    made = happen(bench, breaker_pass, event)

    expected = CHANGES.get((state, event))
    assert bench.state() == (expected or state)
    assert [type(note) for note in made] == ([NOTE_OF[expected]] if expected else [])
    assert bench.breaker.generation == generation + bool(expected)
    assert all(note.generation == bench.breaker.generation for note in made)


@pytest.mark.parametrize(("state", "result"), list(product(STATES, [*RESULTS, "paused"])))
def test_a_result_of_an_older_generation_changes_nothing(state: BreakerState, result: Event) -> None:
    """A late success closes no open or half-open breaker, and a late failure opens no closed one."""
    bench, _ = in_state(state)
    stale = BreakerPass(bench.breaker.generation - 1, 100.0)
    counted = (bench.breaker.calls, bench.breaker.failures, bench.breaker.slow)

    assert happen(bench, stale, result) == []
    assert bench.state() == state
    assert (bench.breaker.calls, bench.breaker.failures, bench.breaker.slow) == counted


@pytest.mark.parametrize(
    ("state", "admits"),
    [("closed", True), ("open", False), ("half_open", False), ("forced_open", False), ("disabled", True)],
)
def test_admission_by_state(state: BreakerState, admits: bool) -> None:
    """An open breaker admits no calls, a half-open one its probes alone."""
    assert in_state(state)[0].breaker.admits() is admits


def test_a_stale_success_neither_closes_nor_counts_as_a_probe() -> None:
    """A call begun while closed ends while half-open: the probe still decides."""
    bench = Bench()
    old = bench.admit()
    bench.trip()
    bench.wait_for_probes()
    bench.record(old, "success")

    assert bench.state() == "half_open"
    assert bench.breaker.admits(), "the probe's permit is still there"
    bench.calls("failure")
    assert bench.state() == "open"


def test_a_stale_failure_does_not_reopen() -> None:
    """Neither while half-open, nor after it has closed, nor in the next window."""
    bench = Bench()
    old = [bench.admit() for _ in range(8)]
    bench.trip()
    bench.wait_for_probes()
    bench.record(old.pop(), "failure")
    bench.calls("success")
    for breaker_pass in old:
        bench.record(breaker_pass, "failure")

    assert bench.state() == "closed"
    assert bench.breaker.calls == 0


def test_low_traffic_concludes_nothing() -> None:
    """With fewer calls than the minimum, no failure rate opens the breaker."""
    bench = Bench()
    bench.calls("failure", "failure", "failure")

    assert bench.state() == "closed"
    bench.calls("success")
    assert bench.state() == "open", "three of four: the call that makes it enough need not be the bad one"


@pytest.mark.parametrize(
    ("results", "cause"),
    [
        (["success", "success", "failure", "failure"], "failures"),
        (["success", "success", "success", "failure"], None),
        (["slow", "slow", "slow", "slow"], "slow"),
        (["slow", "slow", "slow", "success", "slow"], "slow"),
        (["slow", "slow", "slow", "success"], None),
        (["slow", "slow", "failure", "success"], None),
        (["slow", "slow", "failure", "failure"], "failures"),
        (["nothing"] * 20, None),
        (["failure", "nothing", "nothing", "failure", "nothing", "failure"], None),
    ],
)
def test_it_opens_at_the_failure_rate_or_the_slow_rate(results: list[CallResult], cause: str | None) -> None:
    """Half of the calls failed, or four fifths were slow; results without information count in neither."""
    bench = Bench()
    bench.calls(*results)

    assert bench.state() == ("open" if cause else "closed")
    assert bench.breaker.cause == cause


def test_the_window_is_bounded_by_time() -> None:
    """A result counts for less than ``window_seconds``."""
    bench = Bench(structs.replace(PLAIN, window_seconds=60.0))
    bench.calls("failure", "failure", "failure")
    bench.now += 60.0
    bench.calls("success", "failure")

    assert (bench.breaker.state, bench.breaker.calls, bench.breaker.failures) == ("closed", 2, 1)
    bench.now += 59.0
    bench.calls("success", "failure")
    assert bench.state() == "open"


def test_the_window_is_bounded_by_calls() -> None:
    """Of a busy backend, the latest calls alone count."""
    bench = Bench(structs.replace(PLAIN, window_calls=10, failure_rate=0.6))
    bench.times("success", 10)
    bench.times("failure", 5)
    assert (bench.breaker.state, bench.breaker.calls, bench.breaker.failures) == ("closed", 10, 5)

    bench.calls("failure")
    assert bench.state() == "open"


def test_the_note_of_an_opening_has_the_counts() -> None:
    """It shows how many calls there were and how many were bad."""
    bench = Bench()
    made = bench.calls("slow", "success", "failure", "failure")

    assert made == [notes.BreakerOpened("cloud", "failures", 10.0, 4, 2, 1, 1)]


def test_closing_after_probes_clears_the_window() -> None:
    """Failures that have opened it once do not open it again."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("success", "failure")

    assert (bench.breaker.state, bench.breaker.calls) == ("closed", 1)


def test_an_operators_close_clears_the_window() -> None:
    """Even if it was closed already: three earlier failures do not add up with a fourth."""
    bench = Bench()
    bench.calls("failure", "failure", "failure")
    bench.set("close")
    bench.calls("failure")

    assert (bench.breaker.state, bench.breaker.calls) == ("closed", 1)


def probing(probes: int, failure_rate: float = 0.5) -> tuple[Bench, list[BreakerPass]]:
    """Return a half-open breaker with all its probes out."""
    bench = Bench(structs.replace(PLAIN, probes=probes, failure_rate=failure_rate))
    bench.trip()
    bench.wait_for_probes()
    return bench, [bench.admit() for _ in range(probes)]


def test_exactly_the_configured_probes_are_admitted() -> None:
    """No further one while they are out, nor after some of them have ended."""
    bench, probes = probing(3)

    assert not bench.breaker.admits()
    bench.record(probes[0], "success")
    bench.record(probes[1], "failure")
    assert not bench.breaker.admits(), "an outcome does not make room for another probe"


@pytest.mark.parametrize("way", ["lost", "cancelled", "ignored"])
def test_a_probe_without_a_result_is_free_again_immediately(way: str) -> None:
    """It is neither success nor failure; the next may be sent at the same instant."""
    bench, (probe,) = probing(1)
    assert bench.record(probe, "nothing") == []

    assert bench.breaker.admits()
    assert bench.state() == "half_open"
    bench.calls("success")
    assert bench.state() == "closed"


def test_probes_without_a_result_leak_no_permit() -> None:
    """After lost holders there are as many probes as before."""
    bench, probes = probing(2)
    for _ in range(MAX_ABANDONED_PROBES - 1):
        bench.record(probes.pop(0), "nothing")
        probes.append(bench.admit())
        assert not bench.breaker.admits()


@pytest.mark.parametrize(
    ("results", "state"),
    [
        (["success", "success", "success"], "closed"),
        (["failure", "success", "success"], "closed"),
        (["success", "success", "failure"], "closed"),
        (["failure", "success", "failure"], "open"),
        (["failure", "failure", "success"], "open"),
        (["slow", "slow", "slow"], "open"),
        (["slow", "slow", "success"], "closed"),
        (["failure", "slow", "slow"], "closed"),
    ],
)
def test_all_probes_decide(results: list[CallResult], state: BreakerState) -> None:
    """Neither the first success closes nor the first failure opens it: the rates of the window apply."""
    bench, probes = probing(3)
    for probe, result in zip(probes[:2], results, strict=False):
        assert bench.record(probe, result) == []

    bench.record(probes[2], results[2])
    assert bench.state() == state
    assert bench.breaker.cause == ("probes" if state == "open" else None)


def test_an_overdue_probe_counts_as_failed() -> None:
    """A probe whose holder hangs does not keep it half-open, and its late success does not close it."""
    bench, (probe, other) = probing(2)
    bench.record(other, "success")
    bench.now += 59.9
    assert bench.advance() == []
    assert bench.breaker.overdue_at() == pytest.approx(bench.now + 0.1)
    bench.now += 0.2
    (note,) = bench.advance()

    assert isinstance(note, notes.BreakerOpened)
    assert note.cause == "probes"
    bench.wait_for_probes()
    assert bench.record(probe, "success") == []
    assert bench.state() == "half_open"


def test_a_probe_is_not_overdue_before_it_is_slow() -> None:
    """If calls may take long, so may probes."""
    bench = Bench(structs.replace(PLAIN, probe_seconds=5.0, slow_seconds=20.0))
    bench.trip()
    bench.wait_for_probes()
    bench.admit()

    assert bench.breaker.overdue_at() == bench.now + 20.0


def test_the_oldest_probe_that_is_out_is_the_first_overdue() -> None:
    """Returned probes do not count, and without a probe nothing is overdue."""
    bench = Bench(structs.replace(PLAIN, probes=2))
    bench.trip()
    assert bench.breaker.overdue_at() == float("inf")
    bench.wait_for_probes()
    first = bench.admit()
    bench.now += 7.0
    bench.admit()
    bench.record(first, "success")

    assert bench.breaker.overdue_at() == bench.now + 60.0


def test_retry_after_opens_for_that_time_and_is_no_failure() -> None:
    """It does not lengthen the next open time."""
    bench = Bench()
    bench.calls("failure")
    (note,) = bench.breaker.honor_retry_after(bench.admit(), Pause(42.0), bench.now)

    assert note == notes.BreakerOpened("cloud", "retry_after", 42.0, 1, 1, 0, 1)
    assert bench.breaker.retry_after_seconds(bench.now) == 42.0
    bench.now += 41.9
    assert bench.advance() == []
    bench.wait_for_probes()
    bench.calls("failure")
    assert bench.breaker.retry_after_seconds(bench.now) == 10.0


def test_retry_after_is_bounded_by_an_hour() -> None:
    """A worker's mistake must not last a week."""
    bench = Bench()
    bench.breaker.honor_retry_after(bench.admit(), Pause(7 * 86400.0), bench.now)

    assert bench.breaker.retry_after_seconds(bench.now) == MAX_RETRY_AFTER_SECONDS


def test_retry_after_of_one_probe_opens_immediately() -> None:
    """The other probes' results are then of an older generation."""
    bench, probes = probing(3)
    bench.breaker.honor_retry_after(probes[0], Pause(30.0), bench.now)
    for probe in probes[1:]:
        assert bench.record(probe, "success") == []

    assert bench.state() == "open"
    assert bench.breaker.retry_after_seconds(bench.now) == 30.0


def test_the_open_time_doubles_up_to_its_maximum() -> None:
    """It doubles each time that the probes fail."""
    bench = Bench()
    seconds = [bench.trip()]
    for _ in range(7):
        bench.wait_for_probes()
        (note,) = bench.calls("failure")
        assert isinstance(note, notes.BreakerOpened)
        seconds.append(note.seconds or 0.0)

    assert seconds == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


@pytest.mark.parametrize(("quiet_seconds", "expected"), [(59.0, 20.0), (60.0, 10.0)])
def test_the_open_time_is_reset_by_a_quiet_window(quiet_seconds: float, expected: float) -> None:
    """A breaker that opens again within a window of closing has not recovered."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("success")
    bench.now += quiet_seconds

    assert bench.trip() == expected


def test_an_operators_close_resets_the_open_time() -> None:
    """An operator knows that the backend is repaired."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("failure")
    bench.set("close")

    assert bench.trip() == 10.0


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 9.0), (0.5, 10.0), (0.999999, 11.0)])
def test_jitter_changes_the_open_time_by_a_tenth_at_most(jitter: float, seconds: float) -> None:
    """In both directions, so the mean is right."""
    assert JITTER == 0.1
    assert Bench(jitter=jitter).trip() == pytest.approx(seconds, abs=1e-4)


def test_a_long_outage_does_not_overflow() -> None:
    """After thousands of openings the open time is still its maximum."""
    bench = Bench(structs.replace(PLAIN, probe_seconds=1.0))
    bench.trip()
    for _ in range(3000):
        bench.wait_for_probes()
        bench.calls("failure")

    assert bench.breaker.retry_after_seconds(bench.now) == 300.0
    assert bench.breaker.opened == 3001


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        ("closed", None),
        ("open", 10.0),
        ("half_open", PROBING_RETRY_SECONDS),
        ("forced_open", None),
        ("disabled", None),
    ],
)
def test_retry_after_seconds_by_state(state: BreakerState, seconds: float | None) -> None:
    """Known while open; about a call's time while the probes are out; unknown if an operator decides."""
    bench, _ = in_state(state)

    assert bench.breaker.retry_after_seconds(bench.now) == seconds


def test_retry_after_seconds_is_none_with_a_probe_left() -> None:
    """The next call is admitted immediately."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()

    assert bench.breaker.retry_after_seconds(bench.now) is None


def test_a_breaker_that_is_not_enabled_counts_and_never_opens() -> None:
    """Its counts remain visible."""
    bench = Bench(structs.replace(PLAIN, enabled=False))
    bench.times("failure", 50)
    bench.breaker.honor_retry_after(bench.admit(), Pause(60.0), bench.now)

    assert (bench.breaker.state, bench.breaker.failures, bench.breaker.opened) == ("disabled", 50, 0)
    assert bench.made == []


def test_a_disabled_breaker_opens_after_auto_by_new_results_alone() -> None:
    """Results from the time when it could not open do not count."""
    bench = Bench()
    bench.set("disable")
    bench.times("failure", 50)
    bench.set("auto")
    bench.calls("failure", "failure", "failure")

    assert bench.state() == "closed"
    bench.calls("failure")
    assert bench.state() == "open"


def test_forced_open_lasts_until_an_operator_ends_it() -> None:
    """Then it probes, since the backend's condition is unknown."""
    bench = Bench()
    bench.set("open")
    bench.now += 1e6
    assert bench.advance() == []
    assert not bench.breaker.admits()
    bench.set("auto")

    assert bench.breaker.admits()
    bench.calls("success")
    assert bench.state() == "closed"


@pytest.mark.parametrize("state", STATES)
def test_memory_and_restore_keep_the_state(state: BreakerState) -> None:
    """A restart closes no open breaker, ends no operator's hold, and shortens no open time; probing restarts."""
    bench, _ = in_state(state)
    memory = bench.breaker.memory(wall_offset_seconds=5000.0)
    assert (memory is None) == (state == "closed")
    if memory is None:
        return

    later = Bench(TOUCHY)
    later.now = 3.0
    wall_now = bench.now + 5000.0 + 4.0
    later.breaker.restore(memory, later.now, wall_offset_seconds=wall_now - later.now)

    assert later.breaker.state == state
    if state == "open":
        assert later.breaker.retry_after_seconds(later.now) == pytest.approx(6.0)
        assert later.breaker.cause == "failures"

    if state == "half_open":
        later.calls("failure")
        assert later.breaker.retry_after_seconds(later.now) == 20.0, "the cool-down goes on growing"

    assert later.breaker.record(BreakerPass(0, 3.0), "success", later.now) == []


def test_memory_of_the_initial_state_is_none() -> None:
    """Even if that state is disabled."""
    assert Breaker("cloud", structs.replace(PLAIN, enabled=False), lambda: 0.5).memory(0.0) is None


def test_restore_bounds_the_open_time() -> None:
    """A wall clock that was set back does not keep a breaker open for years."""
    later = Bench(TOUCHY)
    memory = BreakerMemory("open", "failures", until=2e9, doublings=0)
    later.breaker.restore(memory, later.now, wall_offset_seconds=1e9)
    retry_after_seconds = later.breaker.retry_after_seconds(later.now)
    assert retry_after_seconds == MAX_RETRY_AFTER_SECONDS


def test_open_as_remote_opens_for_the_remote_time() -> None:
    """Results of earlier calls then change nothing."""
    bench = Bench()
    breaker_pass = bench.admit()
    (note,) = bench.breaker.open_as_remote(7.0, bench.now)
    assert isinstance(note, notes.BreakerOpened)
    assert (note.cause, note.seconds) == ("elsewhere", 7.0)
    bench.breaker.record(breaker_pass, "success", bench.now)
    assert not bench.breaker.admits()
    bench.now += 7.0
    assert [type(made) for made in bench.advance()] == [notes.BreakerProbing]


def test_open_as_remote_extends_an_open_breaker() -> None:
    """It makes no note, and an operator's setting stays."""
    bench = Bench()
    bench.breaker.open_as_remote(7.0, bench.now)
    assert bench.breaker.open_as_remote(3.0, bench.now) == []
    assert bench.breaker.retry_after_seconds(bench.now) == 7.0
    assert bench.breaker.open_as_remote(9.0, bench.now) == []
    assert bench.breaker.retry_after_seconds(bench.now) == 9.0
    for action in ("open", "disable"):
        other = Bench()
        other.breaker.set(action, other.now)
        state = other.breaker.state
        assert other.breaker.open_as_remote(9.0, other.now) == []
        assert other.breaker.state == state


def test_open_as_remote_is_bounded_by_an_hour() -> None:
    """As ``retry_after`` is."""
    bench = Bench()
    bench.breaker.open_as_remote(1e6, bench.now)
    assert bench.breaker.retry_after_seconds(bench.now) == MAX_RETRY_AFTER_SECONDS

"""The breaker's table, entry by entry, and what is easily got wrong around it."""

from itertools import product
from typing import Literal, get_args

import pytest
from msgspec import structs

from sidecard.core import notes
from sidecard.core.backends.breaker import (
    JITTER,
    MAX_RETRY_AFTER_SECONDS,
    PROBING_RETRY_SECONDS,
    Breaker,
    BreakerMemory,
    BreakerPass,
    CallResult,
)
from sidecard.core.notes import BreakerNote
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState

PLAIN = BreakerSettings(min_calls=4, open_seconds=10.0, max_open_seconds=300.0)
TOUCHY = BreakerSettings(min_calls=1, slow_rate=0.5, open_seconds=10.0, probe_seconds=60.0, slow_seconds=60.0)
STATES: tuple[BreakerState, ...] = get_args(BreakerState)
VERDICTS: tuple[CallResult, ...] = get_args(CallResult)
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
    """A breaker, a clock, and the passes that are out."""

    def __init__(self, settings: BreakerSettings = PLAIN, jitter: float = 0.5) -> None:
        self.now = 100.0
        self.jitter = jitter
        self.breaker = Breaker("cloud", settings, lambda: self.jitter)
        self.told: list[BreakerNote] = []

    def admit(self) -> BreakerPass:
        """Let a call through."""
        self.advance()
        assert self.breaker.admits()
        return self.breaker.admit(self.now)

    def advance(self) -> list[BreakerNote]:
        """Let time do what it does."""
        told = self.breaker.advance(self.now)
        self.told += told
        return told

    def record(self, given: BreakerPass, verdict: CallResult) -> list[BreakerNote]:
        """Bring a pass back."""
        told = self.breaker.record(given, verdict, self.now)
        self.told += told
        return told

    def calls(self, *verdicts: CallResult) -> list[BreakerNote]:
        """Make calls, one after the other, that end like this; return what the last one led to."""
        told: list[BreakerNote] = []
        for verdict in verdicts:
            told = self.record(self.admit(), verdict)

        return told

    def times(self, verdict: CallResult, count: int) -> list[BreakerNote]:
        """Make so many calls that end like this."""
        return self.calls(*[verdict for _ in range(count)])

    def state(self) -> BreakerState:
        """Return its state."""
        return self.breaker.state

    def set(self, action: BreakerAction) -> list[BreakerNote]:
        """Let an operator act."""
        return self.breaker.set(action, self.now)

    def trip(self) -> float:
        """Open it by failures; return for how long."""
        (note,) = self.times("failure", self.breaker._settings.min_calls)
        assert isinstance(note, notes.BreakerOpened)
        assert note.seconds is not None
        return note.seconds

    def wait_for_probes(self) -> None:
        """Let the cool-down pass."""
        self.now += self.breaker.retry_after_seconds(self.now) or 0.0
        self.advance()
        assert self.breaker.state == "half_open"


def in_state(state: BreakerState) -> tuple[Bench, BreakerPass]:
    """Return a touchy breaker in a state, with a pass of the present generation where there is one, else an older one."""
    bench = Bench(TOUCHY)
    given = bench.admit()
    match state:
        case "closed":
            pass
        case "open":
            bench.trip()
        case "half_open":
            bench.trip()
            bench.wait_for_probes()
            given = bench.admit()
        case "forced_open":
            bench.set("open")
        case "disabled":
            bench.set("disable")
            given = bench.admit()

    assert bench.state() == state
    return bench, given


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
EVENTS: tuple[Event, ...] = (*VERDICTS, *ACTIONS, "paused", "cooled_down", "overdue")


def happen(bench: Bench, given: BreakerPass, event: Event) -> list[BreakerNote]:
    """Let an event happen to a breaker, of the call that ``given`` let through where it is one of a call."""
    match event:
        case "paused":
            return bench.breaker.honor_retry_after(given, 5.0, bench.now)
        case "cooled_down":
            bench.now += 10.0
            return bench.advance()
        case "overdue":
            bench.now += 60.0
            return bench.advance()
        case "open" | "close" | "auto" | "disable":
            return bench.set(event)
        case _:
            return bench.record(given, event)


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_table(state: BreakerState, event: Event) -> None:
    """Each event leads from each state to the one that the table names, with a note and a new generation; or nowhere."""
    bench, given = in_state(state)
    generation = bench.breaker.generation
    told = happen(bench, given, event)

    expected = CHANGES.get((state, event))
    assert bench.state() == (expected or state)
    assert [type(note) for note in told] == ([NOTE_OF[expected]] if expected else [])
    assert bench.breaker.generation == generation + bool(expected)
    assert all(note.generation == bench.breaker.generation for note in told)


@pytest.mark.parametrize(("state", "verdict"), list(product(STATES, [*VERDICTS, "paused"])))
def test_an_outcome_of_an_older_generation_changes_nothing(state: BreakerState, verdict: Event) -> None:
    """Neither a late success closes an open or half-open breaker, nor a late failure opens a closed one."""
    bench, _ = in_state(state)
    stale = BreakerPass(bench.breaker.generation - 1, 100.0)
    counted = (bench.breaker.calls, bench.breaker.failures, bench.breaker.slow)

    assert happen(bench, stale, verdict) == []
    assert bench.state() == state
    assert (bench.breaker.calls, bench.breaker.failures, bench.breaker.slow) == counted


@pytest.mark.parametrize(
    ("state", "admits"),
    [("closed", True), ("open", False), ("half_open", False), ("forced_open", False), ("disabled", True)],
)
def test_who_is_admitted(state: BreakerState, admits: bool) -> None:
    """Open lets nobody through, and half-open nobody beyond its probes."""
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
    """Neither at half-open, nor after it has closed, nor in the window afterwards."""
    bench = Bench()
    old = [bench.admit() for _ in range(8)]
    bench.trip()
    bench.wait_for_probes()
    bench.record(old.pop(), "failure")
    bench.calls("success")
    for given in old:
        bench.record(given, "failure")

    assert bench.state() == "closed"
    assert bench.breaker.calls == 0


def test_low_traffic_concludes_nothing() -> None:
    """One failure of one call is no outage, nor are all but the last that it takes."""
    bench = Bench()
    bench.calls("failure", "failure", "failure")

    assert bench.state() == "closed"
    bench.calls("success")
    assert bench.state() == "open", "three of four: the call that makes it enough need not be the bad one"


@pytest.mark.parametrize(
    ("verdicts", "cause"),
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
def test_rates(verdicts: list[CallResult], cause: str | None) -> None:
    """Half of the calls failed, or four fifths were slow; what says nothing of the backend counts in neither."""
    bench = Bench()
    bench.calls(*verdicts)

    assert bench.state() == ("open" if cause else "closed")
    assert bench.breaker.cause == cause


def test_the_window_forgets_by_time() -> None:
    """An outcome counts for ``window_seconds`` and not at their end."""
    bench = Bench(structs.replace(PLAIN, window_seconds=60.0))
    bench.calls("failure", "failure", "failure")
    bench.now += 60.0
    bench.calls("success", "failure")

    assert (bench.breaker.state, bench.breaker.calls, bench.breaker.failures) == ("closed", 2, 1)
    bench.now += 59.0
    bench.calls("success", "failure")
    assert bench.state() == "open"


def test_the_window_forgets_by_calls() -> None:
    """Of a busy backend only the latest calls count, however young the others are."""
    bench = Bench(structs.replace(PLAIN, window_calls=10, failure_rate=0.6))
    bench.times("success", 10)
    bench.times("failure", 5)
    assert (bench.breaker.state, bench.breaker.calls, bench.breaker.failures) == ("closed", 10, 5)

    bench.calls("failure")
    assert bench.state() == "open"


def test_the_note_of_an_opening_counts() -> None:
    """Whoever reads it sees of how many calls how many were bad."""
    bench = Bench()
    told = bench.calls("slow", "success", "failure", "failure")

    assert told == [notes.BreakerOpened("cloud", "failures", 10.0, 4, 2, 1, 1)]


def test_what_was_counted_before_it_closed_has_had_its_effect() -> None:
    """After probing it begins anew, and does not open for what it has opened for already."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("success", "failure")

    assert (bench.breaker.state, bench.breaker.calls) == ("closed", 1)


def test_an_operators_close_forgets_what_was_counted() -> None:
    """Also where it was closed already: three failures then do not count with a fourth."""
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


def test_exactly_so_many_probes_get_through() -> None:
    """Not one more while they are out, nor after some of them have ended."""
    bench, probes = probing(3)

    assert not bench.breaker.admits()
    bench.record(probes[0], "success")
    bench.record(probes[1], "failure")
    assert not bench.breaker.admits(), "an outcome does not make room for another probe"


@pytest.mark.parametrize("way", ["lost", "cancelled", "ignored"])
def test_a_probe_without_an_outcome_is_free_again_at_once(way: str) -> None:
    """It is neither success nor failure, however its call ended; the next may go at the same instant."""
    bench, (probe,) = probing(1)
    assert bench.record(probe, "nothing") == []

    assert bench.breaker.admits()
    assert bench.state() == "half_open"
    bench.calls("success")
    assert bench.state() == "closed"


def test_probes_that_end_without_an_outcome_leak_no_permit() -> None:
    """A thousand holders may die: there are as many probes as before, and not one more."""
    bench, probes = probing(2)
    for _ in range(1000):
        bench.record(probes.pop(0), "nothing")
        probes.append(bench.admit())
        assert not bench.breaker.admits()


@pytest.mark.parametrize(
    ("verdicts", "state"),
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
def test_all_probes_decide(verdicts: list[CallResult], state: BreakerState) -> None:
    """Neither the first success closes nor the first failure opens: the rates are those of the window."""
    bench, probes = probing(3)
    for probe, verdict in zip(probes[:2], verdicts, strict=False):
        assert bench.record(probe, verdict) == []

    bench.record(probes[2], verdicts[2])
    assert bench.state() == state
    assert bench.breaker.cause == ("probes" if state == "open" else None)


def test_an_overdue_probe_counts_as_failed() -> None:
    """A probe whose holder hangs does not keep it half-open for ever, and its late success does not close it."""
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
    """Where calls may take long, so may probes."""
    bench = Bench(structs.replace(PLAIN, probe_seconds=5.0, slow_seconds=20.0))
    bench.trip()
    bench.wait_for_probes()
    bench.admit()

    assert bench.breaker.overdue_at() == bench.now + 20.0


def test_the_oldest_probe_that_is_out_is_the_first_overdue() -> None:
    """Those that have come back do not count, and without one nothing is overdue."""
    bench = Bench(structs.replace(PLAIN, probes=2))
    bench.trip()
    assert bench.breaker.overdue_at() == float("inf")
    bench.wait_for_probes()
    first = bench.admit()
    bench.now += 7.0
    bench.admit()
    bench.record(first, "success")

    assert bench.breaker.overdue_at() == bench.now + 60.0


def test_retry_after_opens_for_so_long_and_is_no_failure() -> None:
    """What a backend asks for is done, without growing its cool-down."""
    bench = Bench()
    bench.calls("failure")
    (note,) = bench.breaker.honor_retry_after(bench.admit(), 42.0, bench.now)

    assert note == notes.BreakerOpened("cloud", "retry_after", 42.0, 1, 1, 0, 1)
    assert bench.breaker.retry_after_seconds(bench.now) == 42.0
    bench.now += 41.9
    assert bench.advance() == []
    bench.wait_for_probes()
    bench.calls("failure")
    assert bench.breaker.retry_after_seconds(bench.now) == 10.0


def test_retry_after_is_believed_for_an_hour() -> None:
    """A worker's slip must not last a week."""
    bench = Bench()
    bench.breaker.honor_retry_after(bench.admit(), 7 * 86400.0, bench.now)

    assert bench.breaker.retry_after_seconds(bench.now) == MAX_RETRY_AFTER_SECONDS


def test_retry_after_of_one_probe_opens_at_once() -> None:
    """The other probes' outcomes are of an older generation then."""
    bench, probes = probing(3)
    bench.breaker.honor_retry_after(probes[0], 30.0, bench.now)
    for probe in probes[1:]:
        assert bench.record(probe, "success") == []

    assert bench.state() == "open"
    assert bench.breaker.retry_after_seconds(bench.now) == 30.0


def test_the_cool_down_doubles_up_to_its_most() -> None:
    """Each time that the probes fail it waits longer."""
    bench = Bench()
    seconds = [bench.trip()]
    for _ in range(7):
        bench.wait_for_probes()
        (note,) = bench.calls("failure")
        assert isinstance(note, notes.BreakerOpened)
        seconds.append(note.seconds or 0.0)

    assert seconds == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


@pytest.mark.parametrize(("quiet_seconds", "expected"), [(59.0, 20.0), (60.0, 10.0)])
def test_the_cool_down_forgets_after_a_quiet_window(quiet_seconds: float, expected: float) -> None:
    """Who is closed for a whole window begins anew; who opens again within it has not recovered."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("success")
    bench.now += quiet_seconds

    assert bench.trip() == expected


def test_an_operators_close_begins_the_cool_down_anew() -> None:
    """An operator knows that it is repaired."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()
    bench.calls("failure")
    bench.set("close")

    assert bench.trip() == 10.0


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 9.0), (0.5, 10.0), (0.999999, 11.0)])
def test_jitter_moves_the_cool_down_by_a_tenth_at_most(jitter: float, seconds: float) -> None:
    """Both ways, so that it is right in the mean."""
    assert JITTER == 0.1
    assert Bench(jitter=jitter).trip() == pytest.approx(seconds, abs=1e-4)


def test_a_long_outage_does_not_overflow() -> None:
    """After thousands of openings the cool-down is still its most."""
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
def test_when_to_try_again(state: BreakerState, seconds: float | None) -> None:
    """Known while it cools down; about a call's time while the probes are out; unknown where an operator decides."""
    bench, _ = in_state(state)

    assert bench.breaker.retry_after_seconds(bench.now) == seconds


def test_a_half_open_breaker_with_a_probe_left_says_now() -> None:
    """None where the next call may get through at once."""
    bench = Bench()
    bench.trip()
    bench.wait_for_probes()

    assert bench.breaker.retry_after_seconds(bench.now) is None


def test_one_that_is_not_enabled_measures_and_never_trips() -> None:
    """What it would have said can be seen."""
    bench = Bench(structs.replace(PLAIN, enabled=False))
    bench.times("failure", 50)
    bench.breaker.honor_retry_after(bench.admit(), 60.0, bench.now)

    assert (bench.breaker.state, bench.breaker.failures, bench.breaker.opened) == ("disabled", 50, 0)
    assert bench.told == []


def test_a_disabled_one_trips_again_after_auto_by_what_comes_then() -> None:
    """What was counted while it might not trip does not count against it afterwards."""
    bench = Bench()
    bench.set("disable")
    bench.times("failure", 50)
    bench.set("auto")
    bench.calls("failure", "failure", "failure")

    assert bench.state() == "closed"
    bench.calls("failure")
    assert bench.state() == "open"


def test_forced_open_stays_so_whatever_time_passes() -> None:
    """Until an operator says otherwise; then it probes, since nobody knows how the backend is."""
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
def test_what_is_remembered_over_a_restart(state: BreakerState) -> None:
    """A restart closes no open circuit, ends no operator's hold, and shortens no cool-down; probing begins anew."""
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


def test_one_that_is_not_enabled_has_nothing_to_remember() -> None:
    """Only what differs from the beginning is kept."""
    assert Breaker("cloud", structs.replace(PLAIN, enabled=False), lambda: 0.5).memory(0.0) is None


def test_a_wall_clock_that_was_set_back_does_not_keep_a_breaker_open_for_years() -> None:
    """No cool-down and no pause is longer than an hour, so neither is one that is remembered."""
    later = Bench(TOUCHY)
    memory = BreakerMemory("open", "failures", until=2e9, doublings=0)
    later.breaker.restore(memory, later.now, wall_offset_seconds=1e9)
    retry_after_seconds = later.breaker.retry_after_seconds(later.now)
    assert retry_after_seconds == MAX_RETRY_AFTER_SECONDS


def test_a_breaker_opens_with_another_hosts() -> None:
    """For as long as that one's; outcomes of calls from before change nothing."""
    bench = Bench()
    given = bench.admit()
    (note,) = bench.breaker.open_as_remote(7.0, bench.now)
    assert isinstance(note, notes.BreakerOpened)
    assert (note.cause, note.seconds) == ("elsewhere", 7.0)
    bench.breaker.record(given, "success", bench.now)
    assert not bench.breaker.admits()
    bench.now += 7.0
    assert [type(told) for told in bench.advance()] == [notes.BreakerProbing]


def test_a_breaker_that_is_open_waits_for_whoever_waits_longer() -> None:
    """And is told nothing; nor is one that an operator has set."""
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


def test_what_another_host_says_is_believed_for_an_hour_at_most() -> None:
    """As what a backend says."""
    bench = Bench()
    bench.breaker.open_as_remote(1e6, bench.now)
    assert bench.breaker.retry_after_seconds(bench.now) == MAX_RETRY_AFTER_SECONDS

"""The scheduler alone: who gets the next turn, and which requests are served inline."""

from collections.abc import Callable

import pytest

from sidecard.server.scheduler import HTTP_UID, MAX_DEBT_SECONDS, TURN_SECONDS, FairScheduler
from tests.unit.server.harness import FakeLoop


class Work:
    """Work of ``turns`` turns that take ``seconds`` each."""

    def __init__(self, host: "Host", name: str, turns: int, seconds: float) -> None:
        self.host, self.name, self.turns, self.seconds = host, name, turns, seconds

    def serve_turn(self) -> bool:
        """Let the time pass."""
        self.host.loop.now += self.seconds
        self.host.served.append(self.name)
        self.turns -= 1
        return self.turns > 0


class Host:
    """A scheduler on a clock that only work moves."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.scheduler = FairScheduler(self.loop, lambda: self.loop.now)  # type: ignore[arg-type]  # the part that is used
        self.served: list[str] = []

    def add(self, name: str, uid: int, turns: int = 1, seconds: float = TURN_SECONDS) -> Work:
        """Queue work."""
        work = Work(self, name, turns, seconds)
        self.scheduler.enqueue(work, uid)
        return work

    def run(self) -> str:
        """Run until nothing waits; return the order."""
        while self.loop.turn():
            pass

        return "".join(self.served)


def test_uids_take_turns_then_their_connections() -> None:
    """Two connections of one uid share its turns."""
    host = Host()
    host.add("a", 1, turns=2)
    host.add("b", 1, turns=2)
    host.add("x", 2, turns=2)
    assert host.run() == "axbxab"


def test_one_iteration_lasts_one_turn() -> None:
    """Short pieces of work of several connections fit into it."""
    host = Host()
    for name in "abcdef":
        host.add(name, ord(name), seconds=TURN_SECONDS / 2)

    host.loop.turn()
    assert len(host.served) == 2


def test_a_uid_pays_back_a_long_turn_while_others_wait() -> None:
    """After ten turns' time in one turn, the other uid has nine turns."""
    host = Host()
    host.add("L", 1, turns=2, seconds=10 * TURN_SECONDS)
    host.add("s", 2, turns=15)
    order = host.run()
    assert order.startswith("L" + "s" * 9)
    assert order.count("s", 0, order.rindex("L")) <= 11


def test_debts_are_bounded_and_forgotten_once_nothing_waits() -> None:
    """One enormous piece of work does not exclude a uid for long."""
    host = Host()
    host.add("L", 1, turns=2, seconds=100.0)
    host.add("s", 2, turns=1000)
    order = host.run()
    assert order.rindex("L") <= MAX_DEBT_SECONDS / TURN_SECONDS + 3
    assert host.scheduler._debts == {}


def test_requests_are_served_inline_until_the_time_of_the_iteration_is_over() -> None:
    """Then each uid is served once more, and the others wait."""
    host = Host()
    may, now = host.scheduler.may_serve_inline, host.loop.now
    assert may(1, now)
    assert may(1, now + TURN_SECONDS / 2)
    late = now + TURN_SECONDS
    assert [may(1, late), may(1, late), may(2, late), may(2, late)] == [True, False, True, False]
    host.loop.now = late
    host.loop.turn()
    assert may(1, late)


def test_a_uid_that_waits_for_a_turn_is_not_served_inline_after_the_time_is_over() -> None:
    """Otherwise its other connections would get turns beyond its share."""
    host = Host()
    host.add("a", 1)
    assert not host.scheduler.may_serve_inline(1, host.loop.now)
    assert host.scheduler.may_serve_inline(2, host.loop.now)


def test_a_uid_with_debts_is_not_served_inline() -> None:
    """Its next requests wait like its others; other uids are served."""
    host = Host()
    host.add("L", 1, turns=2, seconds=10 * TURN_SECONDS)
    host.loop.turn()
    now = host.loop.now
    assert now >= host.scheduler.inline_until
    assert [host.scheduler.may_serve_inline(uid, now) for uid in (1, 2)] == [False, True]


def test_removed_work_gets_no_turn() -> None:
    """Removing it twice does nothing."""
    host = Host()
    gone, _ = host.add("g", 1), host.add("a", HTTP_UID)
    host.scheduler.remove(gone)
    host.scheduler.remove(gone)
    assert host.run() == "a"
    assert len(host.scheduler) == 0


def test_work_that_raises_stops_no_other_work() -> None:
    """The loop reports the error."""
    host = Host()

    class Broken(Work):
        def serve_turn(self) -> bool:
            raise ZeroDivisionError

    host.scheduler.enqueue(Broken(host, "x", 1, 0.0), 1)
    host.add("a", 2)
    with pytest.raises(ZeroDivisionError):
        host.loop.turn()

    assert host.run() == "a"


@pytest.mark.parametrize("uncounted", [False, True])
def test_a_newcomers_wait_is_bounded_by_one_turn_of_each_uid(uncounted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of connections and the cost of their work. The bound fails if a turn's time is not counted."""
    if uncounted:
        ignore: Callable[..., None] = lambda *_: None  # noqa: E731 - the planted bug
        monkeypatch.setattr(FairScheduler, "charge", ignore)

    host = Host()
    for _ in range(256):
        host.add("L", 1, turns=4, seconds=10 * TURN_SECONDS)

    light_seconds = []
    for _ in range(20):
        host.loop.turn()
        began_at = host.loop.now
        work = host.add("s", 2, turns=5, seconds=TURN_SECONDS)
        while work.turns:
            host.loop.turn()

        light_seconds.append(host.loop.now - began_at)

    within = max(light_seconds) <= (5 + 10) * TURN_SECONDS * 1.001
    assert within is not uncounted

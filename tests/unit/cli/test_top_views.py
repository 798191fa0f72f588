"""The lines of ``sidecard top``, of an engine that has had a life."""

import msgspec
import pytest

from sidecard.cli.charts import ASCII
from sidecard.cli.top_views import MAX_BACKENDS, Look, Rates, lines, rates_of
from sidecard.core.settings import BackendSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Host


def look(host: Host) -> Look:
    """Look at a host."""
    return Look(host.now, host.stats(), host.report(), wire.Breakers(0, host.breakers()))


def shown(
    host: Host, *, width: int = 120, height: int = 100, silence: str = "", rates: Rates | None = None
) -> list[str]:
    """Return what is seen."""
    told = lines(look(host), rates or Rates(), (1.0, 4.0), width, height, ASCII, silence)
    return [line.plain.rstrip() for line in told]


@pytest.fixture
def busy() -> Host:
    """Return a host with calls of two tasks, a breaker that was opened, and a budget."""
    host = Host(
        backends={"cloud": BackendSettings(), "local": BackendSettings(max_concurrent=4)},
        budgets={"day": BudgetSettings(dollars=1.0)},
    )
    alice = host.peer()
    alice.completes(alice.leads("a", task="rag", backends=("cloud",)), 1, usage=wire.Usage(cost_dollars=0.25))
    alice.asks(wire.Begin("a", task="rag", id=5))
    alice.hears()
    alice.completes(alice.leads("b", backends=("local",)), 1)
    host.sets("cloud", "open")
    return host


def test_everything_is_there(busy: Host) -> None:
    """Rates, savings, the cache, backends with the troubled one first, budgets, tasks with the busiest first."""
    told = shown(busy, rates=Rates(12.5, 10.0, 0.5, 2.0))
    text = "\n".join(told)
    assert "calls 12.5/s   hits 10.0/s   shared 0.5/s   upstream 2.0/s" in text
    assert "spared #######------------- 33.3 %   of 3 calls" in text
    assert "saved  $0.25 of $0.50" in text
    assert "at most 4.0/s" in text
    assert [line.split()[:3] for line in told if line.startswith(("cloud", "local"))] == [
        ["cloud", "forced", "open"],
        ["local", "closed", "0"],
    ]
    assert "#####---------------   $0.25 of $1.00" in text
    assert text.index("rag ") < text.index("general ")


def test_an_empty_daemon_says_so() -> None:
    """And what will change that."""
    assert shown(Host())[-1] == "no calls yet: they appear here as soon as an app makes one"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (10, 3), (1, 1)])
def test_what_does_not_fit_is_left_out(busy: Host, width: int, height: int) -> None:
    """From the end, and from the right."""
    told = shown(busy, width=width, height=height)
    assert len(told) <= height
    assert all(len(line) <= width for line in told)
    assert told[0].startswith("sidecard"[:width])


def test_of_many_backends_those_that_have_trouble_are_shown() -> None:
    """The others are a number."""
    host = Host(backends={f"b{number:02}": BackendSettings() for number in range(20)})
    host.sets("b17", "open")
    told = shown(host)
    assert sum(line.startswith("b") and not line.startswith("backend") for line in told) == MAX_BACKENDS
    assert next(line for line in told if line.startswith("b") and "open" in line).startswith("b17")
    assert f"and {20 - MAX_BACKENDS} more" in told


def test_names_cannot_steer_the_terminal() -> None:
    """They come from whoever may connect."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("a", task="\x1b[2Jrag"), 1)
    assert not any("\x1b" in line for line in shown(host))


def test_silence_is_said_in_the_first_line(busy: Host) -> None:
    """The rest is what was seen last."""
    assert "DOES NOT ANSWER" in shown(busy, silence="DAEMON DOES NOT ANSWER, since 3 s")[0]


def test_rates_are_of_one_run(busy: Host) -> None:
    """A daemon that was restarted has counted less, and not negative calls."""
    before = look(busy)
    alice = busy.peer()
    for number in range(10):
        alice.leads(f"new-{number}", request_id=number)

    busy.passes(2.0)
    now = look(busy)
    assert rates_of(before, now) == Rates(5.0, 0.0, 0.0, 5.0)
    assert rates_of(None, now) == Rates()
    restarted = msgspec.structs.replace(now, stats=msgspec.structs.replace(now.stats, boot_id="another", begins=0))
    assert rates_of(before, restarted) == Rates()


def test_a_call_that_is_asked_for_its_vector_is_one_call(busy: Host) -> None:
    """It begins twice."""
    before = look(busy)
    busy.passes(2.0)
    stats = msgspec.structs.replace(before.stats, begins=before.stats.begins + 20, vectors_wanted=10)
    assert rates_of(before, msgspec.structs.replace(look(busy), stats=stats)).calls == 5.0

"""The lines of ``sidecard top``."""

import msgspec
import pytest

from sidecard.cli.status.top_view import MAX_BACKENDS, Rates, Snapshot, lines, rates_between
from sidecard.cli.text.charts import ASCII
from sidecard.core.settings import BackendSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Host


def snapshot(host: Host) -> Snapshot:
    """Return a host's state."""
    return Snapshot(host.now, host.stats(), host.report(), wire.Breakers(0, host.breakers()))


def shown(
    host: Host, *, width: int = 120, height: int = 100, silence: str = "", rates: Rates | None = None
) -> list[str]:
    """Return the lines as plain text."""
    shown_lines = lines(snapshot(host), rates or Rates(), (1.0, 4.0), width, height, ASCII, silence)
    return [line.plain.rstrip() for line in shown_lines]


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
    alice.receives()
    alice.completes(alice.leads("b", backends=("local",)), 1)
    host.sets("cloud", "open")
    return host


def test_top_shows_rates_savings_backends_budgets_and_tasks(busy: Host) -> None:
    """Backends with problems and busy tasks come first."""
    seen = shown(busy, rates=Rates(12.5, 10.0, 0.5, 2.0))
    text = "\n".join(seen)
    assert "calls 12.5/s   hits 10.0/s   shared 0.5/s   upstream 2.0/s" in text
    assert "avoided #######------------- 33.3 %   of 3 calls" in text
    assert "saved   $0.25 of $0.50" in text
    assert "at most 4.0/s" in text
    assert [line.split()[:3] for line in seen if line.startswith(("cloud", "local"))] == [
        ["cloud", "forced", "open"],
        ["local", "closed", "0"],
    ]
    assert "#####---------------   $0.25 of $1.00" in text
    assert text.index("rag ") < text.index("general ")


def test_top_shows_hits_on_views_if_there_are_views(busy: Host) -> None:
    """As a part of all hits."""
    now = snapshot(busy)
    seen = {}
    for view_bytes in (0, 4096):
        stats = msgspec.structs.replace(now.stats, view_bytes=view_bytes, view_entries=2, view_hits=3)
        viewed = msgspec.structs.replace(now, stats=stats)
        rates = rates_between(msgspec.structs.replace(now, at_seconds=now.at_seconds - 2), viewed)
        assert rates.view_hits == 1.5
        seen[view_bytes] = "\n".join(line.plain for line in lines(viewed, rates, (), 120, 100, ASCII))

    assert "hits 0.0/s (1.5/s from views)" in seen[4096]
    assert "2 entries, 2 published" in seen[4096]
    assert "view" not in seen[0]
    assert "published" not in seen[0]


def test_top_without_calls_says_so() -> None:
    """The line says when tasks appear."""
    assert shown(Host())[-1] == "no calls yet: tasks appear with the first call of an app"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (10, 3), (1, 1)])
def test_top_on_a_small_terminal_is_cut(busy: Host, width: int, height: int) -> None:
    """The last lines and the ends of lines are omitted."""
    seen = shown(busy, width=width, height=height)
    assert len(seen) <= height
    assert all(len(line) <= width for line in seen)
    assert seen[0].startswith("sidecard"[:width])


def test_top_with_many_backends_shows_those_with_problems() -> None:
    """Further backends are counted."""
    host = Host(backends={f"b{number:02}": BackendSettings() for number in range(20)})
    host.sets("b17", "open")
    seen = shown(host)
    assert sum(line.startswith("b") and not line.startswith("backend") for line in seen) == MAX_BACKENDS
    assert next(line for line in seen if line.startswith("b") and "open" in line).startswith("b17")
    assert f"and {20 - MAX_BACKENDS} more" in seen


def test_top_shows_what_backends_read_from_their_prompt_caches() -> None:
    """Those that schedule by prefixes, and those that report cached tokens; the others have no such line."""
    host = Host(backends={"cloud": BackendSettings(), "local": BackendSettings(), "plain": BackendSettings()})
    now = snapshot(host)
    backends = dict(now.breakers.backends)
    backends["local"] = msgspec.structs.replace(backends["local"], prefix_affinity="slots", warm_prefixes=1200, held=3)
    backends["cloud"] = msgspec.structs.replace(backends["cloud"], cached_prompt_share=0.725)
    now = msgspec.structs.replace(now, breakers=wire.Breakers(0, backends))
    seen = [line.plain for line in lines(now, Rates(), (), 120, 100, ASCII) if line.plain.startswith("prompts")]

    assert [" ".join(line.split()) for line in seen] == [
        "prompts cloud 72.5 % of tokens cached 0 prefixes warm 0 callers held",
        "prompts local - of tokens cached 1,200 prefixes warm 3 callers held",
    ]
    assert "prompts" not in "".join(shown(host))


def test_names_cannot_control_the_terminal() -> None:
    """Any peer can choose the name of a task."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("a", task="\x1b[2Jrag"), 1)
    assert not any("\x1b" in line for line in shown(host))


def test_a_silent_daemon_is_reported_in_the_first_line(busy: Host) -> None:
    """The other lines show the last snapshot."""
    assert "DOES NOT ANSWER" in shown(busy, silence="DAEMON DOES NOT ANSWER, since 3 s")[0]


def test_rates_across_a_restart_are_zero(busy: Host) -> None:
    """A restarted daemon has lower counters, which must not give negative rates."""
    before = snapshot(busy)
    alice = busy.peer()
    for number in range(10):
        alice.leads(f"new-{number}", request_id=number)

    busy.passes(2.0)
    now = snapshot(busy)
    assert rates_between(before, now) == Rates(5.0, 0.0, 0.0, 5.0)
    assert rates_between(None, now) == Rates()
    restarted = msgspec.structs.replace(now, stats=msgspec.structs.replace(now.stats, boot_id="another", begins=0))
    assert rates_between(before, restarted) == Rates()


def test_rates_count_a_call_with_a_vector_once(busy: Host) -> None:
    """Such a call begins twice."""
    before = snapshot(busy)
    busy.passes(2.0)
    stats = msgspec.structs.replace(before.stats, begins=before.stats.begins + 20, vectors_wanted=10)
    assert rates_between(before, msgspec.structs.replace(snapshot(busy), stats=stats)).calls == 5.0

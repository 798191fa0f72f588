"""The texts of stats, report, breakers and config show."""

import msgspec

from sidecard.cli.config import settings_text
from sidecard.cli.status.breakers import breakers_text
from sidecard.cli.status.report import report_text
from sidecard.cli.status.stats import stats_text
from sidecard.core.settings import BackendSettings, BudgetSettings, TaskSettings
from sidecard_client.protocol import wire
from tests.host import Host
from tests.view_files import ViewFiles, reader_of


def test_report_without_calls_says_so() -> None:
    """A report without calls is one sentence."""
    assert report_text(Host().report()) == "no calls yet, in 0 s"


def test_report_has_a_row_per_task_and_the_total() -> None:
    """A call of 2 s and a hit save half of the served time."""
    host = Host()
    peer = host.peer()
    lease = peer.leads("key", task="rag")
    host.passes(2)
    peer.completes(lease, "answer", usage=wire.Usage(cost_dollars=0.5))
    peer.asks(wire.Begin("key", task="rag"))
    text = report_text(host.report())
    rows = [line.split() for line in text.split("\n")]
    assert ["rag", "2", "1", "0", "1", "0", "0", "50.0", "%", "0.0", "%", "50.0", "%"] in rows
    assert ["all", "tasks", "4", "s", "2", "s", "2", "s", "0", "s", "0", "s", "1", "s"] in rows
    assert ["all", "tasks", "$1.00", "$0.50", "$0.50", "$0.00"] in rows


def test_settings_show_booleans_as_toml() -> None:
    """Shown values can be copied into a settings file."""
    rows = settings_text({"a.b": True, "c.d": False}, {}).split("\n")
    assert [row.split() for row in rows[1:]] == [["a.b", "true"], ["c.d", "false"]]


def test_report_without_costs_says_how_to_report_them() -> None:
    """The report shows no dollars, because zero would look like a measurement."""
    host = Host()
    peer = host.peer()
    peer.completes(peer.leads("key"), "answer")
    text = report_text(host.report())
    assert "usage=" in text
    assert "$" not in text


def test_stats_show_what_is_published() -> None:
    """`sidecard stats` shows entries, namespaces and bytes, or that there is no view."""
    stats = Host().stats()
    assert ["views", "none"] in [line.split() for line in stats_text(stats).split("\n")]
    published = msgspec.structs.replace(stats, views=1, view_bytes=2 * 1024**2, view_entries=1200)
    assert "1,200 published entries of 1 namespace, in 2.0 MiB of shared memory" in stats_text(published)


def test_report_shows_how_many_hits_were_read_from_a_view() -> None:
    """In one line; without any, there is none."""
    host = Host()
    reader, peer = reader_of(ViewFiles(host), host.peer()), host.peer()
    peer.completes(peer.leads("key"), "answer")
    for number in range(2):
        peer.asks(wire.Begin("key", id=number))

    assert "view" not in report_text(host.report())
    reader.reports((1, 1234, host.now, host.now))
    assert "1,234 of 1,236 hits were read from a view." in report_text(host.report()).split("\n")


def test_report_shows_similar_hits_separately() -> None:
    """Tasks without similar hits have no row, and unknown dollars are a dash."""
    host = Host(tasks={"faq": TaskSettings(similar=True)})
    peer = host.peer()
    lease = peer.leads("key", task="faq", vector=(1.0, 0.0), group="g")
    host.passes(2)
    peer.completes(lease, "answer")
    peer.completes(peer.leads("other"), "answer")
    assert "similar" not in report_text(host.report())
    peer.asks(wire.Begin("near", task="faq", vector=(1.0, 0.1), group="g"))
    rows = [line.split() for line in report_text(host.report()).split("\n")]
    assert ["faq", "1", "2", "s", "-"] in rows
    assert ["general", "1", "2", "s", "-"] not in rows


def test_report_shows_what_backends_read_from_their_own_caches() -> None:
    """Apart from what sidecard saved; without a price the dollars are a dash."""
    host = Host()
    peer = host.peer()
    peer.completes(peer.leads("other", task="faq"), "answer", usage=wire.Usage(prompt_tokens=9))
    assert "own caches" not in report_text(host.report())
    usage = wire.Usage(prompt_tokens=1500, cached_prompt_tokens=1200)
    peer.completes(peer.leads("key", task="rag"), "answer", usage=usage)
    text = report_text(host.report())
    assert "in no other sum" in text
    rows = [line.split() for line in text.split("\n")]
    assert ["rag", "1,200", "-"] in rows
    assert not any(row[:1] == ["faq"] and len(row) == 3 for row in rows)


def test_stats_show_every_field_of_the_wire() -> None:
    """Every counter of the protocol is shown."""
    shown = {"version", "boot_id", "uptime_seconds", "draining", "peers", "flights", "leases", "waiters"}
    shown |= {
        "cache_entries",
        "cache_bytes",
        "cache_max_bytes",
        "cache_compressed_entries",
        "cache_compressed_bytes",
        "cache_uncompressed_bytes",
        "stream_bytes",
        "memory_by_kind",
        "similar_refused",
        "memory_by_uid",
        "view_bytes",
        "view_entries",
    }  # shown in words, in the first table
    text = stats_text(Host(store="own").stats())
    words = text.split()
    fields = {field.name for field in msgspec.structs.fields(wire.Stats)} - {"id"}
    assert [name for name in sorted(fields - shown) if name not in words] == []


def test_settings_show_their_sources() -> None:
    """An unset value is a dash, which cannot be mistaken for a value."""
    rows = settings_text({"a.b": 7, "c.d": None}, {"a.b": "flag --set"}).split("\n")
    assert [row.split() for row in rows] == [["setting", "value", "from"], ["a.b", "7", "flag", "--set"], ["c.d", "-"]]


def test_breakers_show_each_backend_and_the_cause_of_open_ones() -> None:
    """Each backend has a row; a breaker that is not closed has a sentence."""
    host = Host(backends={"cloud": BackendSettings()})
    peer, operator = host.peer(), host.peer(uid=0, operator=True)
    peer.completes(peer.leads("key", backends=("local",)), "answer")
    operator.asks(wire.SetBreaker("cloud", "open", id=1))
    operator.asks(wire.GetBreakers(id=2))
    breakers = operator.receives()[-1]
    assert isinstance(breakers, wire.Breakers)
    text = breakers_text(breakers)
    assert ["cloud", "forced", "open", "remote", "0"] in [row.split()[:5] for row in text.split("\n")]
    assert ["local", "closed", "local", "1"] in [row.split()[:4] for row in text.split("\n")]
    assert "cloud: Opened by an operator" in text
    assert "local:" not in text


def test_breakers_without_backends_say_how_they_appear() -> None:
    """Without backends there is a sentence instead of an empty table."""
    assert "[backends.NAME]" in breakers_text(wire.Breakers(1, {}))


def test_report_shows_backends_models_and_budgets() -> None:
    """Spending is shown by backend and by model, and each budget has a row."""
    host = Host(budgets={"day": BudgetSettings(dollars=2.0, hard=True)})
    peer = host.peer()
    usage = wire.Usage(model="large", prompt_tokens=10, cost_dollars=0.5)
    peer.completes(peer.leads("key", backends=("cloud",)), "answer", usage=usage)
    rows = [row.split() for row in report_text(host.report()).split("\n")]
    assert ["cloud", "1", "0", "s", "10", "0", "$0.50", "$0.00"] in rows
    assert ["cloud/large", "1", "0", "s", "10", "0", "$0.50", "$0.00"] in rows
    assert ["day", "hard", "$2.00", "$0.50", "$0.00"] in [row[:5] for row in rows]

    usage = wire.Usage(model="large", prompt_tokens=40, cached_prompt_tokens=30, cost_dollars=0.25)
    peer.completes(peer.leads("other", backends=("mine",)), "answer", usage=usage)
    rows = [row.split() for row in report_text(host.report()).split("\n")]
    assert ["cloud", "1", "0", "s", "10", "-", "0", "$0.50", "$0.00"] in rows, "it has reported none"
    assert ["mine", "1", "0", "s", "40", "75.0", "%", "0", "$0.25", "$0.00"] in rows


def test_report_shows_passed_requests_and_unstored_answers_with_their_reasons() -> None:
    """Both have columns if any were counted, and rows by task and by API."""
    host = Host()
    peer = host.peer()
    peer.completes(peer.leads("key", task="rag"), "answer")
    assert "not stored" not in report_text(host.report())
    peer.asks(wire.Complete(peer.leads("other", task="rag"), msgspec.Raw(b"\xa1x"), store=False, not_stored="length"))
    passed = (wire.Passed(reason="dialect", count=3), wire.Passed(reason="state", family="ollama", task="rag"))
    peer.asks(wire.RecordMetrics(passed=passed))
    rows = [row.split() for row in report_text(host.report()).split("\n")]
    assert [row[-2:] for row in rows if row[:2] == ["rag", "2"]] == [["1", "1"]]
    assert ["rag", "not", "stored", "1", "length", "1"] in rows
    assert ["general", "passed", "3", "dialect", "3"] in rows
    assert ["all", "tasks", "passed", "4", "dialect", "3,", "state", "1"] in rows
    assert ["unknown", "dialect", "3"] in rows
    assert ["ollama", "state", "1"] in rows


def test_report_of_passed_requests_alone_shows_them() -> None:
    """An operator without calls sees why requests are not shared."""
    host = Host()
    host.peer().asks(wire.RecordMetrics(passed=(wire.Passed(reason="tool"),)))
    assert ["general", "passed", "1", "tool", "1"] in [row.split() for row in report_text(host.report()).split("\n")]

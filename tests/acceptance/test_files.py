"""The Grafana dashboard and the alert rules that ship: whole, about metrics that exist, and each alert fires and keeps quiet."""

import itertools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon, ask, poll
from tests.worker_process import PATIENCE_SECONDS

NAMES = re.compile(r"\b(sidecard_[a-z_]+)\b")
VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "5m", "$__range": "6h"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool: install prometheus")


def promtool(*arguments: object) -> str:
    """Run it; fail with what it says."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dashboard() -> Any:
    """Read the dashboard as the command writes it."""
    return json.loads(run("files", "grafana").stdout)


@pytest.fixture(scope="module")
def alerts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the rules down as an operator does."""
    file = tmp_path_factory.mktemp("rules") / "alerts.yml"
    file.write_text(run("files", "alerts").stdout)
    return file


@pytest.fixture
def exposed(daemon: Callable[..., Daemon], socket_path: str, tmp_path: Path) -> set[str]:
    """Return the names of all samples that a daemon with every sink exposes."""
    daemon(
        "--set=calls.enabled=true",
        "--set=push.url=http://127.0.0.1:9/api/v1/import",
        "--set=budgets.day.dollars=5",
        "--set=backends.local.prefix_affinity=slots",
        "--set=backends.local.max_concurrent=2",
        STATE_DIRECTORY=str(tmp_path),
    )
    with Client(socket_path, daemon_timeout=PATIENCE_SECONDS) as client:
        for _ in range(2):
            client.call(str, 1, name="f", usage=lambda _: {"model": "m", "cost_dollars": 0.5})

        # The second is held while the first processes the prompt of both.
        with ThreadPoolExecutor() as threads:
            end = threading.Event()
            calls = [threads.submit(_call_slowly, client, number, end) for number in range(2)]
            poll(lambda: client.breakers().backends["local"].held == 1, "no call is held")
            end.set()
            for call in calls:
                call.result()

    families: Any = ask(socket_path, {"op": "metrics"})["families"]
    names = {sample["name"] for family in families for sample in family["samples"]}
    # Those that nothing has happened to yet have no samples.
    return names | {f"{family['name']}_total" for family in families if family["kind"] == "counter"}


def _call_slowly(client: Client, number: int, end: threading.Event) -> None:
    def slow(_: int) -> bool:
        return end.wait(20)

    client.call(slow, number, name="g", backend="local", prefix="a long beginning " * 100)


def expressions(dashboard: Any) -> Iterator[str]:
    """Yield every query, with the variables filled in."""
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for expression in (*panels, *(one["expr"] for one in dashboard["annotations"]["list"])):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)  # noqa: PLW2901 - step by step

        assert "$" not in expression
        yield expression


def test_grafana_dashboard_is_well_formed(dashboard: Any) -> None:
    """Ids are unique, no two panels overlap, and each panel names its data source."""
    panels = dashboard["panels"]
    assert dashboard["schemaVersion"] >= 36
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        for place in (panel["gridPos"] for panel in panels)
    ]
    assert all(not one & other for one, other in itertools.combinations(places, 2))
    assert all(x < 24 for place in places for x, _ in place)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "job", "instance"}


@needs_promtool
def test_grafana_queries_are_valid_promql(dashboard: Any, tmp_path: Path) -> None:
    """Promtool accepts every query, as a rule."""
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions(dashboard))]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_dashboard_and_alerts_use_exactly_the_exposed_metrics(dashboard: Any, alerts: Path, exposed: set[str]) -> None:
    """Every used name is exposed, and every exposed name is used or listed as unused."""
    shown = {name for text in expressions(dashboard) for name in NAMES.findall(text)}
    watched = set(
        NAMES.findall(" ".join(re.findall(r"expr: (.*?)\n        (?:for|labels)", alerts.read_text(), re.DOTALL)))
    )
    assert shown - exposed == set()
    assert watched - exposed == set()
    unshown = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed} - {
        re.sub("_bucket$", "", name) for name in shown
    }
    assert unshown - watched == set()


def test_ratios_count_each_call_once(dashboard: Any, alerts: Path) -> None:
    """A call whose vector the daemon requests begins twice and counts once."""
    shares = [
        text for text in (*expressions(dashboard), alerts.read_text()) if re.search(r"/[^/]*requests_total", text)
    ]
    begins = [begin for text in shares for begin in re.findall(r'requests_total\{[^}]*op="begin"[^}]*\}', text)]
    assert len(shares) == 3
    assert all('outcome!~"(vector|prefix)_wanted"' in begin for begin in begins)


@needs_promtool
def test_alert_rules_are_valid_and_explained(alerts: Path) -> None:
    """Promtool accepts the rules; each says what it means and where to begin."""
    promtool("check", "rules", alerts)
    text = alerts.read_text()
    count = text.count("- alert:")
    assert [text.count(f"          {name}:") for name in ("summary", "description", "runbook")] == [count] * 3


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return a series of promtool's tests, one value a minute."""
    pairs = ",".join(f'{label}="{value}"' for label, value in {"job": "sidecard", "instance": "host", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


FINE = series("sidecard_build_info", "1x2000")
CALM = series("sidecard_requests_total", "0+60x2000", op="begin", outcome="hit")

CASES = {
    "SidecardDown": ([], [FINE], "10m"),
    "SidecardBreakerOpen": (
        [series("sidecard_breaker_state", "1x20", backend="cloud", state="open")],
        [series("sidecard_breaker_state", "0 1 1 1 0x20", backend="cloud", state="open")],
        "10m",
    ),
    "SidecardBreakerForced": (
        [series("sidecard_breaker_state", "1x1500", backend="cloud", state="disabled")],
        [series("sidecard_breaker_state", "1x600 0x900", backend="cloud", state="disabled")],
        "1450m",
    ),
    "SidecardBudgetNearlySpent": (
        [series("sidecard_budget_spent_dollars", "9x20", budget="day"), series("sidecard_budget_dollars", "10x20", budget="day")],
        [series("sidecard_budget_spent_dollars", "7x20", budget="day"), series("sidecard_budget_dollars", "10x20", budget="day")],
        "10m",
    ),
    "SidecardBudgetSpent": (
        [
            series("sidecard_budget_spent_dollars", "9.7x20", budget="day"),
            series("sidecard_budget_dollars", "10x20", budget="day"),
            series("sidecard_budget_rejecting", "1x20", budget="day"),
        ],
        [
            series("sidecard_budget_spent_dollars", "9.7x20 0x20", budget="day"),
            series("sidecard_budget_dollars", "10x20", budget="day"),
            series("sidecard_budget_rejecting", "0x20", budget="day"),
            series("sidecard_budget_rejected_total", "7x20", budget="day"),
        ],
        "10m",
    ),
    "SidecardRejecting": (
        [CALM, series("sidecard_rejected_total", "0+3x40", reason="saturated")],
        [CALM, series("sidecard_rejected_total", "0+30x40", reason="not_cached")],
        "20m",
    ),
    "SidecardFailing": (
        [
            series("sidecard_leases_total", "0+3x40", backend="cloud", outcome="fatal"),
            series("sidecard_leases_total", "0+2x40", backend="cloud", outcome="done"),
        ],
        [
            series("sidecard_leases_total", "0+3x40", backend="cloud", outcome="cancelled"),
            series("sidecard_leases_total", "0+1x40", backend="cloud", outcome="lost"),
            series("sidecard_leases_total", "0+2x40", backend="cloud", outcome="done"),
        ],
        "25m",
    ),
    "SidecardCallsHang": (
        [series("sidecard_hung_calls", "4x20")],
        [series("sidecard_hung_calls", "4 4 0x20")],
        "10m",
    ),
    "SidecardNotKept": (
        [series("sidecard_problem", "1x20", what="calls")],
        [
            series("sidecard_problem", "1x20", what="rejections"),
            series("sidecard_problem", "1 1 0x20", what="calls"),
            series("sidecard_problem", "1x20", what="store"),
            series("sidecard_store_up", "0x20"),
        ],
        "10m",
    ),
    "SidecardHoldersLost": (
        [series("sidecard_reelections_total", "0+10x60")],
        [series("sidecard_reelections_total", "0+1x60")],
        "40m",
    ),
    "SidecardHitRateCollapsed": (
        [CALM, series("sidecard_cache_hits_total", "0+30x1440 43200+3x500", task="rag")],
        [CALM, series("sidecard_cache_hits_total", "0+30x1440 43200+25x500", task="rag")],
        "1540m",
    ),
    "SidecardStoreDown": ([series("sidecard_store_up", "0x20")], [series("sidecard_store_up", "0 0 1x20")], "10m"),
    "SidecardDropping": (
        [series("sidecard_dropped_total", "0 0 5x20", what="calls")],
        [series("sidecard_dropped_total", "0+50x20", what="log_lines")],
        "10m",
    ),
    "SidecardPushBehind": (
        [series("sidecard_spool_bytes", "4096x60")],
        [series("sidecard_spool_bytes", "4096x30 0 4096x30")],
        "45m",
    ),
    "SidecardDrainingLong": ([series("sidecard_draining", "1x20")], [series("sidecard_draining", "1 1 0x20")], "10m"),
}  # fmt: skip
"""For each alert: series that must raise it, series that must not, and when to look."""


def test_alert_rules_have_a_test_case_each(alerts: Path) -> None:
    """Every alert has a case in which it fires."""
    assert set(re.findall(r"- alert: (\w+)", alerts.read_text())) == set(CASES)


@needs_promtool
def test_a_store_that_accepts_no_entries_fires(alerts: Path, tmp_path: Path) -> None:
    """It answers, so SidecardStoreDown does not."""
    given = [series("sidecard_problem", "1x20", what="store"), series("sidecard_store_up", "1x20")]
    query = 'count by (alertname) (ALERTS{alertstate="firing", alertname!="SidecardDown"})'
    expected = [
        {
            "expr": query,
            "eval_time": "10m",
            "exp_samples": [{"labels": '{alertname="SidecardNotKept"}', "value": 1}],
        }
    ]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": expected}
    file = tmp_path / "store.json"
    file.write_text(json.dumps({"rule_files": [str(alerts)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


@needs_promtool
def test_a_spent_budget_fires_without_a_rejection(alerts: Path, tmp_path: Path) -> None:
    """A soft budget rejects nothing."""
    given = [
        series("sidecard_budget_spent_dollars", "10x20", budget="day"),
        series("sidecard_budget_dollars", "10x20", budget="day"),
    ]
    query = 'count(ALERTS{alertname="SidecardBudgetSpent",alertstate="firing"})'
    expected = [{"expr": query, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": 1}]}]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": expected}
    file = tmp_path / "spent.json"
    file.write_text(json.dumps({"rule_files": [str(alerts)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


@needs_promtool
@pytest.mark.parametrize(
    "alert",
    [pytest.param(name, marks=pytest.mark.slow if int(at[:-1]) > 60 else ()) for name, (*_, at) in CASES.items()],
)
def test_alert_rules_fire_only_in_their_case(alert: str, alerts: Path, tmp_path: Path) -> None:
    """Promtool's own evaluation fires each alert in its case and in no other."""
    firing, quiet, at = CASES[alert]
    for name, given, fires in (("firing", firing, True), ("quiet", quiet, False)):
        # With the alerts of others beside it, which do not matter here.
        query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
        expected = [{"labels": "{}", "value": 1}] if fires else []
        test = {
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": expected}],
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"rule_files": [str(alerts)], "evaluation_interval": "1m", "tests": [test]}))
        promtool("test", "rules", file)

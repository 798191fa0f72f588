"""What is wrong appears in `health`, in the report, and as a metric: calls without an answer, and targets that cannot be written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import CallRejected, Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon, ask, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]


def problem(socket_path: str, what: str) -> bool:
    """Return the value of the problem's metric."""
    families: Any = ask(socket_path, {"op": "metrics"})["families"]
    (family,) = (family for family in families if family["name"] == "sidecard_problem")
    return any(sample["value"] for sample in family["samples"] if sample["labels"] == {"what": what})


def reasons(socket_path: str) -> str:
    """Return the problems in `health`; the report has the same."""
    found: Any = ask(socket_path, {"op": "health"})["reasons"]
    assert found == ask(socket_path, {"op": "report"})["reasons"]
    return "\n".join(found)


def test_calls_that_a_budget_rejects_are_reported(daemon: Start, socket_path: str) -> None:
    """At 97 % of a hard budget nothing fits; counts, reasons and problem are in report and health."""
    daemon("--set=budgets.day.dollars=10", "--set=budgets.day.hard=true")
    with Client(socket_path) as client:
        for number in range(2):
            client.call(str, number, name="f", usage=lambda _: {"model": "m", "cost_dollars": 4.85}, task="rag")

        for number in range(2, 12):
            with pytest.raises(CallRejected):
                client.call(str, number, name="f", task="rag")

    report: Any = ask(socket_path, {"op": "report"})
    assert report["tasks"]["rag"]["rejected_by_reason"] == {"budget": 10}
    assert (report["total"]["calls"], report["total"]["rejected"]) == (2, 10)
    assert "Calls are rejected: 10 of 12 in the last" in reasons(socket_path)
    assert "The budget 'day' rejects calls" in reasons(socket_path)
    assert problem(socket_path, "rejections")
    text = run("report", "--socket", socket_path).stdout
    assert "budget 10" in text
    assert "Problems:\n- The budget 'day' rejects calls" in text


def test_calls_that_fail_fatally_are_reported(daemon: Start, socket_path: str) -> None:
    """No breaker opens for them."""
    daemon()

    def refused(_: int) -> None:
        raise ValueError("no such model")

    with Client(socket_path) as client:
        for number in range(6):
            with pytest.raises(ValueError, match="no such model"):
                client.call({"cloud": refused}, number, name="f")

    assert ask(socket_path, {"op": "report"})["total"]["failed"] == 6  # type: ignore[index]
    assert "Calls failed in the last" in reasons(socket_path)
    assert "6 of 6 of backend 'cloud' (fatal 6)." in reasons(socket_path)
    assert problem(socket_path, "failures")
    assert run("health", "--socket", socket_path).returncode == 1


def test_a_report_of_nothing_but_rejections_has_them(daemon: Start, socket_path: str) -> None:
    """The report is not empty only because no call was made."""
    daemon("--set=backends.cloud.locality=remote", "--set=sovereign.enabled=true")
    with Client(socket_path) as client:
        for number in range(5):
            with pytest.raises(CallRejected):
                client.call({"cloud": str}, number, name="f")

    assert "sovereign 5" in run("report", "--socket", socket_path).stdout
    assert "sovereign 5" in reasons(socket_path)


def test_a_push_target_that_is_away_is_reported(daemon: Start, socket_path: str) -> None:
    """Until it answers."""
    daemon("--set=push.url=http://127.0.0.1:9/api/v1/import", "--set=push.interval_seconds=0.1")
    poll(lambda: problem(socket_path, "push"), "a target that is away is no problem")
    assert "Metrics are not pushed to http://127.0.0.1:9/api/v1/import: " in reasons(socket_path)


@pytest.mark.slow
def test_a_ledger_that_cannot_be_written_is_reported(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """A directory in place of its new file stands for a disk that accepts no files."""
    (tmp_path / "ledger.json.new").mkdir()
    daemon(STATE_DIRECTORY=str(tmp_path))
    with Client(socket_path) as client:
        client.call(str, 1, name="f")

    poll(lambda: problem(socket_path, "ledger"), "a ledger that is not written is no problem")
    assert "Report, budgets and breakers are not saved: cannot write " in reasons(socket_path)
    (tmp_path / "ledger.json.new").rmdir()
    poll(lambda: not problem(socket_path, "ledger"), "a ledger that is written again is a problem")


def test_an_unusable_state_directory_is_reported(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """The daemon serves, and calls are not logged either."""
    daemon(STATE_DIRECTORY=str(tmp_path / "missing"), SIDECARD_CALLS_ENABLED="true")
    assert problem(socket_path, "state")
    assert problem(socket_path, "calls")
    assert "No state is kept" in reasons(socket_path)
    assert "Calls are not logged" in reasons(socket_path)

"""Floods of invented names against a real daemon: kills, restarts, and what its ledger keeps."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, ask, poll

StartDaemon = Callable[..., Daemon]

NAMES = 600
BATCH = 50
LEDGER_BYTES = 512 * 1024


@contextmanager
def asking(path: str) -> Iterator[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """Connect once, and ask many requests at a time."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
        connection.settimeout(20)
        connection.connect(path)

        def ask_all(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
            connection.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
            return [json.loads(lines.readline()) for _request in requests]

        yield ask_all


def flood(path: str, first: int, count: int, *, retry_after_seconds: float | None = None) -> None:
    """Call so many backends, models and tasks once each: all calls succeed, or all backends request a pause."""
    with asking(path) as ask_all:
        for start in range(first, first + count, BATCH):
            names = [f"name{number}" for number in range(start, start + BATCH)]
            begins = [{"op": "begin", "id": at, "task": name, "backends": [name]} for at, name in enumerate(names)]
            leases = [reply["lease"] for reply in ask_all(begins)]
            if retry_after_seconds is not None:
                ends = [{"op": "fail", "lease": lease, "retry_after_seconds": retry_after_seconds} for lease in leases]
            else:
                usage = {"prompt_tokens": 2**53, "cost_dollars": 1}
                ends = [
                    {"op": "complete", "lease": lease, "value": 1, "usage": {"model": name, **usage}}
                    for lease, name in zip(leases, names, strict=True)
                ]

            assert {reply["type"] for reply in ask_all(ends)} <= {"stored", "ok"}


def report_of(path: str) -> dict[str, Any]:
    """Return the report."""
    reply: dict[str, Any] = ask(path, {"op": "report"})
    assert reply["type"] == "report", reply
    return reply


def ledger_of(directory: Path) -> dict[str, Any]:
    """Return the file's content."""
    ledger: dict[str, Any] = json.loads((directory / "ledger.json").read_bytes())
    return ledger


def wait_for_ledger(directory: Path, calls: int) -> None:
    """Wait until the file has so many calls."""

    def is_written() -> bool:
        if not (directory / "ledger.json").exists():
            return False

        return sum(int(spending["calls"]) for spending in ledger_of(directory)["backends"].values()) == calls

    poll(is_written, f"no ledger of {calls} calls was written")


@pytest.mark.slow
def test_totals_of_a_flood_survive_a_kill_in_a_small_ledger(
    daemon: StartDaemon, socket_path: str, tmp_path: Path
) -> None:
    """Twice as many names as there is room for, killed and restarted twice: tables are bounded and sums are whole."""
    running = daemon(STATE_DIRECTORY=str(tmp_path))
    for run in (1, 2):
        flood(socket_path, NAMES * run, NAMES)
        wait_for_ledger(tmp_path, NAMES * run)
        running.kill()
        running.start_again()
        report = report_of(socket_path)
        assert len(report["tasks"]) <= 257
        assert len(report["backends"]) <= 257
        assert len(report["models"]) <= 513
        assert report["total"]["upstream_calls"] == report["total"]["billed_dollars"] == NAMES * run
        for table in ("backends", "models"):
            assert sum(spending["dollars"] for spending in report[table].values()) == NAMES * run

        assert sum(spending["prompt_tokens"] for spending in report["backends"].values()) <= 2**63 - 1 + 257 * 2**53
        assert (tmp_path / "ledger.json").stat().st_size < LEDGER_BYTES

    assert f"name{3 * NAMES - 1}" in report_of(socket_path)["backends"]
    assert running.said("ledger repaired") == []


@pytest.mark.slow
def test_unused_names_leave_memory_and_ledger(daemon: StartDaemon, socket_path: str, tmp_path: Path) -> None:
    """Also after a kill, without a call that would write the ledger; the totals stay."""
    environ = {"STATE_DIRECTORY": str(tmp_path), "SIDECARD_LIMITS_FORGET_SECONDS": "2"}
    running = daemon(**environ)
    flood(socket_path, 0, BATCH)
    wait_for_ledger(tmp_path, BATCH)
    running.kill()
    running.start_again()
    poll(lambda: list(ledger_of(tmp_path)["backends"]) == ["(other)"], "names are still in the ledger", seconds=40)
    report = report_of(socket_path)
    assert list(report["tasks"]) == list(report["backends"]) == list(report["models"]) == ["(other)"]
    assert report["total"]["upstream_calls"] == report["models"]["(other)"]["calls"] == BATCH


@pytest.mark.parametrize("restart", [False, True])
def test_names_work_normally_after_a_flood_of_broken_backends(
    restart: bool, daemon: StartDaemon, socket_path: str, tmp_path: Path
) -> None:
    """Each has requested a pause of an hour. Later names have breakers of their own, and a budget counts them."""
    budget = json.dumps({"day": {"dollars": 100.0}})
    running = daemon(STATE_DIRECTORY=str(tmp_path), SIDECARD_BUDGETS=budget)
    flood(socket_path, 0, NAMES, retry_after_seconds=3600)
    if restart:
        running.terminate()
        running.start_again()

    flood(socket_path, NAMES, BATCH)
    flood(socket_path, 2 * NAMES, BATCH, retry_after_seconds=3600)
    flood(socket_path, 3 * NAMES, BATCH)
    rejected = ask(socket_path, {"op": "begin", "key": None, "backends": [f"name{2 * NAMES + BATCH - 1}"]})
    assert (rejected["type"], rejected["reason"]) == ("rejected", "breaker_open")
    both = {"op": "begin", "key": None, "backends": [f"name{2 * NAMES + BATCH - 1}", "fine"]}
    assert ask(socket_path, both)["backend"] == "fine"
    breakers: Any = ask(socket_path, {"op": "breakers"})["backends"]
    assert "(other)" not in breakers
    assert len(breakers) <= 257
    assert report_of(socket_path)["budgets"]["day"]["spent_dollars"] == 2 * BATCH

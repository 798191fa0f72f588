"""The inspecting commands, as a shell runs them, against a real daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecard_client import Client
from tests.daemons import Daemon, poll

Start = Callable[..., Daemon]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with no settings but ``environ``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecard", *arguments],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def answer(question: str) -> str:
    """Stand for a model."""
    return f"answer to {question}"


def down(_: str) -> str:
    """Stand for a backend that is down."""
    raise ConnectionError


def test_ping_finds_the_daemon_by_flag_and_by_environment(daemon: Start, socket_path: str) -> None:
    """Both ways to say where it is."""
    daemon()
    by_flag, by_environment = run("ping", "--socket", socket_path), run("ping", SIDECARD_SOCKET=socket_path)
    assert (by_flag.returncode, by_environment.returncode) == (0, 0)
    assert f"answered at {socket_path}" in by_flag.stdout


def test_every_asking_command_says_69_and_where_it_looked_without_a_daemon(socket_path: str) -> None:
    """What to start, and nothing on standard output that a program could take for an answer."""
    for command in (
        ["ping"],
        ["stats"],
        ["report"],
        ["metrics"],
        ["log-level", "debug"],
        ["reload"],
        ["purge", "--all"],
        ["watch"],
        ["config", "show", "--running"],
    ):
        result = run(*command, "--socket", socket_path, "--json")
        assert (result.returncode, result.stdout) == (69, ""), command
        assert socket_path in result.stderr
        assert "sidecard serve" in result.stderr


def test_report_tells_calls_after_it_told_that_there_are_none(daemon: Start, socket_path: str) -> None:
    """The empty state in words; then the ledger, in JSON with the wire's own fields."""
    daemon()
    assert run("report", "--socket", socket_path).stdout.startswith("no calls yet")
    with Client(socket_path) as client:
        for _ in range(4):
            client.call(answer, "why?", task="rag")

    report = json.loads(run("report", "--socket", socket_path, "--json").stdout)
    assert (report["total"]["calls"], report["tasks"]["rag"]["hits"]) == (4, 3)
    assert report["total"]["hit_rate"] == 0.75
    assert "75.0 %" in run("report", "--socket", socket_path).stdout


def test_stats_agree_in_words_and_in_json(daemon: Start, socket_path: str) -> None:
    """The same counter, both ways."""
    daemon()
    with Client(socket_path) as client:
        client.put("key", "value")

    assert json.loads(run("stats", "--socket", socket_path, "--json").stdout)["cache_entries"] == 1
    assert ["entries", "1"] in [line.split() for line in run("stats", "--socket", socket_path).stdout.split("\n")]


def test_metrics_are_written_as_scrapers_read_them(daemon: Start, socket_path: str) -> None:
    """In both formats, the apps' beside the daemon's own, and each passes Prometheus' own check."""
    daemon()
    with Client(socket_path) as client:
        client.call(answer, "why?")
        client.counter("pages", "Pages read.").labels(kind='a\n"b\\').inc(2)
        assert client.flush_metrics(5.0)

    text = run("metrics", "--socket", socket_path)
    openmetrics = run("metrics", "--socket", socket_path, "--format", "openmetrics")
    told = json.loads(run("metrics", "--socket", socket_path, "--json").stdout)
    assert (text.returncode, openmetrics.returncode) == (0, 0)
    assert 'pages_total{kind="a\\n\\"b\\\\"} 2.0' in text.stdout
    assert openmetrics.stdout.endswith("# EOF\n")
    assert {"pages", "sidecard_requests"} <= {family["name"] for family in told["families"]}
    families = text_string_to_metric_families(openmetrics.stdout)  # type: ignore[no-untyped-call]  # it has no types
    assert "pages" in {family.name for family in families}
    if shutil.which("promtool") is not None:
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_log_level_is_set_and_said(daemon: Start, socket_path: str) -> None:
    """A level that is none is a mistake in usage."""
    one = daemon()
    done = run("log-level", "--socket", socket_path, "debug")
    assert (done.returncode, done.stdout) == (0, "the log says what is of level debug and above\n")
    poll(lambda: "log level set" in one.output(), "nothing said")
    assert run("log-level", "--socket", socket_path, "loud").returncode == 2


def test_purge_removes_what_it_is_told_to_and_nothing_by_default(daemon: Start, socket_path: str) -> None:
    """By tag; all only where that is said; both or neither is a mistake in usage."""
    daemon()
    with Client(socket_path) as client:
        client.put("one", 1, tags=["odd"])
        client.put("two", 2)
        assert run("purge", "--socket", socket_path).returncode == 2
        assert run("purge", "--socket", socket_path, "--all", "--tag", "odd").returncode == 2
        assert (client.get("one"), client.get("two")) == (1, 2)
        assert run("purge", "--socket", socket_path, "--tag", "odd", "--task", "rag").stdout == "0 entries removed\n"
        assert run("purge", "--socket", socket_path, "--tag", "odd").stdout == "1 entry removed\n"
        assert (client.get("one"), client.get("two")) == (None, 2)
        assert json.loads(run("purge", "--socket", socket_path, "--all", "--json").stdout) == {"count": 1}
        assert client.get("two") is None


def test_breakers_are_shown_and_set(daemon: Start, socket_path: str) -> None:
    """Exit code 1 says that a backend is not fine; an operator's own hold is no fault."""
    daemon("--set", "backends.cloud.breaker.min_calls=1")
    with Client(socket_path) as client, pytest.raises(ConnectionError):
        client.call(down, "a", backend="cloud")

    shown = run("breakers", "--socket", socket_path)
    assert shown.returncode == 1
    assert "cloud" in shown.stdout
    assert "Too many calls failed" in shown.stdout
    assert run("breakers", "open", "cloud", "--socket", socket_path).returncode == 0
    as_json = run("breakers", "--json", "--socket", socket_path)
    assert as_json.returncode == 0
    assert json.loads(as_json.stdout)["backends"]["cloud"]["state"] == "forced_open"
    assert run("breakers", "close", "cloud", "--socket", socket_path).returncode == 0
    assert "closed" in run("breakers", "--socket", socket_path).stdout


def test_breaker_without_a_backend_is_a_mistake_in_usage(daemon: Start, socket_path: str) -> None:
    """The sentence says how it should read."""
    daemon()
    refused = run("breakers", "open", "--socket", socket_path)
    assert refused.returncode == 2
    assert "sidecard breakers open BACKEND" in refused.stderr


def test_config_show_tells_where_values_come_from(daemon: Start, socket_path: str) -> None:
    """Of the settings as they would be, and of the daemon as it runs."""
    daemon("--set", "cache.ttl_seconds=7")
    would_be = json.loads(run("config", "show", "--json", SIDECARD_CACHE_TTL_SECONDS="9").stdout)
    assert would_be["settings"]["cache.ttl_seconds"] == 9
    assert "SIDECARD_CACHE_TTL_SECONDS" in would_be["origins"]["cache.ttl_seconds"]
    running = json.loads(run("config", "show", "--running", "--json", "--socket", socket_path).stdout)
    assert running["settings"]["cache.ttl_seconds"] == 7
    assert "--set" in running["origins"]["cache.ttl_seconds"]


def test_config_check_names_every_problem_and_exits_78() -> None:
    """For people on standard error, for programs as JSON; fine settings are fine."""
    wrong = {"SIDECARD_CACHE_TTL_SECONDS": "soon", "SIDECARD_LOG_LEVEL": "loud"}
    told = run("config", "check", **wrong)
    assert (told.returncode, told.stdout) == (78, "")
    assert "SIDECARD_CACHE_TTL_SECONDS" in told.stderr
    assert "SIDECARD_LOG_LEVEL" in told.stderr
    listed = run("config", "check", "--json", **wrong)
    assert listed.returncode == 78
    assert len(json.loads(listed.stdout)["problems"]) == 2
    assert run("config", "check").returncode == 0


def test_socket_path_that_is_too_long_is_a_mistake_in_usage() -> None:
    """No daemon can be there, so 69 would be the wrong hint."""
    result = run("ping", "--socket", "/tmp/" + "x" * 200)
    assert result.returncode == 2
    assert "107 bytes" in result.stderr


def test_reader_that_goes_away_is_no_fault(daemon: Start, socket_path: str) -> None:
    """``sidecard stats | true`` prints no traceback."""
    daemon()
    command = f"{sys.executable} -m sidecard stats --socket {socket_path} | true"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_bench_leaves_nothing_behind(socket_directory: Path, number: signal.Signals) -> None:
    """Its directory is gone, and with it the socket of a daemon that has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecard", "bench", "--quick"],
        env=os.environ | {"TMPDIR": str(socket_directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        poll(lambda: bool(list(socket_directory.glob("*/sidecard.sock"))), "the bench did not start its daemon")
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, said.split("\n")[-2]) == (
        130,
        "sidecard: interrupted; all processes of the bench have ended",
    )
    assert list(socket_directory.iterdir()) == []
